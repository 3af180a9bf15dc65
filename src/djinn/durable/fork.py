"""The arguments with which a fork begins: its own, so that what one program does to them is not found by the other.

They are copies of what is compared by its contents (``program.values``), as it is now. What cannot be copied, or not
together with what shares its memory, is refused by name. Any other object is one for both. For what a session has
adopted its fork gets what its caller gives.
"""

import copy
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from djinn.core import DeviceMemoryFull, IllegalMove, NotRestored
from djinn.program.caller import Call
from djinn.program.generators import carried_generators, is_carried
from djinn.program.tape import Words
from djinn.program.values import described, difference, is_followed, known_kind, parts_by_name
from djinn.state.containers import contents_of, is_plain, parts_of
from djinn.state.module_values import Copies, Snapshot, not_copied
from djinn.state.places import checked_roots
from djinn.state.static import each_in, name_of, namespace_of
from djinn.state.tensors import is_tensor, is_the_allocator_s, plain_torch, storage_of
from djinn.wording import counted


def anew(call: Call, number: int, before: Words, adopted: Sequence[object], adopt: Sequence[object]) -> Call:
    """Return the ``call`` of session ``number`` with arguments of its own, ``adopt`` in place of what that ``adopted``.

    Raises :class:`IllegalMove` if ``adopt`` does not fit, or if an argument cannot be copied. Raises
    :class:`DeviceMemoryFull`, and :class:`NotRestored` if the arguments are not as they were ``before`` the first line
    of the program.
    """
    program, *arguments = call  # a list of both, which share objects
    _, args, kwargs = call
    instead = _instead(number, arguments, adopted, checked_roots(adopt))
    try:
        with plain_torch(), torch.no_grad():
            named = parts_by_name(args, kwargs, caches=True, closed=tuple(instead))
            instead |= _others({id(part): (name, part) for name, part, _ in named}.values())
            args, kwargs = Copies(instead).of(Snapshot(arguments, followed=is_followed))
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryFull(f"the arguments of session {number} have no room for a copy: {error}") from error
    except _NotCopied as error:
        raise IllegalMove(
            f"session {number} cannot be forked: argument {error}. save() it, and give restore() what start() was given"
        ) from None
    if words := difference(before, described(args, kwargs, caches=True)):
        raise NotRestored(
            f"session {number} cannot be forked: argument {words}. save() it, and give restore() what start() was given"
        )
    return program, args, kwargs


def check_adopt(number: int, adopted: Sequence[object], given: Sequence[object]) -> None:
    """Raise :class:`IllegalMove` unless one is ``given`` for each object that session ``number`` has ``adopted``."""
    if given and not adopted:
        raise IllegalMove(f"session {number} has adopted nothing: fork() it without adopt=")
    if len({id(one) for one in given}) != len(adopted) or not {id(one) for one in given}.isdisjoint(map(id, adopted)):
        raise IllegalMove(
            f"session {number} has adopted {counted(len(adopted), 'object')}: give its fork another one for each by "
            "fork(adopt=[...]), in the same order and with the contents of START"
        )


def _instead(number: int, arguments: object, adopted: Sequence[object], given: Sequence[object]) -> dict[int, object]:
    """Return what is ``given`` by the ids of what session ``number`` has ``adopted``, if it fits."""
    check_adopt(number, adopted, given)
    met = {id(part) for part in parts_of(arguments, is_followed)}
    for root in adopted:
        if id(root) not in met:
            raise IllegalMove(
                f"session {number} has adopted a {name_of(type(root))} that is in no argument of its program, and a "
                "fork would write to it too: pass it to start()"
            )
    return dict(zip(map(id, adopted), given, strict=True))


# -- parts of arguments that are no containers -----------------------------------------------------------------------


class _NotCopied(Exception):
    """What would be found by the other program, and is not copied."""


def _others(parts: Iterable[tuple[str, object]]) -> dict[int, object]:
    """Return copies by id of those of the ``parts`` that are neither tensors nor containers nor shared by both."""
    parts, others = list(parts), {}
    memo = {id(one): one for one in carried_generators()}
    for name, part in parts:
        try:
            other = _another(part, memo)
        except _NotCopied as error:
            raise _NotCopied(f"{name} cannot be copied: {error}") from None
        if other is not None:
            others[id(part)] = other
    _check_memory(parts)
    return others


def _another(value: Any, memo: dict[int, Any]) -> Any:
    """Return another random generator, array or set with the contents of ``value``; for any other object None.

    What values of one ``memo`` share the copies share.
    """
    cls, kind = type(value), known_kind(type(value))
    if is_tensor(value) and (reason := not_copied(value)):
        raise _NotCopied(reason)
    if kind is not None and kind is not cls:
        raise _NotCopied(f"its class {name_of(cls)} inherits from {name_of(kind)}")
    for one in _in_fixed_places(value):
        for part in each_in(one, _in_fixed):
            if _may_change(part):
                raise _NotCopied(f"the {name_of(type(part))} in it has no place that a copy could take")
    if kind in (None, frozenset, functools.partial) or is_carried(value):
        return None
    if cls is torch.Generator:
        generator = torch.Generator(value.device)
        generator.set_state(value.get_state())
        return generator
    if cls is set:
        return value.copy()
    if name_of(cls) != "ndarray":
        return copy.deepcopy(value, memo)
    if value.dtype.hasobject:
        raise _NotCopied("its elements are objects")
    return value.copy(order="K")


def _in_fixed_places(value: Any) -> tuple[object, ...]:
    """Return what stands in ``value`` where nothing else can be put in its place."""
    cls = type(value)
    if cls in (set, frozenset):
        return tuple(value)
    if cls is functools.partial:
        return *value.args, *value.keywords.values()
    return tuple(key for key, _ in contents_of(value).items if not is_plain(key)) if issubclass(cls, dict) else ()


def _may_change(part: object) -> bool:
    """Whether ``part`` itself is such that a fork needs a copy."""
    cls = type(part)
    of_kind = known_kind(cls) not in (None, frozenset, functools.partial) and not is_carried(part)
    return is_tensor(part) or of_kind or (is_followed(cls) and not _is_fixed(cls))


def _is_fixed(cls: type) -> bool:
    """Whether a copy would be no other than the object, but for what is in it: tuples and frozen data classes."""
    settings = namespace_of(cls).get("__dataclass_params__")
    return issubclass(cls, tuple) or (settings is not None and settings.frozen and settings.eq)


def _in_fixed(part: object) -> Iterable[object]:
    if not _is_fixed(type(part)):
        return _in_fixed_places(part)
    contents = contents_of(part)
    return [inner for _, inner in (*contents.attributes, *contents.items)]


def _check_memory(parts: Iterable[tuple[str, object]]) -> None:
    """Check that no array shares memory with another one or with a tensor: each would be copied by itself."""
    spans = sorted(_spans(parts), key=lambda span: span[:2])
    for (_, end, name, memory), (start, _, other, its) in itertools.pairwise(spans):
        if start < end and memory != its:
            raise _NotCopied(f"{other} cannot be copied: its memory is also that of {name}")


def _spans(parts: Iterable[tuple[str, Any]]) -> Iterator[tuple[int, int, str, int]]:
    """Yield where arrays, and tensors over memory that is not torch's, begin and end, their names, and whose it is."""
    for name, part in parts:
        if is_tensor(part):
            storage = storage_of(part)
            if storage is not None and not is_the_allocator_s(storage):
                start = storage.data_ptr()
                yield start, start + storage.nbytes(), name, storage._cdata
        elif known_kind(type(part)) is not None and name_of(type(part)) == "ndarray" and part.size:
            ends = [(length - 1) * stride for length, stride in zip(part.shape, part.strides, strict=True)]
            start = part.__array_interface__["data"][0]
            low, high = (sum(outer(end, 0) for end in ends) for outer in (min, max))
            yield start + low, start + high + part.itemsize, name, id(part)
