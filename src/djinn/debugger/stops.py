"""The breakpoints of the debugger: several layers of a session, of which it stops at whichever comes next.

A session itself has one breakpoint. It is the next of them, set anew (``arm``) whenever the session stops or goes on.
Layers come in the order of their numbers, and after the last one the first. A breakpoint stops once. If another hand,
such as the program's caller, sets that of the session, it stands alone.

A condition is tried when the session has come there (``Desk.go``). Where it does not hold, the layer is still ahead.

A standing edit is for every visit of its layer. That is ahead for a debugger that waits alone: nobody else would make
the edit, and let the session go on.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from djinn.debugger.edits import Change, Condition
from djinn.debugger.values import Refused
from djinn.debugger.words import spans
from djinn.session import Session

Layers = Mapping[int, Condition | None]  # with the condition of each
Standing = Mapping[int, tuple[Change, ...]]  # the edits at every visit of a layer, in the order in which they are made


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The layers that are ahead, those of standing edits, and which of both is the session's own breakpoint."""

    layers: Layers = field(default_factory=dict)
    standing: Standing = field(default_factory=dict)
    armed: int | None = None


class Stops:
    """The breakpoints of all sessions of a runtime whose model has ``depth`` layers. Values; it waits for nobody."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._plans: dict[int, _Plan] = {}  # by session

    def ahead(self, session: Session) -> Layers:
        """The layers at which ``session`` is still to stop, in the order in which they come."""
        plan = self._now(session)
        first = [layer for layer in plan.layers if layer == plan.armed]
        behind = plan.armed or session.layer or 0
        rest = sorted(set(plan.layers) - set(first), key=lambda layer: self._distance(behind, layer))
        return {layer: plan.layers[layer] for layer in (*first, *rest)}

    def _distance(self, behind: int, layer: int) -> int:
        """How many layers come between; after a layer itself all others do."""
        return (layer - behind - 1) % self._depth

    def _now(self, session: Session) -> _Plan:
        """Return the plan as it is since the session has moved."""
        plan, own = self._plans.get(session.number, _Plan()), session.breakpoint
        if own == plan.armed:
            return plan
        if own is None:  # it has stopped there; a condition that nobody has tried is still ahead
            layers = {layer: asks for layer, asks in plan.layers.items() if layer != plan.armed or asks is not None}
            return replace(plan, layers=layers, armed=None)
        return replace(plan, layers={own: None}, armed=own)

    def set(self, session: Session, layers: Layers) -> None:
        """Replace all breakpoints of ``session``. Raises what :meth:`djinn.Session.break_at` raises."""
        first = min(layers, key=lambda layer: self._distance(session.layer or 0, layer))
        session.break_at(first)
        self._plans[session.number] = replace(self._now(session), layers=layers, armed=first)

    def add(self, session: Session, layer: int) -> Layers:
        """Have ``session`` stop at ``layer`` whatever a breakpoint there asks; return that, for :meth:`take_back`."""
        plan = self._now(session)
        self._plans[session.number] = replace(plan, layers={**plan.layers, layer: None})
        return {layer: plan.layers[layer]} if layer in plan.layers else {}

    def take_back(self, session: Session, layer: int, had: Layers) -> None:
        """Undo :meth:`add`, which returned ``had``. Where the session has stopped there, that was its breakpoint, too.

        But not one with a condition, which nobody has tried.
        """
        if session.layer == layer:
            had = {one: condition for one, condition in had.items() if condition is not None}
        if had:
            plan = self._now(session)
            self._plans[session.number] = replace(plan, layers={**plan.layers, **had})
        else:
            self.drop(session, layer)

    def put_back(self, session: Session, layer: int, had: Layers) -> None:
        """Undo :meth:`add`, which returned ``had``, for a session that has not gone on since."""
        plan = self._now(session)
        others = {one: condition for one, condition in plan.layers.items() if one != layer}
        self._plans[session.number] = replace(plan, layers={**others, **had})

    def drop(self, session: Session, layer: int) -> None:
        """Have ``session`` not stop at ``layer``, unless that is its own breakpoint by now."""
        plan = self._now(session)
        if plan.armed == layer:
            return
        layers = {one: plan.layers[one] for one in plan.layers if one != layer}
        self._plans[session.number] = replace(plan, layers=layers)

    def arm(self, session: Session, *, waits: bool) -> None:
        """Make the next layer that is ahead the breakpoint of ``session``; if the debugger ``waits``, of both kinds."""
        plan = self._now(session)
        ahead = {*plan.layers, *(plan.standing if waits else ())}
        first = min(ahead, key=lambda layer: self._distance(session.layer or 0, layer), default=None)
        note = functools.partial(self._plans.__setitem__, session.number, replace(plan, armed=first))
        if first == plan.armed:
            note()
        else:
            session._aim(first, note)

    def reached(self, session: Session) -> Condition | None:
        """Return the condition of the breakpoint at which ``session`` has stopped, if it has one."""
        plan = self._plans.get(session.number, _Plan())
        return plan.layers.get(plan.armed) if plan.armed is not None and self._is_at(session, plan) else None

    def passes(self, session: Session) -> bool:
        """Whether ``session`` has stopped where it has a standing edit, and no breakpoint."""
        plan = self._plans.get(session.number, _Plan())
        return self._is_at(session, plan) and plan.armed not in plan.layers

    def _is_at(self, session: Session, plan: _Plan) -> bool:
        return plan.armed is not None and session.breakpoint is None and session.layer == plan.armed

    def again(self, session: Session) -> None:
        """Have the breakpoint at which ``session`` has stopped still ahead."""
        self._plans[session.number] = replace(self._plans[session.number], armed=None)

    def copy(self, session: Session, fork: Session) -> None:
        """Give ``fork`` the breakpoints that are ahead of ``session``; an edit is made of one alone."""
        self._plans[fork.number] = replace(self._now(session), standing={})

    def standing(self, session: Session) -> Standing:
        """The standing edits of ``session``, in the order of their layers."""
        standing = self._plans.get(session.number, _Plan()).standing
        return {layer: standing[layer] for layer in sorted(standing)}

    def check_can_stand(self, session: Session) -> None:
        """Raise :class:`Refused` where a hit count of another hand would be lost, for the breakpoint is set anew."""
        ahead = None if session._program is None else session._program.breakpoint_ahead
        if ahead is not None and ahead[1] > 1:
            raise Refused(f"hit count {ahead[1]} of breakpoint {ahead[0]} would be lost: break {ahead[0]} first")

    def stand(self, session: Session, change: Change) -> None:
        """Have ``change`` made at every visit of the layer after which ``session`` is parked, behind those before."""
        plan, layer = self._now(session), session.layer
        assert layer is not None
        standing = {**plan.standing, layer: (*plan.standing.get(layer, ()), change)}
        self._plans[session.number] = replace(plan, standing=standing)

    def lift(self, session: Session, layers: Iterable[int]) -> None:
        """Undo :meth:`stand` for ``layers``, also while the program computes."""
        plan, gone = self._now(session), set(layers)
        left = {layer: changes for layer, changes in plan.standing.items() if layer not in gone}
        self._plans[session.number] = replace(plan, standing=left)
        self.arm(session, waits=plan.armed not in (None, *plan.layers))  # as it is

    def leave(self, session: Session) -> None:
        """End all standing edits of ``session``: it goes on without the debugger, or has ended."""
        if self.standing(session):
            self.lift(session, self.standing(session))


def in_words(layers: Layers, each: str = "each") -> str:
    """Return the ``layers``, ``each`` or any of several, with the condition: one command gives all the same."""
    *others, last = spans(layers)
    listed = f"{', '.join(others)} and {last}" if others else last
    which = f"{each} of layers {listed}" if len(layers) > 1 else f"layer {last}"
    conditions = {condition.said for condition in layers.values() if condition is not None}
    return which + "".join(f", if {said}" for said in conditions)
