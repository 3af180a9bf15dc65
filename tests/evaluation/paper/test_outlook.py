"""What is said before a run, and of each job: times only where a published run was asked the same."""

import copy
import json
from pathlib import Path

import pytest

from evaluation.paper.outlook import Job, Outlook, Times, duration, kind_of, words
from evaluation.paper.plan import Plan
from evaluation.records.runs import side_records
from evaluation.study.plan import READS
from evaluation.study.resolve import resolve

STUDY = resolve({"device": "cpu"}).published()
HERE, THERE = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
FIRST, SECOND, LAST = (
    f"raw/{place}.json" for place in ("djinn/layer_20/round_1", "pairs/round_2", "djinn/layer_40/round_1")
)


@pytest.fixture
def published(tmp_path):
    """Makes a published run of a study, by seconds at places; returns its plan."""

    def make(seconds, study=STUDY, gpu=THERE):
        folder = tmp_path / "results" / "published" / "there"
        for place, value in seconds.items():
            path = folder / "benchmarks" / place.replace(".json", ".tsv")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"s\tmax_rss\n{value}\t-\n")
        for place in side_records(study):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text("{}")
        (folder / "study.json").write_text(json.dumps(study))
        (folder / "machine.json").write_text(json.dumps({"functional": False, "gpu": {"name": gpu}}))
        return Plan.found(tmp_path / "results", "there")

    return make


def outlook(*places, gpu=HERE, times=None, changed=""):
    """Of jobs that measure these places; job 100 draws."""
    jobs = {number: Job(place=place, changed=changed) for number, place in enumerate(places)}
    return Outlook(jobs=jobs, others={100: "writing paper_figures"}, study=STUDY, gpu=gpu, times=times)


def test_every_kind_of_job_has_words_and_is_known():
    """No record that a study asks for is without its kind or words."""
    plan = Plan(name="local", results=Path("results"), study=STUDY, functional=True, beside=tuple(side_records(STUDY)))
    places = [path.relative_to(plan.folder).as_posix() for path in plan.jobs]
    assert {kind_of(place) for place in places} == set(READS)
    assert len({words(place, STUDY) for place in places}) == len(places)
    assert words("capacity/manual_offload.json", STUDY) == "memory wall, Manual offload"


def test_a_published_time_stands_beside_each_job_and_what_is_left(published):
    """Its own time, or the median of those that differ in a number only; the GPU is named where it is another."""
    found = {FIRST: 54, "raw/djinn/layer_1/round_1.json": 50, "raw/djinn/layer_39/round_1.json": 70, SECOND: 390}
    times = Times.found([published(found)], STUDY)
    said = outlook(FIRST, SECOND, LAST, times=times)
    assert list(said.lines())[1:] == [
        "These jobs took 8 min in the published run there,",
        f"on one {THERE}. This is one {HERE}.",
    ]
    assert said.line(0, []) == "[1/3] Djinn, layer 20: 54 s expected, 8 min left, by H200 times"
    assert said.line(2, [0, 1]) == "[3/3] Djinn, layer 40: 54 s expected, 54 s left, by H200 times"
    assert outlook(LAST, gpu=THERE, times=times).line(0, []) == "[1/1] Djinn, layer 40: 54 s expected, 54 s left"


def test_what_was_not_timed_is_said_and_not_made_up(published):
    """Neither in the sum nor beside the job."""
    said = outlook(FIRST, "sweep.json", times=Times.found([published({FIRST: 54})], STUDY))
    assert list(said.lines())[1:3] == [
        "1 of them took 54 s in the published run there,",
        f"on one {THERE}. This is one {HERE}.",
    ]
    assert said.line(1, []) == "[1/2] sizes of the prompt: not timed, over 54 s left, by H200 times"


@pytest.mark.parametrize(
    ("key", "kinds"),
    [
        ("rounds", {"measure", "pairs"}),
        ("host_arena_gib", {"measure", "pairs"}),
        ("pairs", {"measure"}),
        ("model", set()),
    ],
)
def test_a_kind_of_job_that_was_asked_something_else_has_no_time(published, key, kinds):
    """What a job does not read is not compared, and neither is the room that a machine has."""
    other = copy.deepcopy(STUDY)
    changes = {
        "rounds": 7,
        "host_arena_gib": 99,
        "pairs": {**STUDY["pairs"], "blocks": 9},
        "model": {"name": "another"},
    }
    other[key] = changes[key]
    times = Times.found([published({FIRST: 54, "raw/pairs/round_1.json": 390}, study=other)], STUDY)
    assert (set() if times is None else {kind_of(place) for place in times.seconds}) == kinds


def test_without_times_jobs_are_counted(published):
    """A functional run has none, and none is taken from an older study, which lacks what jobs read now."""
    older = {key: value for key, value in STUDY.items() if key != "measurement"}
    assert Times.found([published({FIRST: 54}, study=older)], STUDY) is None
    said = outlook(FIRST, SECOND, gpu="")
    assert "functional run has no published times" in list(said.lines())[1]
    assert said.line(1, [0]) == f"[2/2] pairs, process 2 of {STUDY['pairs']['rounds']}"


def test_what_a_change_measures_again_is_one_line_for_each_kind():
    """With the reason; one for all of it, where all of it has the same."""
    jobs = {**outlook(FIRST, LAST, changed="the measuring code").jobs, 2: Job(place=SECOND)}
    some = Outlook(jobs=jobs, others={}, study=STUDY, gpu=HERE, times=None)
    assert list(some.lines())[2:] == ["Again: 2 jobs of latency over depth, for the measuring code changed."]
    everything = outlook(FIRST, SECOND, changed="the measuring code")
    assert list(everything.lines())[2:] == ["All of it again, for the measuring code changed."]


@pytest.mark.parametrize(("seconds", "said"), [(54.4, "54 s"), (119, "119 s"), (2280, "38 min"), (7920, "2 h 12 min")])
def test_a_duration_is_in_the_unit_of_a_person(seconds, said):
    """No more digits than help."""
    assert duration(seconds) == said
