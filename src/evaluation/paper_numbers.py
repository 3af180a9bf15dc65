r"""Every number that prose may use, as a LaTeX macro each, and with its source as JSON.

Names say what they are, in words because LaTeX allows letters only:
\<Method><Workload><Quantity>Layer<Number>, as in \DjinnActivationReadyMsLayerForty, always of the headline
variant. Quantities are ReadyMs, FirstKernelMs, ResidentMs and ResultMs; PairedReadyRatio and
PairedFirstKernelRatio (Djinn over the hand-written offload beside it; with Low and High appended, the ends of
the 95 % interval). What compares or fits: \RecomputeOverDjinnActivationReadyRatioLayerForty,
\RecomputeActivationReadyMsPerLayer and \RecomputeActivationReadyRSquared. What describes the run: \GpuName,
\ModelName, \ModelDtype, \DeepestLayer, \SamplesPerCell.

Under load, with so many paused sessions: \DjinnLoadReadyMsSessionsSixtyFour, with Low, High, PNinetyFive and
PNinetyNine appended, of ResidentMs too, and \DjinnLoadResumesSessionsSixtyFour. Of \DjinnLoadMostSessions over
\DjinnLoadFewestSessions: \DjinnLoadReadyTailRatio is the 95th percentile over the median, the figure that decides
whether it is flat, and \DjinnLoadReadyMedianRatio the median over the median.

Of the size sweep, for each prompt: \RecomputeSweepReadyMsBatchFourTokensOneHundredTwentyEightLayerTen, of
ManualOffloadPinned and ManualOffloadPageable too; \SweepPinnedCrossoverLayerBatchFourTokensOneHundredTwentyEight, the
depth from which recompute takes longer; and of all sizes in words \SweepOrderLayerTen, the quickest first.

A method or a cell that was not measured, or for which the device had no room, has no macro, so that prose
about it does not compile. A gap in what was measured stops the build.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.atomic import write_json, write_text
from evaluation.outcomes import Crossing, Resumes, by_paused, growth, orders, read_rows
from evaluation.paper import Findings, latex, parser, read_machine, significant
from evaluation.runs import Json, RunError, read_json
from evaluation.statistics import linear_fit
from evaluation.summary import CLOCKS, Row, SummaryError

_PAIRED = {"paired_ratio": "PairedReadyRatio", "paired_first_kernel_ratio": "PairedFirstKernelRatio"}
_SOURCE = ("run", "workload", "method", "variant", "layer", "metric")


@dataclass(frozen=True, kw_only=True)
class Number:
    """A macro: ``value`` as it was computed, ``text`` as LaTeX prints it, ``source`` where it comes from.

    ``source`` lists the rows of the summary by their key, each with the column that was read, or the file and
    key.
    """

    name: str
    value: float | int | str
    text: str
    unit: str
    source: list[Json]


def numbers(
    findings: Findings,
    machine: Json,
    study: Json,
    load: Sequence[Resumes] = (),
    sweep: Sequence[Crossing] = (),
) -> list[Number]:
    """All numbers of a run; raises SummaryError for a missing value and for two numbers of one name."""
    found = [*_of_run(findings, machine, study)]
    for workload in findings.workloads:
        for method, variant in _variants(findings, workload):
            for clock in CLOCKS:
                found += _of_series(findings, workload, method, clock, camel(clock), variant=variant)
        for metric, quantity in _PAIRED.items():
            found += _of_series(findings, workload, "djinn", metric, quantity, with_interval=True)
        found += [*_recompute_over_djinn(findings, workload), *_recompute_fit(findings, workload)]
    found += [*_of_load(load), *_of_sweep(sweep)]
    names = [number.name for number in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise SummaryError(f"two numbers of one name: {', '.join(sorted(repeated))}")
    return found


def _of_run(findings: Findings, machine: Json, study: Json) -> Iterator[Number]:
    counts = [row for row in findings.rows if row.metric == "ready_ms" and row.headline and row.n]
    if not counts:
        raise SummaryError(f"run {findings.run} has no sample")
    fewest = min(counts, key=lambda row: row.n)
    yield _plain("SamplesPerCell", fewest.n, [_source(fewest, "n")])
    yield _plain("DeepestLayer", findings.deepest, [{"run": findings.run, "column": "layer"}])
    gpu = machine.get("gpu", {}).get("name")
    if machine["functional"]:
        gpu = "none (functional CPU run)"
    yield _plain("GpuName", gpu, [{"file": "machine.json", "key": "gpu.name"}])
    for key in ("name", "dtype"):
        value = study.get("model", {}).get(key)
        yield _plain(f"Model{camel(key)}", value, [{"file": "study.json", "key": f"model.{key}"}])


def _plain(name: str, value: object, source: list[Json]) -> Number:
    if not isinstance(value, (str, int)) or value == "":
        raise SummaryError(f"{name}: no value in {source[0]}: {value!r}")
    return Number(name=name, value=value, text=latex(value), unit="", source=source)


def _variants(findings: Findings, workload: str) -> Iterator[tuple[str, str | None]]:
    """Each method and, after its headline variant (None), its other ones."""
    for method in findings.methods:
        yield method, None
        own = [row for row in findings.rows if (row.workload, row.method) == (workload, method)]
        yield from ((method, variant) for variant in sorted({row.variant for row in own if not row.headline}))


def _of_series(
    findings: Findings,
    workload: str,
    method: str,
    metric: str,
    quantity: str,
    *,
    variant: str | None = None,
    with_interval: bool = False,
) -> Iterator[Number]:
    columns = {"": "median", "Low": "ci_low", "High": "ci_high"} if with_interval else {"": "median"}
    for row in _measured(findings, workload, method, metric, variant):
        name = f"{camel(method)}{camel(variant or '')}{camel(workload)}{quantity}Layer{in_words(row.layer)}"
        for ending, column in columns.items():
            value = _value(row, column)
            yield Number(
                name=name + ending,
                value=value,
                text=significant(value),
                unit=row.unit,
                source=[_source(row, column)],
            )


def _measured(findings: Findings, workload: str, method: str, metric: str, variant: str | None = None) -> list[Row]:
    """Rows of ``metric`` at every layer of the run, less those where ``method`` was refused by the device.

    Empty if ``method`` is not part of the run. Raises SummaryError for a gap.
    """
    if all(row.method != method for row in findings.rows):
        return []
    rows = {row.layer: row for row in findings.series(workload, method, metric, variant)}
    kept = []
    for layer in sorted({row.layer for row in findings.rows}):
        ready = findings.at(workload, method, "ready_ms", layer, variant)
        if ready is not None and ready.n == 0:
            continue
        if layer not in rows:
            raise SummaryError(f"run {findings.run}: no {metric} of {method}, workload {workload}, layer {layer}")
        kept.append(rows[layer])
    return kept


def _value(row: Row, column: str) -> float:
    value = getattr(row, column)
    if value is None:
        raise SummaryError(f"no value: {_source(row, column)}")
    return float(value)


def _source(row: Row, column: str) -> Json:
    return {**{key: getattr(row, key) for key in _SOURCE}, "column": column}


def _recompute_over_djinn(findings: Findings, workload: str) -> Iterator[Number]:
    layer = findings.deepest
    for clock in CLOCKS:
        pair = [
            row
            for method in ("recompute", "djinn")
            for row in _measured(findings, workload, method, clock)
            if row.layer == layer
        ]
        if len(pair) < 2:
            continue
        recompute, djinn = (_value(row, "median") for row in pair)
        if djinn == 0:
            raise SummaryError(f"a ratio to 0 has no value: {_source(pair[1], 'median')}")
        quantity = camel(clock).removesuffix("Ms") + "Ratio"
        yield Number(
            name=f"RecomputeOverDjinn{camel(workload)}{quantity}Layer{in_words(layer)}",
            value=recompute / djinn,
            text=significant(recompute / djinn),
            unit="ratio",
            source=[_source(row, "median") for row in pair],
        )


def _recompute_fit(findings: Findings, workload: str) -> Iterator[Number]:
    """The line through the medians; through two points it would say nothing."""
    rows = _measured(findings, workload, "recompute", "ready_ms")
    if len(rows) < 3:
        return
    fit = linear_fit([row.layer for row in rows], [_value(row, "median") for row in rows])
    name = f"Recompute{camel(workload)}Ready"
    source = [_source(row, "median") for row in rows]
    yield Number(name=f"{name}MsPerLayer", value=fit.slope, text=significant(fit.slope), unit="ms", source=source)
    yield Number(name=f"{name}RSquared", value=fit.r2, text=f"{fit.r2:.4f}", unit="", source=source)


def _of_load(load: Sequence[Resumes]) -> Iterator[Number]:
    columns = {"": "median", "Low": "ci_low", "High": "ci_high", "PNinetyFive": "p95", "PNinetyNine": "p99"}
    for clock in ("ready_ms", "resident_ms"):
        rows = by_paused(load, clock)
        for row in rows:
            for ending, column in columns.items():
                value, source = getattr(row, column), [_loaded(row, column)]
                name = f"DjinnLoad{camel(clock)}Sessions{in_words(row.paused)}{ending}"
                yield Number(name=name, value=value, text=significant(value), unit=row.unit, source=source)
        if not rows:
            continue
        first, last = rows[0], rows[-1]
        if clock == "ready_ms":
            for row in rows:
                yield _plain(f"DjinnLoadResumesSessions{in_words(row.paused)}", row.n, [_loaded(row, "n")])
            yield _plain("DjinnLoadFewestSessions", first.paused, [_loaded(first, "paused")])
            yield _plain("DjinnLoadMostSessions", last.paused, [_loaded(last, "paused")])
        quantity = camel(clock).removesuffix("Ms")
        for what, column in (("Tail", "p95"), ("Median", "median")):
            if (ratio := growth(rows, column)) is not None:
                source = [_loaded(last, column), _loaded(first, "median")]
                name = f"DjinnLoad{quantity}{what}Ratio"
                yield Number(name=name, value=ratio, text=significant(ratio), unit="ratio", source=source)


def _of_sweep(sweep: Sequence[Crossing]) -> Iterator[Number]:
    for row in sweep:
        size = f"Batch{in_words(row.batch)}Tokens{in_words(row.tokens)}"
        if row.ready_ms is not None:
            variant = "" if row.method == "recompute" else camel(row.variant)
            name = f"{camel(row.method)}{variant}SweepReadyMs{size}Layer{in_words(row.layer)}"
            text, source = significant(row.ready_ms), [_swept(row, "ready_ms")]
            yield Number(name=name, value=row.ready_ms, text=text, unit="ms", source=source)
        # It stands in the row of each layer, and is of the size and the variant.
        if row.crossover_layer is not None and row.layer == min(other.layer for other in sweep):
            name, source = f"Sweep{camel(row.variant)}CrossoverLayer{size}", [_swept(row, "crossover_layer")]
            text = significant(row.crossover_layer)
            yield Number(name=name, value=row.crossover_layer, text=text, unit="layer", source=source)
    for layer in sorted({row.layer for row in sweep}):
        rows = [row for row in sweep if row.layer == layer and row.ready_ms is not None]
        if rows:
            value, source = orders(rows), [_swept(row, "ready_ms") for row in rows]
            text = latex(value).replace(latex("<"), "$<$").replace(latex("~"), r"$\approx$")
            yield Number(name=f"SweepOrderLayer{in_words(layer)}", value=value, text=text, unit="", source=source)


def _swept(row: Crossing, column: str) -> Json:
    keys = {key: getattr(row, key) for key in ("run", "batch", "tokens", "method", "variant", "layer")}
    return {"file": "sweep.csv", **keys, "column": column}


def _loaded(row: Resumes, column: str) -> Json:
    keys = {key: getattr(row, key) for key in ("run", "sessions", "paused", "metric")}
    return {"file": "load.csv", **keys, "column": column}


# fmt: off
_ONES = (
    "Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven",
    "Twelve", "Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen", "Nineteen",
)
_TENS = ("Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety")  # from 20
# fmt: on


def in_words(number: int) -> str:
    """``number``, from 0 to 999 999, as one capitalised word: TwentyOne, OneHundredTwentyEight."""
    if not 0 <= number < 1_000_000:
        raise ValueError(f"{number} is not between 0 and 999999")
    for size, word in ((1000, "Thousand"), (100, "Hundred")):
        if number >= size:
            rest = number % size
            return in_words(number // size) + word + (in_words(rest) if rest else "")
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10 - 2] + (_ONES[number % 10] if number % 10 else "")


def camel(name: str) -> str:
    """``name`` in letters only: ``first_kernel_ms`` is FirstKernelMs, ``long-8k`` is LongEightK."""
    parts = re.findall(r"[0-9]{1,6}|[A-Za-z]+", name)
    return "".join(in_words(int(part)) if part.isdigit() else part[0].upper() + part[1:] for part in parts)


def as_latex(found: Sequence[Number], run: str) -> str:
    """One ``\\newcommand`` a line."""
    heading = f"% Written by evaluation.paper_numbers from the run {latex(run)}; do not edit.\n"
    return heading + "".join(f"\\newcommand{{\\{number.name}}}{{{number.text}}}\n" for number in found)


def as_json(found: Sequence[Number], run: str) -> dict[str, Any]:
    """The same with unit and source; values to 12 digits, for the last ones of a fit depend on the processor."""
    return {"run": run, "numbers": [{**vars(number), "value": _stable(number.value)} for number in found]}


def _stable(value: float | int | str) -> float | int | str:
    return float(f"{value:.12g}") if isinstance(value, float) else value


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for a value that is missing."""
    arguments = parser("paper_numbers", __doc__)
    arguments.add_argument(
        "--machine",
        type=Path,
        required=True,
        help="the machine.json of the run; study.json is read from beside it",
    )
    for name in ("load", "sweep"):
        arguments.add_argument(f"--{name}", type=Path, help=f"default: {name}.csv in the summary's folder")
    arguments.add_argument("--out-tex", type=Path, required=True)
    arguments.add_argument("--out-json", type=Path, required=True)
    given = arguments.parse_args()
    try:
        machine = read_machine(given.machine)
        study_path = given.machine.with_name("study.json")
        study = read_json(study_path)
        if not isinstance(study, dict):
            raise RunError(f"{study_path}: not a JSON object")
        load = read_rows(given.load or given.summary.with_name("load.csv"), Resumes, given.run)
        sweep = read_rows(given.sweep or given.summary.with_name("sweep.csv"), Crossing, given.run)
        found = numbers(Findings.read(given.summary, given.run), machine, study, load, sweep)
    except (SummaryError, RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_text(given.out_tex, as_latex(found, given.run))
    write_json(given.out_json, as_json(found, given.run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
