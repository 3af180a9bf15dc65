r"""Macros and the words that depend on them, for templates of prose: no direction of a result is typed in.

``number`` gives a macro, ``ends`` the interval behind it. ``choose`` gives a phrase by the side of 1 or 0 on which the
interval lies, ``weigh`` one by which of two numbers is larger. A sentence stands in a ``call sentence()`` block. It is
left out if a run lacks one of its numbers, and then the block's other words stand in its place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.claims.claim import Verdict
from evaluation.command import Refusal
from evaluation.records.runs import Json
from evaluation.text.latex import Latex, latex
from evaluation.text.verdicts import place, verdicts


class NoSuchNumber(Refusal):
    """What the text needs and the run does not have; :meth:`Words.sentence` alone catches it."""

    status = 1


@dataclass(frozen=True, kw_only=True)
class Words:
    """What is said of one run: ``values`` by the names of macros without the run's ``prefix``, and its ``claims``."""

    values: Mapping[str, Any]
    claims: Sequence[Json]
    prefix: str = ""

    @classmethod
    def of(cls, numbers: Json, claims: Json, prefix: str = "") -> "Words":
        """Of ``numbers.json`` and ``claims.json`` of one run."""
        values = {one["name"]: one["value"] for one in numbers["numbers"]}
        values |= {one.name: one.value for one in verdicts(claims["claims"])}
        return cls(values=values, claims=claims["claims"], prefix=prefix)

    def value(self, name: str) -> Any:
        """The number itself; raises :class:`NoSuchNumber`."""
        if name not in self.values:
            raise NoSuchNumber(f"the text needs \\{name}, which the run does not have")
        return self.values[name]

    def has(self, name: str) -> bool:
        """Whether the run has it."""
        return name in self.values

    def number(self, name: str) -> Latex:
        """Its macro; raises :class:`NoSuchNumber`."""
        self.value(name)
        return Latex(rf"\{self.prefix}{name}{{}}")

    def ends(self, name: str) -> Latex:
        """Those of its interval, in brackets behind it; nothing where there is only a range."""
        if not self.has(f"{name}Low"):
            return Latex("")
        return Latex(f" ({self.number(f'{name}Low')} to {self.number(f'{name}High')})")

    def choose(self, name: str, *, below: str, within: str, above: str, unknown: str = "", of: float = 1) -> Latex:
        """The phrase for an interval below ``of``, around it, or above it; ``unknown`` where there is none.

        ``of`` is 1 for a ratio, 0 for a difference.
        """
        if not self.has(f"{name}Low"):
            self.value(name)
            return latex(unknown)
        low, high = self.value(f"{name}Low"), self.value(f"{name}High")
        return latex(below if high < of else above if low > of else within)

    def weigh(self, one: str, other: float, *, less: str, same: str, more: str) -> Latex:
        """The phrase for a number that is less than the ``other``, the same, or more."""
        value = self.value(one)
        return latex(less if value < other else more if value > other else same)

    def sentence(self, otherwise: str = "", *, caller: Callable[[], str]) -> Latex:
        """What the block says, or ``otherwise`` where the run lacks one of its numbers."""
        try:
            said = caller()
        except NoSuchNumber:
            said = otherwise
        return without_empty_lines(said)

    def worst(self) -> tuple[str, str, str]:
        """Where Djinn does worst against copies by hand: workload, clock in words, and the ratio's name.

        Of all that C4 decides with everything swapped, at its leading layer. Raises :class:`NoSuchNumber` if none.
        """
        found = [
            (claim["figures"]["leading_ratio"]["value"], claim)
            for claim in self.claims
            if claim["id"] == "C4" and not claim.get("keeps") and "leading_ratio" in claim["figures"]
        ]
        if not found:
            raise NoSuchNumber("the text needs a ratio of C4, which the run does not have")
        _, claim = max(found, key=lambda one: one[0])
        return claim["workload"], claim["clock"].replace("_", " "), f"{place(claim)}LeadingRatio"

    def of_claim(self, name: str) -> str:
        """What the macros of the claim ``name`` begin with, at the first place that it is decided for."""
        found = [place(claim) for claim in self.claims if claim["id"] == name]
        if not found:
            raise NoSuchNumber(f"the text needs {name}, which the run does not decide")
        return found[0]

    def tally(self, verdict: str) -> Latex:
        """The claims that have ``verdict``, each with how often: ``C4 (9 of 26), C6``; "none" if there are none."""
        assert verdict in list(Verdict)
        counts: dict[str, list[bool]] = {}
        for claim in self.claims:
            counts.setdefault(claim["id"], []).append(claim["verdict"] == verdict)
        return Latex(", ".join(self._counted(name, verdict, of) for name, of in counts.items() if any(of)) or "none")

    def _counted(self, name: str, verdict: str, of: Sequence[bool]) -> str:
        if len(of) == 1:
            return name
        macros = place({"id": name, "workload": None, "clock": None})
        counted, all_of_it = self.number(f"{macros}{verdict.capitalize()}"), self.number(f"{macros}Verdicts")
        return f"{name} ({counted} of {all_of_it})"


def without_empty_lines(said: str) -> Latex:
    """Else they would end the paragraph, or a caption."""
    return Latex("".join(f"{line}\n" for line in said.splitlines() if line.strip()))
