"""The settings of torch that all threads of a process share, and that decide which numbers a program gets.

One table lists them: the default dtype, the choice of attention kernels, deterministic algorithms, reduced precision.
Modes that belong to a thread (grad, autocast) are not among them (``caller``).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import _C

# Getter and setter by name, for some of them are missing in some versions and builds of torch.
_NAMES = (
    ("_get_cudnn_enabled", "_set_cudnn_enabled"),
    ("_get_cudnn_benchmark", "_set_cudnn_benchmark"),
    ("_cuda_get_cudnn_benchmark_limit", "_cuda_set_cudnn_benchmark_limit"),
    ("_get_cudnn_deterministic", "_set_cudnn_deterministic"),
    ("_get_cudnn_depthwise_kernel", "_set_cudnn_depthwise_kernel"),
    ("_get_mkldnn_enabled", "_set_mkldnn_enabled"),
    ("_get_mkldnn_deterministic", "_set_mkldnn_deterministic"),
    ("_get_cublas_allow_fp16_accumulation", "_set_cublas_allow_fp16_accumulation"),
    ("_get_math_sdp_allow_fp16_bf16_reduction", "_set_math_sdp_allow_fp16_bf16_reduction"),
    ("_get_flash_sdp_enabled", "_set_sdp_use_flash"),
    ("_get_mem_efficient_sdp_enabled", "_set_sdp_use_mem_efficient"),
    ("_get_math_sdp_enabled", "_set_sdp_use_math"),
    ("_get_cudnn_sdp_enabled", "_set_sdp_use_cudnn"),
    ("_get_overrideable_sdp_enabled", "_set_sdp_use_overrideable"),
    ("_get_fa3_sdp_enabled", "_set_sdp_use_fa3"),
    ("_get_sdp_priority_order", "_set_sdp_priority_order"),
    ("_get_deterministic_fill_uninitialized_memory", "_set_deterministic_fill_uninitialized_memory"),
    ("_get_blas_preferred_backend", "_set_blas_preferred_backend"),
)
_NAMES_OF_PAIRS = (  # their setters take each value of the pair
    ("_get_cublas_allow_fp16_reduced_precision_reduction", "_set_cublas_allow_fp16_reduced_precision_reduction"),
    ("_get_cublas_allow_bf16_reduced_precision_reduction", "_set_cublas_allow_bf16_reduced_precision_reduction"),
)


def _present(names: tuple[tuple[str, str], ...]) -> list[tuple[Callable[[], Any], Callable[..., Any]]]:
    return [(getattr(_C, get), getattr(_C, put)) for get, put in names if hasattr(_C, get) and hasattr(_C, put)]


def _put_pair(put: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda pair: put(*pair) if isinstance(pair, tuple) else put(pair)


def _deterministic() -> tuple[bool, bool]:
    return _C._get_deterministic_algorithms(), _C._get_deterministic_algorithms_warn_only()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    _C._set_deterministic_algorithms(value[0], warn_only=value[1])


_TABLE: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (_deterministic, _set_deterministic),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    *_present(_NAMES),
    *((get, _put_pair(put)) for get, put in _present(_NAMES_OF_PAIRS)),
)

_PRECISIONS = (  # a parent before its children, which follow it unless they have a value of their own
    ("generic", "all"),
    ("cuda", "all"),
    ("cuda", "matmul"),
    ("cuda", "conv"),
    ("cuda", "rnn"),
    ("mkldnn", "all"),
    ("mkldnn", "matmul"),
    ("mkldnn", "conv"),
    ("mkldnn", "rnn"),
)
# The older calls for the same. They refuse to answer where only the newer ones were used.
_OLDER: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (_C._get_float32_matmul_precision, _C._set_float32_matmul_precision),
    (_C._get_cudnn_allow_tf32, _C._set_cudnn_allow_tf32),
)


def settings_in_words() -> dict[str, str]:
    """Return the settings by name, each as it prints."""
    precision = zip(_PRECISIONS, Precision().mark(), strict=True)
    return {get.__name__.lstrip("_"): str(get()) for get, _ in _TABLE} | {
        f"precision of {backend} {op}": str(value) for (backend, op), value in precision
    }


def _or_none(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except RuntimeError:
        return None


class Flags:
    """The settings of the table. Their mark is their value."""

    def mark(self) -> object:
        """Return the value of each."""
        return tuple([get() for get, _ in _TABLE])

    def read(self) -> tuple[object, Any]:
        """Return the mark and the values, which are the same."""
        mark = self.mark()
        return mark, mark

    def put(self, values: Any, over: Any) -> None:
        """Set those that differ from ``values``."""
        for (get, put), value in zip(_TABLE, values, strict=True):
            if get() != value:
                put(value)


class Precision:
    """The precision of float32 products and convolutions (TF32), by torch's older and newer calls."""

    def mark(self) -> tuple[str, ...]:
        """Return what the newer calls tell: it decides about the numbers."""
        return tuple([_C._get_fp32_precision_getter(backend, op) for backend, op in _PRECISIONS])

    def read(self) -> tuple[object, Any]:
        """Return the mark, and with it what the older calls tell: None for one that refuses to."""
        mark = self.mark()
        return mark, ([_or_none(get) for get, _ in _OLDER], mark)

    def put(self, values: Any, over: Any) -> None:
        """Set what differs, by the older calls first, for they set the newer ones too."""
        older, newer = values
        for (get, put), value in zip(_OLDER, older, strict=True):
            if value is not None and _or_none(get) != value:
                put(value)
        for (backend, op), value in zip(_PRECISIONS, newer, strict=True):
            if _C._get_fp32_precision_getter(backend, op) != value:
                _C._set_fp32_precision_setter(backend, op, value)
