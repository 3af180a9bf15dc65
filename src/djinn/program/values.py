"""What a call of a model is given and returns, as a file can hold it: tensors by their bytes, the rest in words.

Containers are followed as in ``containers``, but for caches of transformers: what these hold is state (``tape``).
Random generators, NumPy's arrays and what decides about generation are described too. Of any other object only its type
is. What is described a fork gets a copy of, or is refused for (``durable.fork``).
"""

import functools
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from djinn.memory.placement import raw_bytes
from djinn.program.generators import is_carried
from djinn.state.containers import contents_of, is_all_attributes, is_cache, is_container, is_plain
from djinn.state.discovery import view_of
from djinn.state.static import bases_of, each_in, elements_of, instance_dict, is_named, module_of, name_of
from djinn.state.storages import NamedView
from djinn.state.tensors import is_tensor, not_swappable, plain_torch, storage_of

_CONFIGURATION = "transformers.generation.configuration_utils"
_KINDS = frozenset(map(id, (set, frozenset, functools.partial, random.Random, torch.Generator)))
_RANDOM_OF_NUMPY = "numpy.random."  # Generator, the older RandomState, and the bit generators behind both
_MANY = 1000  # entries, to each of which a name and words of its own would take some microseconds
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
    attributes = contents.attributes
    if issubclass(type(container), dict):  # an output of transformers has its items as attributes too, or None there
        items = {key: value for key, value in contents.items if type(key) is str}
        attributes = tuple((name, value) for name, value in attributes if items.get(str(name)) is not value)
    return sorted((*attributes, *contents.items), key=lambda one: _word_for(one[0]))


def _word_for(key: object) -> str:
    return f"{key:>12}" if type(key) is int else repr(key) if is_plain(key) else ""


def is_followed(cls: type) -> bool:
    """Whether objects of ``cls`` are described by what they hold: containers, and what decides about generation."""
    return is_container(cls) or (
        any(module_of(base).startswith(_OF_GENERATION) for base in bases_of(cls)) and is_all_attributes(cls)
    )


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
    with plain_torch():
        return {
            name: f"{name_of(type(value))} around it" if around else _words_for(value, caches=caches)
            for name, value, around in parts_by_name(args, kwargs, caches=caches)
        }


def parts_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, caches: bool, closed: tuple[int, ...] = ()
) -> Iterator[tuple[str, object, bool]]:
    """Yield each argument and each value in its containers: its name, itself, and whether it is around itself.

    Objects with the ids ``closed`` are not followed.
    """
    named = [
        *((f"args.{at}", value) for at, value in enumerate(args)),
        *((str(key), one) for key, one in kwargs.items()),
    ]
    for name, value in named:
        yield from _parts(name, value, closed, caches=caches)


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


def _parts(name: str, value: object, above: tuple[int, ...], *, caches: bool) -> Iterator[tuple[str, object, bool]]:
    """Yield ``value``, in containers with the ids ``above``, and what is in it."""
    cls = type(value)
    yield name, value, id(value) in above
    if is_plain(value) or is_tensor(value) or id(value) in above or not is_followed(cls) or _is_long_and_plain(value):
        return
    inner = _sorted_in(value) if caches or not is_cache(cls) else []
    if is_named(cls, "GenerationConfig", _CONFIGURATION):
        inner = [(key, one) for key, one in inner if _is_a_setting(key)]
    for key, one in inner:
        yield from _parts(f"{name}.{key if is_plain(key) else ''}", one, (*above, id(value)), caches=caches)


def _is_a_setting(key: object) -> bool:
    return not str(key).startswith("_") and key != "transformers_version"


def _is_long_and_plain(value: Any) -> bool:
    """Whether ``value`` is a container of Python's with so much plain data that it is described as one."""
    if type(value) not in (list, tuple, dict) or len(value) <= _MANY:
        return False
    return all(map(is_plain, (*value, *value.values()) if type(value) is dict else value))


def _words_for(value: Any, *, caches: bool) -> str:
    cls = type(value)
    if is_plain(value):
        return repr(value)
    if is_tensor(value) and is_known(value) and not value.is_meta:
        # A copy: memory of which numpy has a view cannot be swapped out any more.
        plain = value.detach().to("cpu", copy=True).resolve_conj().resolve_neg().contiguous().reshape(-1)
        return f"{value.dtype} {list(value.shape)} {_digest(plain.view(torch.uint8).numpy().data)}"
    if is_cache(cls) and not caches:
        return f"{name_of(cls)} of {lengths_of(value)} tokens"
    if _is_long_and_plain(value):
        entries = sorted(map(repr, value.items())) if cls is dict else value
        return f"{name_of(cls)} of {len(value)} entries {_digest(repr(entries).encode())}"
    return f"{name_of(cls)}{_of_other_kinds(value)}"


def known_kind(cls: type) -> type | None:
    """Return the class of random generators, arrays, sets or partials that ``cls`` is, or inherits from, or None."""
    for base in bases_of(cls):
        is_array = name_of(base) == "ndarray" and module_of(base) == "numpy"
        if id(base) in _KINDS or is_array or module_of(base).startswith(_RANDOM_OF_NUMPY):
            return base
    return None


def _of_other_kinds(value: Any) -> str:
    """Describe what objects of Python's, torch's and NumPy's hold, of which the type alone says little."""
    cls = type(value)
    if known_kind(cls) is not cls or is_carried(value):
        return ""
    if cls in (set, frozenset) and all(map(is_plain, value)):
        return f"({', '.join(sorted(map(repr, value)))})"
    if cls is torch.Generator:
        return f" {_digest(value.get_state().numpy().data)}"
    if name_of(cls) == "ndarray" and not value.dtype.hasobject:
        return f" {value.dtype} {list(value.shape)} {_digest(value.tobytes())}"
    if cls is random.Random:
        return f" {_digest(repr(value.getstate()).encode())}"
    return f" {_digest(repr(_held_by(value)).encode())}" if module_of(cls).startswith(_RANDOM_OF_NUMPY) else ""


def _held_by(generator: Any) -> object:
    """Return the state of one of NumPy's random generators, and of what others are spawned from."""
    if name_of(type(generator)) == "RandomState":
        return generator.get_state(legacy=False)
    bits = getattr(generator, "bit_generator", generator)
    if is_carried(bits):
        return None
    return bits.state, getattr(getattr(bits, "seed_seq", None), "state", None)


def _digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def cache_layers(cache: object) -> tuple[Any, ...]:
    """Return the layers of a cache of transformers."""
    return elements_of((instance_dict(cache) or {}).get("layers"))


def lengths_of(cache: object) -> list[int]:
    """Return how many tokens each layer of ``cache`` holds, as far as its keys tell; -1 where they do not."""
    keys = [(instance_dict(layer) or {}).get("keys") for layer in cache_layers(cache)]
    return [int(one.shape[-2]) if is_tensor(one) and one.dim() > 1 else 0 if one is None else -1 for one in keys]
