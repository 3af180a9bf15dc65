r"""The numbers beside latency over depth: of the forms in pairs, and of all that is measured besides.

Part of :mod:`evaluation.text.numbers`, whose docstring tells the names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evaluation.analysis.comparisons import STRONGEST, Comparison
from evaluation.analysis.crossings import Crossing, orders
from evaluation.analysis.durability import EDIT, NOTHING, SESSION, Durability, Kill
from evaluation.analysis.material import Material
from evaluation.analysis.neighbours import Disturbance
from evaluation.analysis.numerals import significant
from evaluation.analysis.outcomes import Capability, Capacity, PeerMetric
from evaluation.analysis.overhead import Overhead
from evaluation.analysis.resumes import BY_HAND, CLOCKS, Resumes, by_paused, growth
from evaluation.analysis.round_trips import FIRST, RoundTrip
from evaluation.analysis.spills import Spilling
from evaluation.analysis.statistics import ENOUGH
from evaluation.analysis.variants import PRIMARY
from evaluation.analysis.waits import FLOOR, Wait
from evaluation.records.runs import Json
from evaluation.text.latex import Latex, latex
from evaluation.text.macro import Number, camel, in_words, measured, plain

_HEADLINES = {variant.name for variant in PRIMARY.values()}
_ENDS = {"Low": "ci_low", "High": "ci_high"}
_OF_A_PEER = ("ready_ms", "pause_ms")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What was measured of one run besides latency over depth; empty where it was not."""

    load: Sequence[Resumes] = ()
    sweep: Sequence[Crossing] = ()
    capacity: Sequence[Capacity] = ()
    capabilities: Sequence[Capability] = ()
    peers: Sequence[PeerMetric] = ()
    pairs: Sequence[Comparison] = ()
    thinking: Sequence[Wait] = ()
    neighbour: Sequence[Disturbance] = ()
    editing: Sequence[RoundTrip] = ()
    overhead: Sequence[Overhead] = ()
    durable: Sequence[Durability] = ()
    kills: Sequence[Kill] = ()
    disk: Sequence[Spilling] = ()

    @classmethod
    def of(cls, material: Material) -> "Tables":
        """All that there is of a run."""
        return cls(
            load=material.rows("load", Resumes),
            sweep=material.rows("sweep", Crossing),
            capacity=material.rows("capacity", Capacity),
            capabilities=material.rows("capabilities", Capability),
            peers=material.rows("peers", PeerMetric),
            pairs=material.rows("pairs", Comparison),
            thinking=material.rows("thinking", Wait),
            neighbour=material.rows("neighbour", Disturbance),
            editing=material.rows("editing", RoundTrip),
            overhead=material.rows("overhead", Overhead),
            durable=material.rows("durable", Durability),
            kills=material.rows("kills", Kill),
            disk=material.rows("disk", Spilling),
        )


def numbers_of_use(tables: Tables) -> Iterator[Number]:
    """All numbers of ``tables``."""
    yield from _of_forms(tables.pairs)
    yield from _of_load(tables.load)
    yield from _of_sweep(tables.sweep)
    yield from _of_capacity(tables.capacity)
    yield from _of_capabilities(tables.capabilities)
    yield from _of_editing(tables.editing)
    yield from _of_overhead(tables.overhead)
    yield from _of_peers(tables.peers)
    yield from _of_waits(tables.thinking)
    yield from _of_neighbours(tables.neighbour)
    yield from _of_durable(tables.durable)
    yield from _of_kills(tables.kills)
    yield from _of_disk(tables.disk)


def _of_forms(pairs: Sequence[Comparison]) -> Iterator[Number]:
    """Which form is the strongest at each layer, and Djinn over every form, whether it is the strongest or not."""
    for row in pairs:
        form = "" if row.variant in _HEADLINES else camel(row.variant)
        name, clock = f"Djinn{form}{camel(row.workload)}", camel(row.clock)
        place = "Pooled" if row.layer is None else f"Layer{in_words(row.layer)}"
        keys = {key: getattr(row, key) for key in ("run", "workload", "clock", "layer", "variant", "by_hand")}
        source = {"file": "pairs.csv", **keys}
        if row.strongest and row.layer is not None:
            yield plain(f"{name}Strongest{clock}{place}", row.by_hand, {**source, "column": "by_hand"})
        if row.by_hand != STRONGEST and row.ratio is not None:
            ends = {} if row.is_range else {"Low": "ratio_low", "High": "ratio_high"}
            for ending, column in {"": "ratio", **ends}.items():
                ratio = f"{name}Over{camel(row.by_hand)}{clock}Ratio{place}{ending}"
                yield measured(ratio, getattr(row, column), "ratio", {**source, "column": column})


def _of_load(load: Sequence[Resumes]) -> Iterator[Number]:
    median_of = {"": "median", "Low": "ci_low", "High": "ci_high"}
    percentiles = {
        f"PNinety{words}{ending}": f"{column}{end}"
        for words, column in (("Five", "p95"), ("Nine", "p99"))
        for ending, end in (("", ""), ("Low", "_low"), ("High", "_high"))
    }
    for clock in CLOCKS:
        quantity = camel(clock).removesuffix("Ms")
        rows = by_paused(load, clock)
        for who, mine in (("Djinn", rows), ("ManualOffload", by_paused(load, clock, BY_HAND))):
            yield from _each(f"{who}Load{quantity}Ms", mine, {**median_of, **percentiles})
        of_pairs = {"Ratio": f"paired_{clock.removesuffix('_ms')}_ratio", "DifferenceMs": f"paired_{clock}"}
        for what, metric in of_pairs.items():
            yield from _each(f"DjinnLoadPaired{quantity}{what}", by_paused(load, metric), median_of)
        if not rows:
            continue
        first, last = rows[0], rows[-1]
        if clock == "ready_ms":
            for row in rows:
                yield plain(f"DjinnLoadResumesSessions{in_words(row.paused)}", row.n, _loaded(row, "n"))
            yield plain("DjinnLoadFewestSessions", first.paused, _loaded(first, "paused"))
            yield plain("DjinnLoadMostSessions", last.paused, _loaded(last, "paused"))
        for what, column in (("Tail", "p95"), ("Median", "median")):
            if (ratio := growth(rows, column)) is not None:
                name = f"DjinnLoad{quantity}{what}Ratio"
                yield measured(name, ratio, "ratio", _loaded(last, column), _loaded(first, "median"))


def _each(name: str, rows: Sequence[Resumes], columns: Mapping[str, str]) -> Iterator[Number]:
    """Of each number of paused sessions, the ``columns`` by what is appended; none that there were too few for."""
    for row in rows:
        for ending, column in columns.items():
            if (value := getattr(row, column)) is not None:
                whole = f"{name}Sessions{in_words(row.paused)}{ending}"
                yield measured(whole, value, row.unit, _loaded(row, column))


def _of_sweep(sweep: Sequence[Crossing]) -> Iterator[Number]:
    for row in sweep:
        size = f"Batch{in_words(row.batch)}Tokens{in_words(row.tokens)}"
        if row.ready_ms is not None:
            variant = "" if row.variant == "default" else camel(row.variant)
            name = f"{camel(row.method)}{variant}SweepReadyMs{size}Layer{in_words(row.layer)}"
            yield measured(name, row.ready_ms, "ms", _swept(row, "ready_ms"))
        # It stands in the row of each layer, and is of the size and the variant.
        if row.crossover_layer is not None and row.layer == min(other.layer for other in sweep):
            name = f"Sweep{camel(row.variant)}CrossoverLayer{size}"
            yield measured(name, row.crossover_layer, "layer", _swept(row, "crossover_layer"))
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
    keys = {key: getattr(row, key) for key in ("run", "sessions", "paused", "method", "metric")}
    return {"file": "load.csv", **keys, "column": column}


def _of_capacity(rows: Sequence[Capacity]) -> Iterator[Number]:
    for row in rows:
        name = f"{camel(row.method)}{'' if row.variant in _HEADLINES else camel(row.variant)}Sessions"
        source = {"file": "capacity.csv", "run": row.run, "method": row.method, "variant": row.variant}
        text = Latex(rf"$\geq$\,{row.sessions}") if row.stopped_by == "cap" else latex(row.sessions)
        yield Number(name=name, value=row.sessions, text=text, unit="", source=[{**source, "column": "sessions"}])
        yield plain(f"{name}EndedBy", _ended_by(row), {**source, "column": "stopped_by"})


def _ended_by(row: Capacity) -> str:
    """What refused one more, in words."""
    if row.stopped_by == "arena" and row.arena_bytes is not None:
        return f"the arena of {significant(row.arena_bytes / 2**30)} GiB"
    return {"device_oom": "device memory", "host_full": "host memory", "cap": "the cap"}[row.stopped_by]


def _of_capabilities(rows: Sequence[Capability]) -> Iterator[Number]:
    for row in rows:
        name = f"{camel(row.method)}{'' if row.variant in _HEADLINES else camel(row.variant)}"
        source = {"file": "capabilities.csv", "run": row.run, "method": row.method, "variant": row.variant}
        if row.state_lines is not None:
            yield plain(f"{name}ProgramLines", row.state_lines, {**source, "column": "state_lines"})
        yield measured(f"{name}EditResumeMs", row.resume_ms, "ms", {**source, "column": "resume_ms"})


def _of_editing(rows: Sequence[RoundTrip]) -> Iterator[Number]:
    for row in rows:
        variant, site = "" if row.variant in _HEADLINES else camel(row.variant), "First" if row.site == FIRST else ""
        keys = {key: getattr(row, key) for key in ("run", "method", "variant", "site", "metric")}
        name = f"{camel(row.method)}{variant}Editing{site}{camel(row.metric)}"
        yield measured(name, row.median, "ms", {"file": "editing.csv", **keys, "column": "median"})


def _of_durable(rows: Sequence[Durability]) -> Iterator[Number]:
    """Each metric of each workload, a range without its ends; what a process pays once has no workload in its name."""
    for row in rows[:1]:
        for name, value in (("DurableRun", row.run), ("DurableLayer", row.layer)):
            yield plain(name, value, {"file": "durable.csv", "run": row.run})
    for row in rows:
        workload = "" if row.metric.startswith("first") else camel(row.workload)
        source = {"file": "durable.csv", **{key: getattr(row, key) for key in ("run", "workload", "metric")}}
        size = row.unit == "bytes"
        for ending, column in {"": "median", **(_ENDS if row.n >= ENOUGH else {})}.items():
            value, about = getattr(row, column), {**source, "column": column}
            if size:
                yield measured(f"Durable{workload}{camel(row.metric[:-6])}Mb", value / 1e6, "MB", about)
            else:
                yield measured(f"Durable{workload}{camel(row.metric)}{ending}", value, "ms", about)


def _of_kills(rows: Sequence[Kill]) -> Iterator[Number]:
    """What a kill leaves of each variant's session, in words."""
    for row in rows:
        name = f"{camel(row.method)}{'' if row.variant in _HEADLINES else camel(row.variant)}SurvivesKill"
        source = {"file": "kills.csv", **{key: getattr(row, key) for key in ("run", "method", "variant")}}
        words = {EDIT: "yes", SESSION: "without its edit", NOTHING: "no"}[row.survives]
        yield plain(name, words, {**source, "column": "survives"})


def _of_disk(rows: Sequence[Spilling]) -> Iterator[Number]:
    """How many sessions, and each metric, a range without its ends."""
    for row in rows[:1]:
        source = {"file": "disk.csv", "run": row.run}
        counts = ("DiskRun", row.run), ("DiskSessions", row.sessions), ("DiskSpilledSessions", row.on_disk)
        for name, value in counts:
            yield plain(name, value, source)
        yield measured("DiskArenaGib", row.host_arena_bytes / 2**30, "GiB", {**source, "column": "host_arena_bytes"})
        yield measured("DiskStateMb", row.state_bytes / 1e6, "MB", {**source, "column": "state_bytes"})
    for row in rows:
        source = {"file": "disk.csv", "run": row.run, "metric": row.metric}
        for ending, column in {"": "median", **(_ENDS if row.n >= ENOUGH else {})}.items():
            yield measured(f"Disk{camel(row.metric)}{ending}", getattr(row, column), "ms", {**source, "column": column})


def _of_overhead(rows: Sequence[Overhead]) -> Iterator[Number]:
    """Djinn's time over the bare model's and less that; the same of the pairs that either began, to check the order."""
    for row in rows:
        if row.place is not None:
            continue
        name = f"DjinnOverhead{camel(row.name)}{f'{camel(row.began)}First' if row.began else ''}"
        source = {"file": "overhead.csv", **{key: getattr(row, key) for key in ("run", "name", "began", "place")}}
        for ending, column in {"": "ratio", "Low": "ratio_low", "High": "ratio_high"}.items():
            value, about = getattr(row, column), [{**source, "column": column}]
            yield Number(name=f"{name}Ratio{ending}", value=value, text=f"{value:.3f}", unit="ratio", source=about)
        for ending in ("", "Low", "High"):
            column = f"difference_{ending.lower() or 'ms'}"
            yield measured(f"{name}DifferenceMs{ending}", getattr(row, column), "ms", {**source, "column": column})
        yield measured(f"{name}BareMs", row.bare_ms, "ms", {**source, "column": "bare_ms"})


def _of_peers(rows: Sequence[PeerMetric]) -> Iterator[Number]:
    for row in rows:
        if row.metric in _OF_A_PEER and row.median is not None:
            name = f"Peer{camel(row.peer)}{camel(row.workload)}{camel(row.metric)}"
            keys = {key: getattr(row, key) for key in ("run", "peer", "workload", "metric")}
            yield measured(name, row.median, row.unit, {"file": "peers.csv", **keys, "column": "median"})


def _of_waits(rows: Sequence[Wait]) -> Iterator[Number]:
    """Each clock of each form after each wait, a range without its ends; of the raw copy the name is ``Floor``.

    After the shortest and the longest wait of all, Djinn's and the raw copy's are easier to ask for.
    """
    waits = [row.think_time_ms for row in rows]
    ends = {"Shortest": min(waits), "Longest": max(waits)} if waits else {}
    for row in rows:
        form = f"{camel(row.method)}{'' if row.variant in _HEADLINES else camel(row.variant)}"
        name = f"{form}{camel(row.workload)}Wait{camel(f'{row.think_time_ms:g}')}{camel(row.metric)}"
        name += f"Layer{in_words(row.layer)}"
        keys = ("run", "workload", "layer", "method", "variant", "think_time_ms", "metric")
        source = {"file": "thinking.csv", **{key: getattr(row, key) for key in keys}}
        for ending, column in {"": "median", **({} if row.is_range else _ENDS)}.items():
            yield measured(f"{name}{ending}", getattr(row, column), row.unit, {**source, "column": column})
        if row.metric == "ready_ms" and row.form in (("djinn", "default"), (FLOOR, "default")):
            for end in (one for one, wait in ends.items() if wait == row.think_time_ms):
                name = f"{form}{camel(row.workload)}{end}WaitReadyMs"
                yield measured(name, row.median, row.unit, {**source, "column": "median"})
    for end, wait in ends.items():
        yield plain(f"{end}WaitMs", f"{wait:g}", {"file": "thinking.csv", "column": "think_time_ms"})


def _of_neighbours(rows: Sequence[Disturbance]) -> Iterator[Number]:
    """Of a session that decodes, and of the one that is swapped beside it: by method, window and metric."""
    for row in rows:
        name = f"Neighbour{camel(row.method)}{camel(row.window)}{camel(row.metric)}"
        keys = ("run", "method", "variant", "window", "metric")
        source = {"file": "neighbour.csv", **{key: getattr(row, key) for key in keys}}
        for ending, column in {"": "median", **({} if row.is_range else _ENDS)}.items():
            yield measured(f"{name}{ending}", getattr(row, column), row.unit, {**source, "column": column})
