"""Writes the tables of a run, from its raw records into a folder of their own: ``results/tables/RUN``.

``--join`` writes the tables of several runs together instead, into ``results``, from those folders.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.analysis.comparisons import Comparison, comparisons
from evaluation.analysis.crossings import Crossing, crossings
from evaluation.analysis.durability import Durability, Kill, durabilities, kills
from evaluation.analysis.neighbours import Disturbance, disturbances
from evaluation.analysis.outcomes import Capability, Capacity, PeerMetric, capabilities, capacities, peer_metrics
from evaluation.analysis.overhead import Overhead, overheads
from evaluation.analysis.resumes import Resumes, resumes
from evaluation.analysis.round_trips import RoundTrip, round_trips
from evaluation.analysis.spills import Spilling, spillings
from evaluation.analysis.summary import Row, summarise
from evaluation.analysis.table import TableError, read_table, write_table
from evaluation.analysis.waits import Wait, waits
from evaluation.command import parser, run
from evaluation.records.runs import Run, load_run, run_folder


@dataclass(frozen=True, kw_only=True)
class Table:
    """A CSV file of a run: the dataclass of its rows, and what makes them of the records."""

    kind: type[Any]
    rows: Callable[[Run], list[Any]]


TABLES = {
    "summary": Table(kind=Row, rows=summarise),
    "capacity": Table(kind=Capacity, rows=capacities),
    "capabilities": Table(kind=Capability, rows=capabilities),
    "sweep": Table(kind=Crossing, rows=crossings),
    "load": Table(kind=Resumes, rows=resumes),
    "overhead": Table(kind=Overhead, rows=overheads),
    "peers": Table(kind=PeerMetric, rows=peer_metrics),
    "pairs": Table(kind=Comparison, rows=comparisons),
    "thinking": Table(kind=Wait, rows=waits),
    "neighbour": Table(kind=Disturbance, rows=disturbances),
    "editing": Table(kind=RoundTrip, rows=round_trips),
    "durable": Table(kind=Durability, rows=durabilities),
    "kills": Table(kind=Kill, rows=kills),
    "disk": Table(kind=Spilling, rows=spillings),
}


def aggregate(of: Run, folder: Path) -> None:
    """Write the tables of one run into ``folder``."""
    _write(folder, {name: table.rows(of) for name, table in TABLES.items()})


def join(folders: Sequence[Path], target: Path) -> None:
    """Write each table of the runs in ``folders``, one run after the other, into the folder ``target``."""
    for folder in folders:
        if folders.count(folder) > 1:
            raise TableError(f"{folder.name}: named twice; its rows could not be told apart")
    tables = {
        name: [row for folder in folders for row in read_table(folder / f"{name}.csv", table.kind)]
        for name, table in TABLES.items()
    }
    _write(target, tables)


def _write(folder: Path, tables: dict[str, list[Any]]) -> None:
    """Given all at once, so that none is written where one cannot be made; says how many rows each has."""
    for name, rows in tables.items():
        write_table(folder / f"{name}.csv", TABLES[name].kind, rows)
    print(f"{folder}: rows of {', '.join(f'{name}.csv {len(rows)}' for name, rows in tables.items() if rows)}")


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for a run that cannot be used."""
    arguments = parser("analysis.aggregate", __doc__)
    which = arguments.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", help="name of the run: local, or that of a published one")
    which.add_argument("--join", nargs="+", metavar="RUN", help="names of runs whose tables are there already")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the runs lie; default: results")
    given = arguments.parse_args()
    tables = given.results / "tables"
    if given.join:
        return run(lambda: join([tables / name for name in given.join], given.results))
    return run(lambda: aggregate(load_run(run_folder(given.results, given.run)), tables / given.run))


if __name__ == "__main__":
    sys.exit(main())
