"""The arguments with which a fork begins: its own, so that what one program does to them is not found by the other.

They are copies of what is compared by its contents, as it is now: tensors, caches, containers, random generators and
arrays. Any other object is one for both. For what a session has adopted its fork gets what its caller gives.
"""

from collections.abc import Sequence

import torch

from djinn.core import DeviceMemoryFull, IllegalMove, NotRestored
from djinn.program.caller import Call
from djinn.program.tape import Words
from djinn.program.values import another, described, difference
from djinn.state.containers import parts_of
from djinn.state.module_values import Copies, Snapshot
from djinn.state.places import checked_roots
from djinn.state.static import name_of
from djinn.state.tensors import plain_torch
from djinn.wording import counted


def anew(call: Call, number: int, before: Words, adopted: Sequence[object], adopt: Sequence[object]) -> Call:
    """Return the ``call`` of session ``number`` with arguments of its own, ``adopt`` in place of what that ``adopted``.

    Raises :class:`IllegalMove` if ``adopt`` does not fit, :class:`DeviceMemoryFull`, and :class:`NotRestored` if the
    arguments are not as they were ``before`` the first line of the program.
    """
    program, *arguments = call  # a list of both, which share objects
    instead = _instead(number, arguments, adopted, checked_roots(adopt))
    others = [(part, another(part)) for part in parts_of(arguments)]
    instead |= {id(part): other for part, other in others if other is not None}
    try:
        with plain_torch(), torch.no_grad():
            args, kwargs = Copies(instead).of(Snapshot(arguments))
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryFull(f"the arguments of session {number} have no room for a copy: {error}") from error
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
    met = {id(part) for part in parts_of(arguments)}
    for root in adopted:
        if id(root) not in met:
            raise IllegalMove(
                f"session {number} has adopted a {name_of(type(root))} that is in no argument of its program, and a "
                "fork would write to it too: pass it to start()"
            )
    return dict(zip(map(id, adopted), given, strict=True))
