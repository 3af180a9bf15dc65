"""Writes the tables and numbers of README and docs/ from those of the paper; ``--check`` only says what would change.

A table stands between ``<!-- numbers: NAME -->`` and ``<!-- end -->``. In prose a number is followed by the name of the
macro that it is, as in ``0.990<!-- DjinnOverheadPrefillRatio -->``. What no comment marks is left alone. Numbers of a
further published run have that run's name in theirs; tables are of the leading run.
"""

import argparse
import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluation import command
from evaluation.records.atomic import write_text
from evaluation.records.runs import is_own, read_object
from evaluation.text.macro import camel, in_words

PAGES = (
    Path("README.md"),
    *(Path(f"docs/{name}.md") for name in ("results", "how-it-works", "measurement", "running")),
)
FIGURES = Path("paper_figures")
NUMBERS = FIGURES / "numbers.json"
# Pages of the paper of which a table is taken.
EXPERIMENTS, METHODS = FIGURES / "experiments.md", FIGURES / "capabilities.md"
_BLOCK = re.compile(r"(<!-- numbers: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_INLINE = re.compile(r"(?:≥ |-)?\d[\d.]*(<!-- ([A-Z][A-Za-z]+) -->)")
_MARKS = re.compile(r"<!-- (?:numbers: \S+|end|[A-Z][A-Za-z]+) -->")
_GAP = "--"
_MOST = 1000  # layers, or sessions
_WORKLOADS = {"Activation": "activation", "Session": "session with KV cache", "Decode": "decode step"}
_CLOCKS = {"Ready": "ready", "FirstKernel": "first kernel", "Usable": "usable", "Resident": "all state resident"}
_COLUMNS = ("", "claims", "what", "jobs", "machine time", "one job", "peak memory", "disk")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of numbers: ``rows`` are labels and names, in which ``{}`` is the word of a column in ``columns``.

    Where ``gaps``, a cell that has no number prints a dash, and a row of dashes is left out. An interval stands behind
    its number, where it has one.
    """

    label: str
    columns: Mapping[str, str]
    rows: Mapping[str, str]
    gaps: bool = False

    def markdown(self, numbers: Mapping[str, str]) -> str:
        """The table with the texts of ``numbers``."""
        rows = [
            [label, *(self._cell(numbers, name.format(word)) for word in self.columns.values())]
            for label, name in self.rows.items()
        ]
        return _markdown([self.label, *self.columns], [row for row in rows if {*row[1:]} != {_GAP}])

    def _cell(self, numbers: Mapping[str, str], name: str) -> str:
        if self.gaps and name not in numbers:
            return _GAP
        ends = "" if f"{name}Low" not in numbers else f" ({numbers[f'{name}Low']} to {numbers[f'{name}High']})"
        return _text(numbers, name) + ends


def _of_pairs(numbers: Mapping[str, str]) -> Table:
    columns = _counted(numbers, "DjinnActivationPairedReadyRatioLayer{}")
    rows = {
        f"{words}: {clock}": f"Djinn{workload}Paired{name}RatioLayer{{}}"
        for workload, words in _WORKLOADS.items()
        for name, clock in _CLOCKS.items()
        if (workload, name) != ("Activation", "Resident")
    }
    return Table(label="Djinn over the strongest copies by hand", columns=columns, rows=rows)


def _of_load(numbers: Mapping[str, str]) -> Table:
    where = f"layer {_text(numbers, 'DeepestLayer')} with KV cache ([figure](../paper_figures/load.png))"
    return Table(
        label=f"random resumes among paused sessions, {where}",
        columns=_counted(numbers, "DjinnLoadReadyMsSessions{}"),
        rows={
            "ready, median (ms)": "DjinnLoadReadyMsSessions{}",
            "ready, 95th percentile (ms)": "DjinnLoadReadyMsSessions{}PNinetyFive",
            "ready, 99th percentile (ms)": "DjinnLoadReadyMsSessions{}PNinetyNine",
            "ready, over copies by hand by turns": "DjinnLoadPairedReadyRatioSessions{}",
            "all state resident, median (ms)": "DjinnLoadResidentMsSessions{}",
            "all state resident, over copies by hand by turns": "DjinnLoadPairedResidentRatioSessions{}",
        },
        gaps=True,
    )


def _of_sessions(numbers: Mapping[str, str]) -> Table:
    return Table(
        label=f"paused sessions on one {_text(numbers, 'GpuName')}, all resumed bit for bit",
        columns={"sessions": "", "ended by": "EndedBy"},
        rows={
            "vanilla, a process with weights of its own for each": "VanillaOwnProcessSessions{}",
            "vanilla, weights shared": "VanillaSessions{}",
            "recompute": "RecomputeSessions{}",
            "manual offload, pinned": "ManualOffloadSessions{}",
            "manual offload, pageable": "ManualOffloadPageableSessions{}",
            "Djinn": "DjinnSessions{}",
            **({"Djinn, coded": "DjinnCodedSessions{}"} if "DjinnCodedSessions" in numbers else {}),
        },
    )


def _of_durable(numbers: Mapping[str, str]) -> Table:
    """Of the workloads whose sessions were saved; without any it has no row."""
    columns = {words: name for name, words in _WORKLOADS.items() if f"Durable{name}SaveMs" in numbers}
    rows = {
        "its file (MB)": "Durable{}FileMb",
        "save": "Durable{}SaveMs",
        "a plain write of as many bytes": "Durable{}WriteMs",
        "restore, until parked": "Durable{}RestoreMs",
        "a plain read of the file": "Durable{}ReadMs",
        "restore, until usable": "Durable{}RestoredMs",
        "run again, until parked": "Durable{}RerunMs",
        "run again, until usable": "Durable{}RerunWholeMs",
    }
    label = f"a session whose process was killed (ms), run {numbers.get('DurableRun', '')}"
    return Table(label=label, columns=columns, rows=rows if columns else {})


def _of_disk(numbers: Mapping[str, str]) -> Table:
    """Of sessions beyond host memory; without any it has no row."""
    rows = {
        "paused sessions": "DiskSessions",
        "state of each (MB)": "DiskStateMb",
        "host memory for them (GiB)": "DiskArenaGib",
        "sessions on the disk, when all are paused": "DiskSpilledSessions",
        "IO_WAIT that finds room (ms)": "DiskSwapOutMs",
        "IO_WAIT that first spills another session (ms)": "DiskSpillingMs",
        "a plain write of as many bytes (ms)": "DiskWriteMs",
        "ready, from host memory (ms)": "DiskReadyMs",
        "ready, from the disk (ms)": "DiskReadySpilledMs",
        "a plain read of as many bytes (ms)": "DiskReadMs",
    }
    where = f"run {numbers.get('DiskRun', '')}"
    found = rows if "DiskSessions" in numbers else {}
    return Table(label="sessions beyond host memory", columns={where: ""}, rows=found, gaps=True)


TABLES: Mapping[str, Callable[[Mapping[str, str]], Table]] = {
    "pairs": _of_pairs,
    "load": _of_load,
    "sessions": _of_sessions,
    "durable": _of_durable,
    "disk": _of_disk,
}


def _counted(numbers: Mapping[str, str], name: str) -> dict[str, str]:
    """The counts, as layers or sessions, of which there is a number of that name, each with its word."""
    words = {str(count): in_words(count) for count in range(1, _MOST)}
    found = {count: word for count, word in words.items() if name.format(word) in numbers}
    if not found:
        raise command.Refusal(f"{NUMBERS} has no number {name.format('...')}")
    return found


def written(page: str, numbers: Mapping[str, str], experiments: str, methods: str) -> str:
    """``page`` with its marked tables and numbers from ``numbers`` and the pages ``experiments`` and ``methods``."""
    tables: dict[str, Callable[[], str]] = {
        name: functools.partial(_filled, make, numbers) for name, make in TABLES.items()
    }
    tables["experiments"] = lambda: experiment_table(experiments)
    tables["methods"] = lambda: method_table(methods)

    def block(found: re.Match[str]) -> str:
        if found[2] not in tables:
            raise command.Refusal(f"no table is called {found[2]}; there are {', '.join(tables)}")
        return found[1] + tables[found[2]]() + found[3]

    page = _BLOCK.sub(block, page)
    page = _INLINE.sub(lambda found: _text(numbers, found[2]) + found[1], page)
    if left := _MARKS.findall(_INLINE.sub("", _BLOCK.sub("", page))):
        raise command.Refusal(f"{left[0]} marks nothing: a table lacks its other end, or no number stands before it")
    return page


def _filled(make: Callable[[Mapping[str, str]], Table], numbers: Mapping[str, str]) -> str:
    table = make(numbers)
    return table.markdown(numbers) if table.rows else "Not measured yet.\n"


def method_table(page: str) -> str:
    """The table of ``page`` and what stands below it on a kill; of the rest README has words of its own."""
    _, table, _, *on_a_kill = page.strip().split("\n\n")
    return "\n\n".join([table, *on_a_kill]) + "\n"


def experiment_table(page: str) -> str:
    """What each experiment of ``page`` took, without the rows of single methods and without commands and paths."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines)
    kept = [[row[head.index(name)] for name in _COLUMNS] for row in rows if row[0]]
    return _markdown(list(_COLUMNS), kept)


def read_numbers(root: Path) -> dict[str, str]:
    """Texts by name of the numbers of the published runs drawn below ``root``; "at least" as these pages write it."""
    beside = (path for path in (root / FIGURES).glob("*/numbers.json") if not is_own(path.parent.name))
    pages = {"": root / NUMBERS, **{camel(path.parent.name): path for path in beside}}
    return {
        prefix + number["name"]: number["text"].replace("$\\geq$\\,", "≥ ")
        for prefix, path in pages.items()
        for number in read_object(path)["numbers"]
    }


def _text(numbers: Mapping[str, str], name: str) -> str:
    if name not in numbers:
        raise command.Refusal(f"{NUMBERS} has no number {name}")
    return numbers[name]


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *rows])


def main() -> int:
    """Command line, in the root of the checkout: 0, 1 where ``--check`` finds a page that differs, 2 for bad input."""
    parser = command.parser("text.readme", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name the pages that would change")
    return command.run(lambda: _write(parser.parse_args()))


def _write(given: argparse.Namespace) -> None:
    numbers = read_numbers(Path())
    experiments, methods = (path.read_text(encoding="utf-8") for path in (EXPERIMENTS, METHODS))
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    changed = {path: new for path, old in pages.items() if (new := written(old, numbers, experiments, methods)) != old}
    if given.check and changed:
        raise Differs(f"{', '.join(map(str, changed))}: not what python -m evaluation.text.readme writes")
    for path, page in changed.items():
        write_text(path, page)
    print(f"{', '.join(map(str, changed)) or 'nothing'}: written anew")


class Differs(command.Refusal):
    """A page is not what the records give."""

    status = 1


if __name__ == "__main__":
    sys.exit(main())
