"""The print of a model: what must be equal in two processes for a session of one to go on in the other.

It is taken of the contents: the class, the configuration, and the digest of each parameter and of each buffer that
is saved with them. A digest is computed once, where the tensor is, and again when torch has counted a write to it.
Writes through ``tensor.data`` are not counted. Tensors of inference mode count none, and are computed each time.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from djinn.state.digest import digest_of
from djinn.state.tensors import plain_torch

_OF_NO_CONCERN = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


class ModelPrint:
    """Takes the print of ``model``, and remembers the digests."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: dict[str, tuple[object, str]] = {}

    def take(self) -> dict[str, str]:
        """Return what the print consists of, in words by name."""
        with plain_torch(), torch.no_grad():
            tensors = {**dict(self._model.named_parameters()), **dict(_buffers(self._model, saved=True))}
            # A call may write into the other ones. But a model that was converted to a dtype has them in it too.
            others = {name: f"{buffer.dtype}" for name, buffer in _buffers(self._model, saved=False)}
            words = {name: self._in_words(name, tensor) for name, tensor in sorted(tensors.items())}
            return {"class": type(self._model).__name__, **self._settings()} | words | others

    def _settings(self) -> dict[str, str]:
        config: Any = getattr(self._model, "config", None)
        settings: dict[str, object] = {}
        if callable(getattr(config, "to_dict", None)):
            settings = {key: value for key, value in config.to_dict().items() if key not in _OF_NO_CONCERN}
        generation: Any = getattr(self._model, "generation_config", None)
        if callable(getattr(generation, "to_dict", None)):
            settings["of generation"] = {
                key: value for key, value in generation.to_dict().items() if key not in _OF_NO_CONCERN
            }
        words = json.dumps(settings, sort_keys=True, default=str)
        training = sum(module.training for module in self._model.modules())
        return {
            "configuration": hashlib.sha256(words.encode()).hexdigest()[:32],
            "attention kernels": str(getattr(config, "_attn_implementation", None)),
            "modules in training mode": str(training),
        }

    def _in_words(self, name: str, tensor: torch.Tensor) -> str:
        written = object() if tensor.is_inference() else tensor._version
        stamp = (id(tensor), tensor.data_ptr(), written, tensor.shape, tensor.dtype)
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            known = self._known[name] = (stamp, f"{tensor.dtype} {list(tensor.shape)} {digest_of(raw)}")
        return known[1]


def _buffers(model: nn.Module, *, saved: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers that are ``saved`` with the weights, or the others, by name."""
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and saved is (name not in module._non_persistent_buffers_set):
                yield f"{path}.{name}".lstrip("."), buffer
