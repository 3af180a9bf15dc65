"""Rows of the set-up table that say how quiet it was while a run was measured, and in how many sittings.

Each row stands only where a record has what it tells. A record is counted as the job that it is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from evaluation.analysis.numerals import significant
from evaluation.records.conditions import THROTTLES
from evaluation.records.runs import Json, Run, sitting_of
from evaluation.text.latex import Latex, latex

_CAP = "sw_power_cap"  # no throttle, and still it tells what set the clocks
_BESIDE = ("tokenizers", "huggingface_hub", "safetensors")


def every_record(run: Run) -> list[Json]:
    """Of latency, of pairs, and beside them."""
    return [*run.records, *run.pairs, *run.beside.values()]


def of_sittings(run: Run) -> list[tuple[str, Latex]]:
    """What the records of ``run`` say of sittings, host load, heat, throttling and sharing of the GPU."""
    records = every_record(run)
    found = [conditions for record in records if (conditions := record["provenance"].get("conditions"))]
    moments = [conditions[when] for conditions in found for when in ("before", "after")]
    rows = {
        "Sittings": _sittings(records),
        "Host load": _range(moments, "host_load", ", before and after jobs"),
        "GPU temperature": _range(moments, "temperature_celsius", r"~$^\circ$C"),
        "GPU throttled": _throttled(found),
        "GPU power cap": _capped(found),
        "GPU shared": _shared(found),
    }
    return [(label, text) for label, text in rows.items() if text]


def beside_torch(versions: Json) -> list[tuple[str, Latex]]:
    """The versions of what transformers works with, where a record has them."""
    found = [f"{name} {versions[name]}" for name in _BESIDE if name in versions]
    return [("With it", latex(", ".join(found)))] if found else []


def _sittings(records: Sequence[Json]) -> Latex:
    jobs = Counter(sitting_of(record) for record in records)
    if set(jobs) == {None}:
        return Latex("")
    unknown = jobs.pop(None, 0)
    counts = ", ".join(map(str, jobs.values()))
    return Latex(f"{len(jobs)} (jobs: {counts})" + (f"; unknown of {unknown} jobs" if unknown else ""))


def _range(moments: Sequence[Json], key: str, behind: str) -> Latex:
    values = [moment[key] for moment in moments if not isinstance(moment[key], dict)]
    if not values:
        return Latex("")
    ends = dict.fromkeys(significant(end) for end in (min(values), max(values)))
    return Latex(f"{' to '.join(ends)}{behind}")


def _throttled(found: Sequence[Json]) -> Latex:
    """Each reason that was seen with the number of jobs, or that none was."""
    told = _told(found)
    if not told:
        return Latex("")
    jobs = Counter(reason for reasons in told for reason in reasons if reason in THROTTLES)
    seen = ", ".join(f"{reason.replace('_', ' ')} ({jobs[reason]})" for reason in sorted(jobs))
    return latex(f"{seen or 'never seen'}, of {len(told)} jobs")


def _capped(found: Sequence[Json]) -> Latex:
    """In how many jobs the software's power cap set the clocks; nothing where it never did."""
    told = _told(found)
    capped = sum(_CAP in reasons for reasons in told)
    return Latex(f"reached in {capped} of {len(told)} jobs" if capped else "")


def _told(found: Sequence[Json]) -> list[set[str]]:
    """The reasons of each job that tells any."""
    return [reasons for conditions in found if (reasons := _reasons(conditions)) is not None]


def _reasons(conditions: Json) -> set[str] | None:
    """Why the clocks were lowered at either end, or between by the driver's counters; None if nothing tells."""
    ends = [conditions[when] for when in ("before", "after")]
    if any(isinstance(end["clock_reasons"], dict) for end in ends):
        return None
    return {*ends[0]["clock_reasons"], *ends[1]["clock_reasons"], *_grown(*(end["throttled_ms"] for end in ends))}


def _grown(earlier: Json, later: Json) -> Iterator[str]:
    for name in earlier.keys() & later.keys() - {"unavailable"}:
        if later[name] > earlier[name]:
            yield name


def _shared(found: Sequence[Json]) -> Latex:
    """In how many jobs; nothing where it never was."""
    others = [(conditions["before"]["other_processes"], conditions["after"]["other_processes"]) for conditions in found]
    told = [both for both in others if all(isinstance(one, int) for one in both)]
    shared = sum(any(both) for both in told)
    return Latex(f"in {shared} of {len(told)} jobs" if shared else "")
