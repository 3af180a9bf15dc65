"""What each experiment took of the machine: a row each of jobs, time, host memory and disk, and what they add up to.

Times and memory are those of Snakemake's benchmark files beside the records of a run, disk is the size of the records;
nothing is typed in. Which claims an experiment decides is told by :mod:`evaluation.claims.decide`. Probe, tables and
figures have no benchmark file and are not counted.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from evaluation.analysis.material import Material
from evaluation.analysis.numerals import significant
from evaluation.claims.decide import OF_EVERY_RUN, PLAN, Entry
from evaluation.records.benchmark import Benchmark
from evaluation.records.runs import (
    Json,
    Run,
    benchmark_path,
    latency_methods,
    pair_paths,
    record_paths,
    side_records,
)
from evaluation.text.latex import markdown

_GIB = 2**30
_MISSING = "--"
_HEAD = ("", "claims", "what", "command", "output", "jobs", "machine time", "one job", "peak memory", "disk")
_LATENCY = "raw/"
_PAIRS = "pairs"
# What of the latency decides a claim: the samples of a method, or the pairs.
_DECIDES = {"recompute": ("C1",), _PAIRS: ("C2", "C3", "C4", "C5")}
_STUDY_IN = re.compile(r"--study results/([^/ ]+)/")  # in the command of a record that a rule made
_OWN = "local"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """``records`` is the folder or file of its records in a run, ``made`` what the pipeline makes of them."""

    what: str
    records: str
    made: tuple[str, ...]


EXPERIMENTS = {
    "E1": Experiment(
        what="resume latency over depth: a process for each method, layer and round",
        records=_LATENCY,
        made=("results/summary.csv", "crossover*.pdf", "clocks.pdf"),
    ),
    "E2": Experiment(
        what="the memory wall: paused sessions until something refuses, all resumed and compared",
        records="capacity/",
        made=("results/capacity.csv", "memory_wall.pdf"),
    ),
    "E3": Experiment(
        what="an edit of the paused state, against a plain hook in an uninterrupted run, and the lines it takes",
        records="capabilities/",
        made=("results/capabilities.csv", "capabilities.tex"),
    ),
    "E4": Experiment(
        what="resumes of random ones among paused sessions, and of copies by hand, by turns",
        records="load.json",
        made=("results/load.csv", "load.pdf"),
    ),
    "E5": Experiment(
        what="the cost of Djinn where nothing is paused", records="overhead.json", made=("results/overhead.csv",)
    ),
    "E6": Experiment(
        what="prompts at which recompute and copies cross",
        records="sweep.json",
        made=("results/sweep.csv", "sweep.pdf"),
    ),
    "E7": Experiment(
        what="what a user would pick instead, at the deepest layer", records="peers/", made=("results/peers.csv",)
    ),
    "E8": Experiment(
        what="resume latency over the wait between pause and resume",
        records="thinking.json",
        made=("results/thinking.csv", "thinking.pdf"),
    ),
    "E9": Experiment(
        what="what a swap costs another session that computes",
        records="neighbour.json",
        made=("results/neighbour.csv", "neighbour.tex"),
    ),
    "E10": Experiment(
        what="a debugger's round trip: pause, first pause at a site, edit, resume, usable",
        records="editing.json",
        made=("results/editing.csv", "editing.tex"),
    ),
    "E11": Experiment(
        what="sessions are saved, their process is killed, and they go on in another one; what survives of each method",
        records="durable.json",
        made=("results/durable.csv", "results/kills.csv", "durable.tex"),
    ),
    "E12": Experiment(
        what="more paused sessions than host memory holds: those that wait longest go to a disk, and all come back",
        records="disk.json",
        made=("results/disk.csv",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the jobs of some records took; None where no job says."""

    asked: int  # records that the study asks for
    jobs: int  # of them, those that are there
    timed: int  # of them, those with a benchmark file
    seconds: float | None  # sum of the timed jobs
    median_seconds: float | None  # of a timed job
    peak_bytes: int | None  # host memory, the most of any job
    disk_bytes: int  # of the records

    @classmethod
    def of(cls, folder: Path, records: Sequence[Path]) -> "Cost":
        """Of ``records`` of the run ``folder``, there or not. Raises RunError for a damaged benchmark file."""
        there = [path for path in records if path.exists()]
        files = [path for path in (benchmark_path(folder, record) for record in there) if path.exists()]
        benchmarks = [Benchmark.read(path) for path in files]
        seconds = [one.seconds for one in benchmarks]
        return cls(
            asked=len(records),
            jobs=len(there),
            timed=len(benchmarks),
            seconds=math.fsum(seconds) if seconds else None,
            median_seconds=median(seconds) if seconds else None,
            peak_bytes=max((one.peak_bytes for one in benchmarks if one.peak_bytes is not None), default=None),
            disk_bytes=sum(path.stat().st_size for path in there),
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: an experiment, the jobs of one ``method`` in it, or the total."""

    name: str
    method: str = ""
    claims: tuple[str, ...] = ()
    what: str
    command: str  # makes the first of the outputs
    outputs: tuple[str, ...]
    cost: Cost


def rows(folder: Path, study: Json, made_in: str = _OWN, plan: Sequence[Entry] = PLAN) -> list[Row]:
    """The table of the run in ``folder``, the total last. Raises RunError for a damaged benchmark file.

    ``made_in``: the run's name where it was measured, which its study gives; commands are those that make it there.
    ``plan``: the claims that the run decides.
    """
    by_hand = "" if made_in == _OWN else f" --study results/{made_in}/study.json"
    raw = [*record_paths(folder, study), *pair_paths(folder, study)]
    records = [*raw, *(folder / name for name in side_records(study))]
    table = []
    for name, one in EXPERIMENTS.items():
        own = [path for path in records if path.relative_to(folder).as_posix().startswith(one.records)]
        if not own:
            continue  # no part of this study
        outputs = (f"results/{made_in}/{one.records}", *one.made)
        command, cost = _command(folder, one.records, own, made_in), Cost.of(folder, own)
        claims = tuple(entry.statement.id for entry in plan if entry.statement.experiment == name)
        table.append(Row(name=name, claims=claims, what=one.what, command=command, outputs=outputs, cost=cost))
        for method in latency_methods(study) if one.records == _LATENCY else ():
            of_method = [path for path in own if path.is_relative_to(folder / one.records / method)]
            what, outputs, cost = f"of these, {method}", ("r.json",), Cost.of(folder, of_method)
            options = f"--layer {max(study['layers'])} --out r.json{by_hand}"
            command = f"python -m evaluation.methods.benchmark_{method} {options}"
            decided = _DECIDES.get(method, ())
            table.append(
                Row(name=name, method=method, claims=decided, what=what, command=command, outputs=outputs, cost=cost)
            )
        if one.records == _LATENCY and (pairs := pair_paths(folder, study)):
            what, cost = "of these, pairs: all forms of a resume in one process for each round", Cost.of(folder, pairs)
            command, outputs = f"python -m evaluation.experiments.pairs --round 1 --out r.json{by_hand}", ("r.json",)
            decided = _DECIDES[_PAIRS]
            table.append(
                Row(name=name, method=_PAIRS, claims=decided, what=what, command=command, outputs=outputs, cost=cost)
            )
    outputs, cost = ("results/", "paper_figures/"), Cost.of(folder, records)
    whole = "make paper_figures" if made_in == _OWN else "snakemake --cores 1 paper_figures"
    return [*table, Row(name="total", what="", command=whole, outputs=outputs, cost=cost)]


def _command(folder: Path, place: str, records: Sequence[Path], made_in: str) -> str:
    """Makes these records and, but for the study, nothing else; those of latency are too many to name."""
    if place == _LATENCY:
        return "snakemake --cores 1 --until measure"
    targets = [path.relative_to(folder).as_posix() for path in records]
    if len(targets) > 1:
        targets = [f"{place}{{{','.join(path.stem for path in records)}}}.json"]
    return f"snakemake --cores 1 results/{made_in}/{targets[0]}"


def _made_in(run: Run) -> str:
    """What ``run`` was called where it was measured, as the commands of its records say."""
    found = (_STUDY_IN.search(record["provenance"]["command"]) for record in run.records)
    return next((match[1] for match in found if match), _OWN)


def page(run: Run, table: Sequence[Row]) -> str:
    """The whole page, as Markdown."""
    lines = [f"# What each experiment of the run {markdown(run.name)} took", "", _machine(run), ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (_HEAD, ["---"] * len(_HEAD), *map(_cells, table))]
    remarks = [*_remarks(table[-1]), *_another_study(_made_in(run)), *_origins(run)]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks)]) + "\n"


def _machine(run: Run) -> str:
    host, gpu = (run.machine.get(name) or {} for name in ("host", "gpu"))
    cores = next((host[name] for name in ("cores_usable", "cores") if isinstance(host.get(name), int)), None)
    known = gpu["name"] if isinstance(gpu.get("name"), str) else "a GPU whose name the probe could not read"
    device = "**Functional CPU run: not a performance result.**" if run.functional else f"Machine: {markdown(known)}."
    return device if cores is None else f"{device} CPU cores, when probed: {cores}."


def _cells(row: Row) -> list[str]:
    cost = row.cost
    partly = f" ({cost.timed} jobs)" if cost.timed < cost.jobs else ""
    jobs = str(cost.jobs) if cost.jobs == cost.asked else f"{cost.jobs} of {cost.asked}"
    return [
        "" if row.method else f"**{row.name}**",
        ", ".join(row.claims),
        markdown(row.what),
        f"`{row.command}`",
        ", ".join(f"`{output}`" for output in row.outputs),
        jobs if cost.jobs else "not measured",
        _MISSING if cost.seconds is None else f"{_duration(cost.seconds)}{partly}",
        _MISSING if cost.median_seconds is None else _duration(cost.median_seconds),
        _MISSING if cost.peak_bytes is None else f"{significant(cost.peak_bytes / _GIB)} GiB",
        f"{significant(cost.disk_bytes / 1000)} kB" if cost.jobs else _MISSING,
    ]


def _duration(seconds: float) -> str:
    return f"{significant(seconds)} s" if seconds < 120 else f"{significant(seconds / 60)} min"


def _remarks(whole: Row) -> Iterator[str]:
    total = whole.cost
    yield (
        "Machine time is the sum of the jobs' seconds, from the start of each process to its end; one job is their "
        "median. Peak memory is the host's, of the processes of one job together, as Snakemake sampled it. What comes "
        "and goes between samples escapes it, and a job it never saw is left out. Disk is the size of the records. "
        "Probe, tables and figures are not counted."
    )
    yield f"A command makes the records, the first of its outputs; `{whole.command}` makes the rest."
    if total.jobs < total.asked:
        yield f"{total.asked - total.jobs} of the {total.asked} jobs of the study were not measured."
    if total.timed < total.jobs:
        untimed = total.jobs - total.timed
        yield f"Times and memory are missing for {untimed} of {total.jobs} jobs, which have no benchmark file."


def _another_study(made_in: str) -> Iterator[str]:
    if made_in != _OWN:
        yield (
            f"The study is that of the file in `configs/` whose `run` is `{made_in}`; commands of Snakemake need it, "
            "as `--configfile FILE`."
        )


def _origins(run: Run) -> Iterator[str]:
    """By which state of the measuring sources, and on which days, each experiment was measured."""
    measured: dict[str, list[tuple[str, str]]] = {}  # by the digest, experiments and days
    for name, one in EXPERIMENTS.items():
        beside = [record for path, record in run.beside.items() if path.startswith(one.records)]
        for record in [*run.records, *run.pairs] if one.records == _LATENCY else beside:
            origin = record["provenance"]
            measured.setdefault(origin["source_sha256"], []).append((name, origin["started"].split("T")[0]))
    for digest, pairs in measured.items():
        names, days = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
        when = " to ".join(dict.fromkeys([min(days), max(days)]))
        yield f"Measuring sources with the digest `{digest[:8]}`, {when}: {', '.join(names)}."


def files(material: Material, workload: str) -> list[str]:
    """``experiments.md``."""
    plan = OF_EVERY_RUN if material.further else PLAN
    return [page(material.run, rows(material.folder, material.run.study, _made_in(material.run), plan))]
