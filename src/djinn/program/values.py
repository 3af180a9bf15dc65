"""What a call of a model is given and returns, as a file can hold it: tensors by their bytes, the rest in words.

Containers are followed as in ``containers``, but for caches of transformers: what these hold is state (``tape``).
Random generators, NumPy's arrays and what decides about generation are described too. Of any other object only its type
is.
"""

import copy
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from djinn.memory.placement import raw_bytes
from djinn.state.containers import contents_of, is_cache, is_container, is_plain
from djinn.state.discovery import view_of
from djinn.state.static import each_in, elements_of, instance_dict, module_of, name_of
from djinn.state.storages import NamedView
from djinn.state.tensors import is_tensor, not_swappable, plain_torch, storage_of

_GENERATORS_OF_NUMPY = ("numpy.random._generator", "numpy.random.mtrand")  # Generator, and the older RandomState
_OF_GENERATION = "transformers.generation."  # its settings, processors and criteria decide about the result


@dataclass(frozen=True, kw_only=True)
class KeptStorage:
    """The bytes of one storage in host memory (uint8, shape [nbytes]), and the tensors that are views of it."""

    raw: torch.Tensor
    views: tuple[NamedView, ...]


def leaves_of(value: object) -> list[object]:
    """Return what is in the containers of ``value`` and is none itself, each object once, always in the same order."""
    return [part for part in each_in(value, _inner_of) if not is_container(type(part)) or is_cache(type(part))]


def _inner_of(part: object) -> Iterable[object]:
    cls = type(part)
    if not is_container(cls) or is_cache(cls):
        return ()
    return [inner for _, inner in reversed(_sorted_in(part))]


def _sorted_in(container: object) -> list[tuple[object, object]]:
    """Return what ``container`` holds, by name: the order of a dictionary may come from a set's, which differs."""
    contents = contents_of(container)
    return sorted((*contents.attributes, *contents.items), key=lambda one: _word_for(one[0]))


def _word_for(key: object) -> str:
    return f"{key:>12}" if type(key) is int else repr(key) if is_plain(key) else ""


def is_known(leaf: object) -> bool:
    """Whether a file can hold ``leaf``: plain data, or a tensor whose bytes are in a storage of its own."""
    return is_plain(leaf) or (is_tensor(leaf) and not_swappable(leaf) is None)


def keep(tensors: Iterable[torch.Tensor]) -> tuple[KeptStorage, ...]:
    """Copy ``tensors`` to host memory, each storage once; their names are their positions."""
    return tuple(
        KeptStorage(raw=raw_bytes(storage).to("cpu", copy=True), views=views) for storage, views in _grouped(tensors)
    )


def give(tensors: Iterable[torch.Tensor], kept: tuple[KeptStorage, ...]) -> bool:
    """Write what was kept into ``tensors``; False, and nothing is written, if they lie otherwise than those did."""
    storages = _grouped(tensors)
    if [(storage.nbytes(), views) for storage, views in storages] != [(one.raw.numel(), one.views) for one in kept]:
        return False
    for (storage, _), one in zip(storages, kept, strict=True):
        raw_bytes(storage).copy_(one.raw)
    return True


def _grouped(tensors: Iterable[torch.Tensor]) -> list[tuple[torch.UntypedStorage, tuple[NamedView, ...]]]:
    """Return the storages of ``tensors``, each with its views, named by position."""
    grouped: dict[int, tuple[torch.UntypedStorage, list[NamedView]]] = {}
    for position, tensor in enumerate(tensors):
        storage = storage_of(tensor)
        assert storage is not None
        grouped.setdefault(storage._cdata, (storage, []))[1].append(view_of(str(position), tensor))
    return [(storage, tuple(views)) for storage, views in grouped.values()]


def described(args: tuple[Any, ...], kwargs: dict[str, Any], *, caches: bool = False) -> dict[str, str]:
    """Describe each argument, and each value in its containers, by name.

    That is a digest of the contents for a tensor, and plain data as it prints. Of caches the lengths are described, and
    with ``caches`` all that they hold.
    """
    named = [
        *((f"args.{at}", value) for at, value in enumerate(args)),
        *((str(key), one) for key, one in kwargs.items()),
    ]
    with plain_torch():
        return {name: words for at, value in named for name, words in _descriptions(at, value, (), caches=caches)}


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say which name is the first that is described otherwise ``now`` than ``before``; an empty string for none."""
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            was, is_now = (short(words.get(name, "not there")) for words in (before, now))
            return f"{name} is {is_now}; in the first run it was {was}"
    return ""


def short(words: str) -> str:
    """Return ``words`` with at most 80 letters."""
    return words if len(words) <= 80 else f"{words[:77]}..."


def _descriptions(name: str, value: object, above: tuple[int, ...], *, caches: bool) -> Iterator[tuple[str, str]]:
    """Yield names and descriptions of ``value``, in containers with the ids ``above``, and of what is in it."""
    cls = type(value)
    inner: Iterable[tuple[object, object]] = ()
    if is_plain(value):
        words = repr(value)
    elif is_tensor(value) and is_known(value):
        # A copy: memory of which numpy has a view cannot be swapped out any more.
        plain = value.detach().to("cpu", copy=True).resolve_conj().resolve_neg().contiguous().reshape(-1)
        words = f"{value.dtype} {list(value.shape)} {_digest(plain.view(torch.uint8).numpy().data)}"
    elif is_cache(cls) and not caches:
        words = f"{name_of(cls)} of {lengths_of(value)} tokens"
    else:
        words = f"{name_of(cls)}{_of_other_kinds(value)}"
        if id(value) in above:
            words = f"{name_of(cls)} around it"
        elif is_container(cls):
            inner = _sorted_in(value)
        elif module_of(cls).startswith(_OF_GENERATION):
            inner = [(key, one) for key, one in (instance_dict(value) or {}).items() if _is_a_setting(key)]
    yield name, words
    for key, one in inner:
        yield from _descriptions(f"{name}.{key if is_plain(key) else ''}", one, (*above, id(value)), caches=caches)


def _is_a_setting(key: object) -> bool:
    return not str(key).startswith("_") and key != "transformers_version"


def _of_other_kinds(value: Any) -> str:
    """Describe what objects of Python's, torch's and NumPy's hold, of which the type alone says little."""
    cls = type(value)
    if cls in (set, frozenset) and all(map(is_plain, value)):
        return f"({', '.join(sorted(map(repr, value)))})"
    if cls is torch.Generator:
        return f" {_digest(value.get_state().numpy().data)}"
    if cls is random.Random:
        return f" {_digest(repr(value.getstate()).encode())}"
    if module_of(cls) == "numpy" and name_of(cls) == "ndarray" and not value.dtype.hasobject:
        return f" {value.dtype} {list(value.shape)} {_digest(value.tobytes())}"
    if module_of(cls) in _GENERATORS_OF_NUMPY:
        held = value.get_state(legacy=False) if name_of(cls) == "RandomState" else value.bit_generator.state
        return f" {_digest(repr(held).encode())}"
    return ""


def another(value: Any) -> Any:
    """Return another random generator, array or set with the contents of ``value``; for any other object None."""
    cls = type(value)
    if cls is torch.Generator:
        generator = torch.Generator(value.device)
        generator.set_state(value.get_state())
        return generator
    if cls is random.Random or module_of(cls) in _GENERATORS_OF_NUMPY:
        return copy.deepcopy(value)
    if cls is set:
        return value.copy()
    if module_of(cls) == "numpy" and name_of(cls) == "ndarray":
        return value.copy(order="K")
    return None


def _digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def cache_layers(cache: object) -> tuple[Any, ...]:
    """Return the layers of a cache of transformers."""
    return elements_of((instance_dict(cache) or {}).get("layers"))


def lengths_of(cache: object) -> list[int]:
    """Return how many tokens each layer of ``cache`` holds, as far as its keys tell; -1 where they do not."""
    keys = [(instance_dict(layer) or {}).get("keys") for layer in cache_layers(cache)]
    return [int(one.shape[-2]) if is_tensor(one) and one.dim() > 1 else 0 if one is None else -1 for one in keys]
