"""What a call of a model is given and returns, as a file can hold it: tensors by their bytes, the rest in words.

Containers are followed as in ``containers``, but for caches of transformers: what these hold is state (``tape``). Of
an object of any other kind only its type is known here. No code of the program runs.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from djinn.memory.placement import raw_bytes
from djinn.state.containers import contents_of, is_cache, is_container, is_plain
from djinn.state.discovery import view_of
from djinn.state.static import each_in, elements_of, instance_dict, name_of
from djinn.state.storages import NamedView
from djinn.state.tensors import is_tensor, not_swappable, plain_torch, storage_of


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
    contents = contents_of(part)
    # By name: the order of a dictionary may come from a set's, which differs from process to process.
    held = sorted((*contents.attributes, *contents.items), key=lambda one: _word_for(one[0]), reverse=True)
    return [inner for _, inner in held]


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


def described(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, str]:
    """Describe each argument by name: its tensors with a digest of their contents, plain data as it prints."""
    named: Iterator[tuple[str, object]] = iter([(f"args.{at}", value) for at, value in enumerate(args)])
    with plain_torch():
        return {
            name: "; ".join(map(_description, leaves_of(value)))
            for name, value in (*named, *((str(name), value) for name, value in kwargs.items()))
        }


def _description(leaf: object) -> str:
    if is_plain(leaf):
        return repr(leaf)
    kind = name_of(type(leaf))
    if is_tensor(leaf) and is_known(leaf):
        # A copy: memory of which numpy has a view cannot be swapped out any more.
        plain = leaf.detach().to("cpu", copy=True).resolve_conj().resolve_neg().contiguous().reshape(-1)
        digest = hashlib.blake2b(plain.view(torch.uint8).numpy().data, digest_size=16).hexdigest()
        return f"{leaf.dtype} {list(leaf.shape)} {digest}"
    return f"{kind} of {lengths_of(leaf)} tokens" if is_cache(type(leaf)) else kind


def cache_layers(cache: object) -> tuple[Any, ...]:
    """Return the layers of a cache of transformers."""
    return elements_of((instance_dict(cache) or {}).get("layers"))


def lengths_of(cache: object) -> list[int]:
    """Return how many tokens each layer of ``cache`` holds, as far as its keys tell; -1 where they do not."""
    keys = [(instance_dict(layer) or {}).get("keys") for layer in cache_layers(cache)]
    return [int(one.shape[-2]) if is_tensor(one) and one.dim() > 1 else 0 if one is None else -1 for one in keys]
