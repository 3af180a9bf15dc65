r"""Every number that prose may use, as a LaTeX macro each, and with its source as JSON.

Names say what they are, in words because LaTeX allows letters only:
\<Method><Workload><Quantity>Layer<Number>, as in \DjinnActivationReadyMsLayerForty, always of the primary
variant. Quantities are ReadyMs, FirstKernelMs, UsableMs, NextTokenMs and ResidentMs. What
compares or fits: \RecomputeOverDjinnActivationReadyRatioLayerForty, \RecomputeActivationReadyMsPerLayer and
\RecomputeActivationReadyRSquared. What describes the run: \GpuName, \ModelName, \ModelDtype, \DeepestLayer,
\LeadingLayer where it is the one before, \SamplesPerCell, and of a Llama-2 \QueryHeads and \KvHeads. Of \Cells the
95th percentile of ready is more than \LongTailRatio medians in \CellsWithLongTails.

Djinn over the strongest form by hand, and less that: PairedReadyRatio and PairedReadyDifferenceMs, and so on. With Low
and High appended these are the ends of the 95 % interval; a range has no such macros. With Pooled in place of the layer
they are of all layers. With the frontier kept: \DjinnKeptSessionPairedReadyDifferenceMsLayerForty. Djinn over each form
by hand, and which of them is the strongest: \DjinnSessionOverAsyncFirstKernelRatioLayerForty,
\DjinnSessionStrongestFirstKernelLayerForty.

Among so many paused sessions: \DjinnLoadReadyMsSessionsSixtyFour, with Low, High, PNinetyFive, PNinetyNineLow and so
on appended, of ResidentMs too, and \DjinnLoadResumesSessionsSixtyFour. By hand beside them, with the same endings:
\ManualOffloadLoadReadyMsSessionsSixtyFour. Djinn's over those, turn by turn, and less those:
\DjinnLoadPairedReadyRatioSessionsSixtyFour, \DjinnLoadPairedReadyDifferenceMsSessionsSixtyFour. Of
\DjinnLoadMostSessions over \DjinnLoadFewestSessions: \DjinnLoadReadyTailRatio is the 95th percentile over the median,
the figure that decides whether it is flat, and \DjinnLoadReadyMedianRatio the median over the median.

Of what Djinn holds while paused: \DjinnSessionPauseMsLayerForty and \DjinnSessionStateMbLayerForty, in 10^6 bytes.

Of the memory wall: \DjinnSessions, \VanillaSessions and so on, with "at least" where only the cap ended the count, and
\DjinnSessionsEndedBy, what did;
\VanillaOwnProcessSessions. Of an edit: \DjinnProgramLines beyond vanilla's, \RecomputeReplayEditResumeMs. Of a peer:
\PeerMemorySaverSessionReadyMs and PauseMs. Of a run without a pause, over the bare model and less that:
\DjinnOverheadDecodeRatio and \DjinnOverheadDecodeDifferenceMs, with Low and High, and \DjinnOverheadDecodeBareMs. Of
the pairs that either model began: \DjinnOverheadDecodeDjinnFirstRatio and \DjinnOverheadDecodeBareFirstRatio.
Of a round trip: \DjinnEditingPausedMs, \DjinnEditingFirstPausedMs at a first site, EditMs, TotalMs and so on.

Of the size sweep, for each prompt: \RecomputeSweepReadyMsBatchFourTokensOneHundredTwentyEightLayerTen, of
ManualOffloadPinned and ManualOffloadPageable too. The depth from which recompute takes longer:
\SweepPinnedCrossoverLayerBatchFourTokensOneHundredTwentyEight. All sizes in words, the quickest first:
\SweepOrderLayerTen.

Over the wait between pause and resume: \DjinnActivationWaitTwoHundredReadyMsLayerTwenty, of FloorActivation too, and
\DjinnActivationShortestWaitReadyMs after \ShortestWaitMs, the Longest likewise. Of a
session that decodes beside another one, under Djinn: \NeighbourDjinnUndisturbedTokensPerS, \NeighbourDjinnSwapsCostMs
for each step of the other one, and that one's \NeighbourDjinnSwapsReadyMs; by hand \NeighbourManualOffloadSwapsCostMs.
All have Low and High, but for ranges.

Of sessions that outlive their process, in \DurableRun after \DurableLayer: \DurableSessionSaveMs, RestoreMs, RerunMs
and so on, \DurableSessionFileMb, and \DurableFirstRestoreMs of a process's first. Whether a method's edited session
survives a kill: \DjinnSurvivesKill.

In \DiskRun, of \DiskSessions of \DiskStateMb beyond an arena of \DiskArenaGib, \DiskSpilledSessions went to the disk.
Some found room in \DiskSwapOutMs, others spilled another one first in \DiskSpillingMs. Resumes took \DiskReadyMs and
\DiskReadySpilledMs. Plain transfers of as many bytes took \DiskWriteMs and \DiskReadMs.

What Plot 1 shows at its layer, \ActivationAtDepthLayer: recompute in its quickest form, \ActivationAtDepthRecompute,
takes \ActivationAtDepthReadyRatio times as long as Djinn, with Low and High where there is an interval. The times are
\ActivationAtDepthRecomputeReadyMs, DjinnReadyMs, DjinnKeptReadyMs, ByHandReadyMs, ByHandKeptReadyMs, RawCopyReadyMs,
DjinnResidentMs, and \ActivationAtDepthStateMb of what Djinn copies back.

Of a run that is drawn beside the leading one the macros begin with its name: \HTwoHundredDjinnSessions of ``h200``.

A method or a cell that was not measured, or for which the device had no room, has no macro, so that prose
about it does not compile. A gap in what was measured stops the build.
"""

from collections.abc import Iterator

from evaluation.analysis.depth import Depth
from evaluation.analysis.findings import Findings
from evaluation.analysis.material import Material
from evaluation.analysis.metrics import CLOCKS
from evaluation.analysis.statistics import linear_fit
from evaluation.analysis.summary import Row
from evaluation.analysis.table import TableError
from evaluation.records.atomic import json_text
from evaluation.records.runs import Json
from evaluation.study.architectures import LLAMA_2
from evaluation.text.macro import Number, as_json, as_latex, camel, in_words, measured, plain, prefix_of
from evaluation.text.numbers_of_depth import numbers_of_depth
from evaluation.text.numbers_of_use import Tables, numbers_of_use

_STATE = {"pause_ms": "PauseMs", "state_bytes": "StateMb"}
_WITH_INTERVAL = {"": "median", "Low": "ci_low", "High": "ci_high"}
_LONG_TAIL = 1.5  # a 95th percentile beyond so many medians
_SOURCE = ("run", "workload", "method", "variant", "layer", "metric")


def numbers(
    findings: Findings,
    machine: Json,
    study: Json,
    tables: Tables | None = None,
    depth: Depth | None = None,
) -> list[Number]:
    """All numbers of a run; raises TableError for a missing value and for two numbers of one name."""
    found = [*_of_run(findings, machine, study)]
    for workload in findings.workloads:
        for method, variant in _variants(findings, workload):
            for clock in findings.clocks(workload):
                found += _of_series(findings, workload, method, clock.metric, camel(clock.metric), variant)
        found += _of_pairs(findings, workload)
        for metric, quantity in _STATE.items():
            found += _of_series(findings, workload, "djinn", metric, quantity)
        found += [*_recompute_over_djinn(findings, workload), *_recompute_fit(findings, workload)]
    found += numbers_of_use(tables or Tables())
    found += numbers_of_depth(depth, findings.run, findings.workloads) if depth else []
    names = [number.name for number in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise TableError(f"two numbers of one name: {', '.join(sorted(repeated))}")
    return found


def _of_run(findings: Findings, machine: Json, study: Json) -> Iterator[Number]:
    counts = [row for row in findings.rows if row.metric == "ready_ms" and row.headline and row.n]
    if not counts:
        raise TableError(f"run {findings.run} has no sample")
    fewest = min(counts, key=lambda row: row.n)
    yield plain("SamplesPerCell", fewest.n, _source(fewest, "n"))
    tails = [row for row in counts if row.p95 is not None and row.median and row.p95 > _LONG_TAIL * row.median]
    about = {"file": "summary.csv", "run": findings.run, "metric": "ready_ms", "column": "p95"}
    yield plain("Cells", len(counts), about)
    yield plain("CellsWithLongTails", len(tails), about)
    yield plain("LongTailRatio", str(_LONG_TAIL), about)
    yield plain("DeepestLayer", findings.deepest, {"run": findings.run, "column": "layer"})
    for leading in _last_but_one(findings):
        yield plain("LeadingLayer", leading, {"run": findings.run, "column": "layer"})
    gpu = machine.get("gpu", {}).get("name")
    if machine["functional"]:
        gpu = "none (functional CPU run)"
    yield plain("GpuName", gpu, {"file": "machine.json", "key": "gpu.name"})
    if architecture := LLAMA_2.get(str(study.get("model", {}).get("name"))):
        for name, heads in (("QueryHeads", architecture.heads), ("KvHeads", architecture.kv_heads)):
            yield plain(name, heads, {"file": "study.json", "key": "model.name"})
    for key in ("name", "dtype"):
        value = study.get("model", {}).get(key)
        yield plain(f"Model{camel(key)}", value, {"file": "study.json", "key": f"model.{key}"})


def _last_but_one(findings: Findings) -> list[int]:
    """The layer before the deepest, which has a next one, where it was measured."""
    return [layer for layer in findings.layers if layer == findings.deepest - 1]


def _variants(findings: Findings, workload: str) -> Iterator[tuple[str, str | None]]:
    """Each method and, after its primary variant (None), its other ones."""
    for method in findings.methods:
        yield method, None
        own = [row for row in findings.rows if (row.workload, row.method, row.metric) == (workload, method, "ready_ms")]
        yield from ((method, variant) for variant in sorted({row.variant for row in own if not row.headline}))


def _of_series(
    findings: Findings,
    workload: str,
    method: str,
    metric: str,
    quantity: str,
    variant: str | None = None,
) -> Iterator[Number]:
    for row in _measured(findings, workload, method, metric, variant):
        name = f"{camel(method)}{camel(variant or '')}{camel(workload)}{quantity}Layer{in_words(row.breakpoint)}"
        value, unit = _value(row, "median"), row.unit
        if unit == "bytes":
            value, unit = value / 1e6, "MB"
        yield measured(name, value, unit, _source(row, "median"))


def _of_pairs(findings: Findings, workload: str) -> Iterator[Number]:
    """Ratios and differences of each of Djinn's forms, by layer and pooled."""
    for clock in CLOCKS:
        metrics = {clock.ratio: "Ratio", clock.difference: "DifferenceMs"}
        for row in findings.rows:
            if row.workload == workload and row.metric in metrics:
                form = "" if row.headline else camel(row.variant)
                place = "Pooled" if row.layer is None else f"Layer{in_words(row.layer)}"
                name = f"Djinn{form}{camel(workload)}Paired{camel(clock.name)}{metrics[row.metric]}{place}"
                for ending, column in _WITH_INTERVAL.items():
                    if column.startswith("ci_") and row.is_range:
                        continue
                    yield measured(name + ending, _value(row, column), row.unit, _source(row, column))


def _measured(findings: Findings, workload: str, method: str, metric: str, variant: str | None = None) -> list[Row]:
    """Rows of ``metric`` at every layer of the run, less those where ``method`` was refused by the device.

    Empty if the latency of ``method`` is not part of the run, or its other ``variant`` has no such clock. Raises
    TableError for a gap.
    """
    if all((row.method, row.metric) != (method, "ready_ms") for row in findings.rows):
        return []
    rows = {row.layer: row for row in findings.series(workload, method, metric, variant)}
    if variant is not None and not rows:
        return []
    kept = []
    for layer in findings.layers:
        ready = findings.at(workload, method, "ready_ms", layer, variant)
        if ready is not None and ready.n == 0:
            continue
        if layer not in rows:
            raise TableError(f"run {findings.run}: no {metric} of {method}, workload {workload}, layer {layer}")
        kept.append(rows[layer])
    return kept


def _value(row: Row, column: str) -> float:
    value = getattr(row, column)
    if value is None:
        raise TableError(f"no value: {_source(row, column)}")
    return float(value)


def _source(row: Row, column: str) -> Json:
    return {**{key: getattr(row, key) for key in _SOURCE}, "column": column}


def _recompute_over_djinn(findings: Findings, workload: str) -> Iterator[Number]:
    places = [(clock, layer) for clock in findings.clocks(workload) for layer in _deep(findings)]
    for clock, layer in places:
        pair = [
            row
            for method in ("recompute", "djinn")
            for row in _measured(findings, workload, method, clock.metric)
            if row.layer == layer
        ]
        if len(pair) < 2:
            continue
        recompute, djinn = (_value(row, "median") for row in pair)
        if djinn == 0:
            raise TableError(f"a ratio to 0 has no value: {_source(pair[1], 'median')}")
        name = f"RecomputeOverDjinn{camel(workload)}{camel(clock.name)}RatioLayer{in_words(layer)}"
        yield measured(name, recompute / djinn, "ratio", *(_source(row, "median") for row in pair))


def _deep(findings: Findings) -> list[int]:
    return [*_last_but_one(findings), findings.deepest]


def _recompute_fit(findings: Findings, workload: str) -> Iterator[Number]:
    """The line through the medians; through two points it would say nothing."""
    rows = _measured(findings, workload, "recompute", "ready_ms")
    if len(rows) < 3:
        return
    fit = linear_fit([row.breakpoint for row in rows], [_value(row, "median") for row in rows])
    name = f"Recompute{camel(workload)}Ready"
    source = [_source(row, "median") for row in rows]
    yield measured(f"{name}MsPerLayer", fit.slope, "ms", *source)
    yield Number(name=f"{name}RSquared", value=fit.r2, text=f"{fit.r2:.4f}", unit="", source=source)


def files(material: Material, workload: str) -> list[str]:
    """``numbers.tex`` and ``numbers.json``."""
    found = numbers(
        material.findings, material.machine, material.study, Tables.of(material), Depth(material.findings, material.run)
    )
    return [as_latex(found, material.name, prefix_of(material)), json_text(as_json(found, material.name))]
