"""The power of the pairs: the share of runs that would decide claim C4, simulated from the spreads that a run measured.

A simulated process draws its log ratios at all layers together. They are normal, with the covariance that the processes
of the run have at these layers. A process counts with the mean of its blocks. The interval is that of
:func:`evaluation.analysis.statistics.process_median`, for one value of each process of one sitting, and the whole rule
is applied: every layer must hold. Says nothing of policies that the difference in ms decides.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from evaluation.analysis.margins import AS_FAST_UP_TO
from evaluation.analysis.pairs import Compared, Policy, compared
from evaluation.analysis.resampling import Values, draw_processes
from evaluation.analysis.statistics import ENOUGH, RESAMPLES, TAIL_OF_PROCESSES
from evaluation.command import Refusal, parser
from evaluation.command import run as run_command
from evaluation.records.runs import Run, load_run, run_folder

SLOWER = 1.12  # the true ratio at which a run should refute; at 1 it should support
PROCESSES = (6, 8, 12, 16)
_RUNS = 1000  # simulated for each number of processes
_PARTS = 10


@dataclass(frozen=True, kw_only=True)
class Power:
    """Shares of runs of ``processes`` processes: those that support C4 at a true ratio of 1, and refute it at 1.12.

    ``spread``: the standard deviation of a process's ratio at the layer where it is largest. ``width``: of the widest
    interval of a run, in the median of runs. Both are shares of the ratio.
    """

    workload: str
    clock: str
    processes: int
    spread: float
    width: float
    supported: float
    refuted: float


def powers(run: Run, processes: Sequence[int] = PROCESSES) -> list[Power]:
    """By workload and clock; none of pairs of too few processes to tell their spread, or that a process lacks."""
    return [row for one in compared(run) if one.policy == Policy() for row in _of_place(one, processes)]


def _of_place(one: Compared, processes: Sequence[int]) -> Iterator[Power]:
    pairings = one.strongest if len(one.layers) == 1 else one.pooled
    ratios = [pairing.ratios for pairing in pairings]
    if not ratios or not all(len(layer) >= ENOUGH for layer in ratios):
        return
    if any(value <= 0 for layer in ratios for process in layer for value in process):
        return
    logs = np.array([[np.mean(np.log(process)) for process in layer] for layer in ratios]).T
    spread = float(logs.std(axis=0, ddof=1).max())
    for count in processes:
        width, supported, refuted = simulated(logs, count)
        yield Power(
            workload=one.workload,
            clock=one.clock.words,
            processes=count,
            spread=spread,
            width=width,
            supported=supported,
            refuted=refuted,
        )


def simulated(logs: Values, processes: int, seed: int = 0) -> tuple[float, float, float]:
    """Width, share supported at 1 and share refuted at 1.12, from ``logs``: log ratios, a row per process, by layer.

    The same ``seed`` gives the same numbers. Raises ValueError for fewer than six ``processes``.
    """
    if processes < ENOUGH:
        raise ValueError(f"{processes} processes have no interval: {ENOUGH} are needed")
    generator = np.random.default_rng(seed)
    measured, layers = logs.shape
    apart = logs - logs.mean(axis=0)
    drawn = generator.normal(size=(_RUNS, processes, measured)) @ apart / sqrt(measured - 1)
    values = np.exp(drawn).transpose(0, 2, 1).reshape(-1, processes)
    # Draws of their own for each part of the runs: those of one interval may lie a little to either side.
    parts = [median_ends(part, generator) for part in np.split(values, _PARTS)]
    lows, highs = (np.concatenate(ends).reshape(_RUNS, layers) for ends in zip(*parts, strict=True))
    supported = np.all(highs <= AS_FAST_UP_TO, axis=1)
    refuted = np.any(SLOWER * lows > AS_FAST_UP_TO, axis=1)
    return float(np.median((highs - lows).max(axis=1))), float(supported.mean()), float(refuted.mean())


def median_ends(values: Values, generator: np.random.Generator) -> tuple[Values, Values]:
    """The ends of the resampled median of each row of ``values``, a value of each process.

    The median of a resample is that of two places in the sorted row, so that few different ones are drawn.
    """
    chosen = np.sort(draw_processes(values.shape[1], None, RESAMPLES, generator), axis=1)
    middle = chosen[:, [(values.shape[1] - 1) // 2, values.shape[1] // 2]]
    codes, often = np.unique(middle @ [values.shape[1], 1], return_counts=True)
    places = np.stack(np.divmod(codes, values.shape[1]), axis=1)
    ordered = np.sort(values, axis=1)
    medians = (ordered[:, places[:, 0]] + ordered[:, places[:, 1]]) / 2
    order = np.argsort(medians, axis=1)
    so_far = np.cumsum(often[order], axis=1)
    ends = []
    for share in (TAIL_OF_PROCESSES, 1 - TAIL_OF_PROCESSES):
        first = np.argmax(so_far > share * (RESAMPLES - 1), axis=1)
        ends.append(np.take_along_axis(medians, order[np.arange(len(order)), first][:, None], axis=1)[:, 0])
    return ends[0], ends[1]


def shown(row: Power) -> tuple[str, ...]:
    """A row as text: what a table prints below :data:`HEAD`."""
    shares = (f"{100 * value:.1f} %" for value in (row.spread, row.width))
    return row.workload, row.clock, str(row.processes), *shares, f"{row.supported:.0%}", f"{row.refuted:.0%}"


HEAD = ("workload", "clock", "processes", "spread", "interval", "supported at 1.00", f"refuted at {SLOWER}")


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for a run without enough pairs."""
    arguments = parser("analysis.power", __doc__)
    arguments.add_argument("--run", default="local", help="name of the run; default: local")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the runs lie; default: results")
    arguments.add_argument("--processes", type=int, nargs="+", default=PROCESSES, help="numbers to simulate, from 6")
    given = arguments.parse_args()

    def command() -> None:
        if few := [count for count in given.processes if count < ENOUGH]:
            raise Refusal(f"--processes {few[0]}: fewer than {ENOUGH} have no interval")
        rows = powers(load_run(run_folder(given.results, given.run)), given.processes)
        if not rows:
            raise Refusal(f"run {given.run}: no pairs of {ENOUGH} processes or more, whose spread would be known")
        print("\n".join("  ".join(row) for row in (HEAD, *map(shown, rows))))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
