"""What the tools that write the paper share: a run's rows, what the machine was, names, digits and LaTeX.

Reads the summary and the files beside a run's raw records; draws and writes nothing itself.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined

from evaluation.analysis.summary import Row, SummaryError, read_summary
from evaluation.records.runs import Json, RunError, read_json

METHODS = ("vanilla", "recompute", "manual_offload", "djinn")  # in the order of the paper; others come after them
ORDERED = "pinned_ordered"  # the best hand-written offload, where there is history
FUSED = "compiled"  # recompute with its small operators fused, in a prefill
ONE_TOKEN = "kv_offloaded"  # recompute of one token behind its KV cache, in a decode step


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The rows of one run in the summary."""

    run: str
    rows: Sequence[Row]

    @classmethod
    def read(cls, summary: Path, run: str) -> "Findings":
        """The rows of ``run``. Raises SummaryError if the table at ``summary`` has none."""
        rows = read_summary(summary)
        mine = [row for row in rows if row.run == run]
        if not mine:
            known = ", ".join(sorted({row.run for row in rows})) or "none"
            raise SummaryError(f"{summary}: no rows of run {run!r}; it has: {known}")
        return cls(run=run, rows=mine)

    @property
    def workloads(self) -> list[str]:
        """Names of the workloads, in the order of the table."""
        return list(dict.fromkeys(row.workload for row in self.rows))

    @property
    def methods(self) -> list[str]:
        """Names of the methods: the paper's first, also those that the run lacks, then any other."""
        return list(dict.fromkeys([*METHODS, *sorted({row.method for row in self.rows})]))

    @property
    def deepest(self) -> int:
        """The deepest breakpoint of the run."""
        return max(row.layer for row in self.rows)

    def series(self, workload: str, method: str, metric: str, variant: str | None = None) -> list[Row]:
        """Rows of ``metric`` by layer, of ``variant`` or else the headline variant; also where n = 0."""
        rows = [
            row
            for row in self.rows
            if (row.workload, row.method, row.metric) == (workload, method, metric)
            and (row.headline if variant is None else row.variant == variant)
        ]
        layers = [row.layer for row in rows]
        if len(set(layers)) != len(layers):
            raise SummaryError(f"run {self.run}: more than one {metric} of {method} in workload {workload} at a layer")
        return sorted(rows, key=lambda row: row.layer)

    def at(self, workload: str, method: str, metric: str, layer: int, variant: str | None = None) -> Row | None:
        """The row of ``layer`` in :meth:`series`, or None if there is none."""
        return next((row for row in self.series(workload, method, metric, variant) if row.layer == layer), None)


def plain_name(method: str) -> str:
    """How a method is called that the paper does not know: ``my_method`` is My method."""
    return method.replace("_", " ").capitalize()


def read_machine(path: Path) -> Json:
    """The probe of the machine. Raises RunError if it does not say whether the run is functional."""
    machine = read_json(path)
    if not isinstance(machine, dict) or not isinstance(machine.get("functional"), bool):
        raise RunError(f"{path}: does not say whether the run is functional")
    return machine


def machine_beside(summary: Path, run: str) -> Path:
    """Where the probe of ``run`` is, for a summary that lies in the results folder."""
    candidates = [summary.parent / run / "machine.json", summary.parent / "published" / run / "machine.json"]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise RunError(f"no machine.json of run {run!r} in {summary.parent}; pass --machine")


def ceiling(machine: Json, name: str) -> float | None:
    """Median of a ceiling that the probe measured, in the unit of its name; None where it could not."""
    value: Any = machine.get("ceilings", {}).get(name, {})
    median = value.get("median") if isinstance(value, dict) else None
    return None if median is None else float(median)


def decimals(value: float, digits: int = 3) -> int:
    """How many decimals show ``value`` to ``digits`` significant digits."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return max(digits - 1 - exponent, 0)


def significant(value: float, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits, without exponent; none before the point is dropped."""
    return f"{value:.{decimals(value, digits)}f}"


class Latex(str):
    """Text that is LaTeX already and must not be escaped."""

    __slots__ = ()


_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "\n": " ",
    }
)


def latex(text: object) -> Latex:
    """LaTeX that prints ``text``; :class:`Latex` stays as it is. TypeError for what is not text or int."""
    if isinstance(text, Latex):
        return text
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise TypeError(f"{text!r} cannot go into LaTeX; a number must be formatted first")
    return Latex(str(text).translate(_ESCAPES))


def markdown(text: str) -> str:
    """``text`` whose own characters Markdown takes for neither a column nor a tag."""
    for character in "\\|<>`_":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; bold marks in a cell stay marks."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(markdown(cell) for cell in line)} |" for line in lines]


def environment() -> Environment:
    """Jinja2 with delimiters that LaTeX does not use; what is printed is escaped, what is missing raises."""
    return Environment(
        loader=PackageLoader("evaluation.text"),
        block_start_string=r"\BLOCK{",
        block_end_string="}",
        variable_start_string=r"\VAR{",
        variable_end_string="}",
        comment_start_string=r"\COMMENT{",
        comment_end_string="}",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,  # that is for HTML; finalize escapes for LaTeX
        finalize=_printed,
    )


def _printed(value: object) -> Latex:
    if isinstance(value, Undefined):
        str(value)  # raises, and names what is undefined
    return latex(value)


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Command line of ``evaluation.module`` with the arguments that all paper tools have."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m evaluation.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--summary", type=Path, required=True, help="the summary.csv of the aggregation")
    arguments.add_argument("--run", required=True, help="name of the run in that table")
    return arguments
