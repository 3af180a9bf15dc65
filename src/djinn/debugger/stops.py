"""The breakpoints of the debugger: several layers of a session, of which it stops at whichever comes next.

A session itself has one breakpoint. It is the next of them, set anew (``arm``) whenever the session stops or goes on.
Layers come in the order of their numbers, and after the last one the first. A breakpoint stops once. If another hand,
such as the program's caller, sets that of the session, it stands alone.

A condition is tried when the session has come there (``Desk.go``). Where it does not hold, the layer is still ahead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from djinn.debugger.edits import Condition
from djinn.session import Session

Layers = Mapping[int, Condition | None]  # with the condition of each


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The layers that are ahead, and which of them is the session's own breakpoint."""

    layers: Layers = field(default_factory=dict)
    armed: int | None = None


class Stops:
    """The breakpoints of all sessions of a runtime whose model has ``depth`` layers. Values; it waits for nobody."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._plans: dict[int, _Plan] = {}  # by session

    def ahead(self, session: Session) -> Layers:
        """The layers at which ``session`` is still to stop, in the order in which they come."""
        plan = self._now(session)
        first = [] if plan.armed is None else [plan.armed]
        behind = plan.armed or session.layer or 0
        rest = sorted(set(plan.layers) - set(first), key=lambda layer: (layer - behind - 1) % self._depth)
        return {layer: plan.layers[layer] for layer in (*first, *rest)}

    def _now(self, session: Session) -> _Plan:
        """Return the plan as it is since the session has moved."""
        plan, own = self._plans.get(session.number, _Plan()), session.breakpoint
        if own == plan.armed:
            return plan
        if own is None:  # it has stopped there
            return _Plan(layers={layer: plan.layers[layer] for layer in plan.layers if layer != plan.armed})
        return _Plan(layers={own: None}, armed=own)

    def set(self, session: Session, layers: Layers) -> None:
        """Replace all breakpoints of ``session``. Raises what :meth:`djinn.Session.break_at` raises."""
        behind = session.layer or 0
        first = min(layers, key=lambda layer: (layer - behind - 1) % self._depth)
        session.break_at(first)
        self._plans[session.number] = _Plan(layers=layers, armed=first)

    def add(self, session: Session, layer: int) -> None:
        """Have ``session`` stop at ``layer`` too."""
        plan = self._now(session)
        self._plans[session.number] = replace(plan, layers={**plan.layers, layer: None})

    def drop(self, session: Session, layer: int) -> None:
        """Undo :meth:`add`, unless that layer is the session's own breakpoint by now."""
        plan = self._now(session)
        if plan.armed == layer:
            return
        layers = {one: plan.layers[one] for one in plan.layers if one != layer}
        self._plans[session.number] = replace(plan, layers=layers)

    def arm(self, session: Session) -> None:
        """Make the next layer that is ahead the breakpoint of ``session``, which is parked."""
        plan = self._now(session)
        if plan.armed is None and plan.layers:
            self.set(session, plan.layers)
        else:
            self._plans[session.number] = plan

    def reached(self, session: Session) -> Condition | None:
        """Return the condition of the breakpoint at which ``session`` has stopped, if it has one."""
        plan = self._plans.get(session.number, _Plan())
        here = plan.armed is not None and session.breakpoint is None and session.layer == plan.armed
        return plan.layers[plan.armed] if here and plan.armed is not None else None

    def again(self, session: Session) -> None:
        """Have the breakpoint at which ``session`` has stopped still ahead."""
        self._plans[session.number] = replace(self._plans[session.number], armed=None)

    def copy(self, session: Session, fork: Session) -> None:
        """Give ``fork`` the breakpoints that are ahead of ``session``."""
        self._plans[fork.number] = self._now(session)


def in_words(layers: Layers, each: str = "each") -> str:
    """Return the ``layers``, ``each`` or any of several, with the condition: one command gives all the same."""
    *others, last = map(str, layers)
    which = f"{each} of layers {', '.join(others)} and {last}" if others else f"layer {last}"
    conditions = {condition.said for condition in layers.values() if condition is not None}
    return which + "".join(f", if {said}" for said in conditions)
