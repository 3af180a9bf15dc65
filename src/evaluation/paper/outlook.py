"""What a run of Snakemake is about to do: how many jobs measure, how long that took elsewhere, what is measured again.

Times are those of Snakemake's benchmark files in a published run, for those kinds of job that it was asked the same.
Where none was, no time is said: what is left is counted in jobs. Knows nothing of Snakemake, which tells it the jobs.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from evaluation.analysis.variants import PEERS, PRIMARY, plain_name
from evaluation.paper.plan import Plan
from evaluation.records.benchmark import Benchmark
from evaluation.records.runs import Json, benchmark_path, read_object
from evaluation.study.plan import READS

# How much room a machine has is no other job to it.
_ROOM = ("host_arena_gib", "load_host_arena_gib")
_WORDS = {
    "measure": "latency over depth",
    "capacity": "memory wall",
    "capabilities": "edits",
    "editing": "a debugger's round trip",
    "durable": "sessions that outlive their process",
    "disk": "sessions beyond host memory",
    "load": "resumes among many paused sessions",
    "overhead": "cost without a pause",
    "sweep": "sizes of the prompt",
    "thinking": "waits",
    "neighbour": "a neighbour that computes",
}


def kind_of(place: str) -> str:
    """The kind of job, a key of READS, whose record lies at ``place`` in a run."""
    outer, *inner = place.removesuffix(".json").split("/")
    if outer == "raw":
        return "pairs" if inner[0] == "pairs" else "measure"
    return inner[0] if outer == "peers" else outer


def words(place: str, study: Json) -> str:
    """What the job measures whose record lies at ``place``, in a few words."""
    kind, inner = kind_of(place), place.removesuffix(".json").split("/")[1:]
    if kind == "measure":
        method, layer, number = inner
        of_round = f", {_number(number, 'round')}" if study["rounds"] > 1 else ""
        return f"{_method(method)}, {_number(layer, 'layer')}{of_round}"
    if kind == "pairs":
        return f"pairs, process {_number(inner[1], 'round').split()[1]} of {study['pairs']['rounds']}"
    return f"{_of_kind(kind)}, {_method(inner[0])}" if kind in ("capacity", "capabilities") else _of_kind(kind)


def _number(part: str, name: str) -> str:
    return f"{name} {part.removeprefix(f'{name}_')}"


def _method(name: str) -> str:
    return PRIMARY[name].label if name in PRIMARY else plain_name(name)


def _of_kind(kind: str) -> str:
    return _WORDS.get(kind) or PEERS.get(kind, kind)


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds that jobs took in the published ``run`` on a ``gpu``, by the places of their records."""

    run: str
    gpu: str
    seconds: Mapping[str, float]

    @classmethod
    def found(cls, plans: Iterable[Plan], study: Json) -> "Times | None":
        """Of the first of ``plans`` that was asked anything the same as ``study`` asks, and says how long it took.

        Raises :class:`evaluation.records.runs.RunError` for a damaged benchmark file.
        """
        for plan in plans:
            alike = {kind for kind in READS if _alike(kind, study, plan.study)}
            records = {path.relative_to(plan.folder).as_posix(): path for path in plan.jobs}
            files = {
                place: file
                for place, path in records.items()
                if kind_of(place) in alike and (file := benchmark_path(plan.folder, path)).exists()
            }
            if files:
                gpu = (read_object(plan.folder / "machine.json").get("gpu") or {}).get("name")
                seconds = {place: Benchmark.read(file).seconds for place, file in files.items()}
                return cls(run=plan.name, gpu=gpu if isinstance(gpu, str) else "GPU", seconds=seconds)
        return None

    def of(self, place: str) -> float | None:
        """Of the job whose record lies at ``place``; the median of those that differ in a number only, or None."""
        if place in self.seconds:
            return self.seconds[place]
        others = [seconds for other, seconds in self.seconds.items() if _alone(other) == _alone(place)]
        return median(others) if others else None


def _alone(place: str) -> str:
    return re.sub(r"\d+", "N", place)


def _alike(kind: str, mine: Json, theirs: Json) -> bool:
    """Whether jobs of a ``kind`` are given the same by both studies; an older one may lack what they read.

    One that is older than coded state has none.
    """
    paths = [path for path in READS[kind] if path not in _ROOM]
    theirs = {"coded": False, **theirs}
    return all((value := _at(theirs, path)) is not None and value == _at(mine, path) for path in paths)


def _at(study: Json, path: str) -> object:
    found: object = study
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


@dataclass(frozen=True, kw_only=True)
class Job:
    """One that measures: the ``place`` of its record, and if there is one already, what ``changed`` since."""

    place: str
    changed: str = ""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is planned: the ``jobs`` that measure, by Snakemake's numbers, and what is said of each of the ``others``.

    "" is not said, and the same only once. ``gpu`` is this machine's, "" in a functional run.
    """

    jobs: Mapping[int, Job]
    others: Mapping[int, str]
    study: Json
    gpu: str
    times: Times | None

    def lines(self) -> Iterator[str]:
        """Said before anything runs."""
        if not self.jobs:
            yield f"Nothing to measure: {_jobs(len(self.others))} of tables and figures."
            return
        rest = f", {len(self.others)} of settings, tables and figures" if self.others else ""
        yield f"{_jobs(len(self.jobs))} of measuring{rest}."
        yield from self._time()
        yield from self._again()

    def _again(self) -> Iterator[str]:
        reasons = {job.changed for job in self.jobs.values()}
        if len(reasons) == 1 and (only := reasons.pop()):
            yield f"All of it again, for {only} changed."
            return
        again = Counter((_of_kind(kind_of(job.place)), job.changed) for job in self.jobs.values() if job.changed)
        for (kind, changed), count in again.items():
            yield f"Again: {_jobs(count)} of {kind}, for {changed} changed."

    def _time(self) -> Iterator[str]:
        known = [seconds for job in self.jobs.values() if (seconds := self._seconds(job)) is not None]
        if not self.gpu:
            yield "A functional run has no published times: what is left is counted in jobs."
        elif self.times is None or not known:
            yield "No published run was asked the same: what is left is counted in jobs."
        else:
            which = "These jobs took" if len(known) == len(self.jobs) else f"{len(known)} of them took"
            where = "" if self._same else f" This is one {self.gpu}."
            yield f"{which} {duration(math.fsum(known))} in the published run {self.times.run},"
            yield f"on one {self.times.gpu}.{where}"
            if len(known) < len(self.jobs):
                yield f"The other {len(self.jobs) - len(known)} were not timed there."

    def line(self, number: int, begun: Collection[int]) -> str:
        """Said when the job ``number`` begins, after those that have ``begun``."""
        job = self.jobs[number]
        said = f"[{len(begun) + 1}/{len(self.jobs)}] {words(job.place, self.study)}"
        if self.times is None:
            return said
        seconds = self._seconds(job)
        left = [self._seconds(other) for key, other in self.jobs.items() if key not in begun]
        known = [one for one in left if one is not None]
        if not known:
            return said
        this = "not timed" if seconds is None else f"{duration(seconds)} expected"
        over = "over " if len(known) < len(left) else ""
        where = "" if self._same else f", by {_short(self.times.gpu)} times"
        return f"{said}: {this}, {over}{duration(math.fsum(known))} left{where}"

    @property
    def _same(self) -> bool:
        return self.times is not None and self.times.gpu == self.gpu

    def _seconds(self, job: Job) -> float | None:
        return None if self.times is None else self.times.of(job.place)


def _jobs(count: int) -> str:
    return f"{count} job{'s' if count > 1 else ''}"


def _short(gpu: str) -> str:
    """``H100`` of ``NVIDIA H100 80GB HBM3``."""
    return gpu.removeprefix("NVIDIA ").split()[0]


def duration(seconds: float) -> str:
    """In the unit that a person would use."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
