"""What a job notes of host and GPU, over a stand-in for NVML, and when a strict one stops."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from evaluation.measure import conditions as module
from evaluation.measure.conditions import Disturbed, Surroundings
from evaluation.measure.job import run_side_job
from evaluation.records import nvml as questions
from evaluation.records.conditions import Conditions
from evaluation.records.fields import checked
from evaluation.study import devices
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import CONFIG
from tests.evaluation.nvml import Card, FakeNvml

HW_SLOWDOWN, SW_POWER_CAP, GPU_IDLE = 0x8, 0x4, 0x1
NO_GPU = {"unavailable": "measured without a GPU"}
REFUSED = {"unavailable": "Not Supported"}


def counters(nanoseconds, refused=()):
    """What NVML returns for the four counters, of which it may not know some."""
    return [
        SimpleNamespace(nvmlReturn=3 if place in refused else 0, value=SimpleNamespace(ullVal=nanoseconds))
        for place in range(4)
    ]


ANSWERS = {
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetPowerUsage": 123_400,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetFieldValues": counters(0),
    "nvmlDeviceGetCpuAffinity": [0xFF0, 0x3],
}


@pytest.fixture
def bound(monkeypatch):
    """Sixteen cores that this process may use; to which of them its threads are bound, and how many torch takes."""
    found = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: found.update({thread: cores}))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: found.update(threads=count))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    return found


@pytest.fixture
def nvml(monkeypatch, bound):
    """A GPU on which nobody computes, and which answers every question."""
    fake = FakeNvml(cards=[Card(uuid="GPU-1")], running=(), answers=dict(ANSWERS))
    for one in (devices, questions, module):
        monkeypatch.setattr(one, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield fake
    assert fake.sessions == 0, "NVML was not shut down"


def conditions(device="cuda", *, computes=False):
    """Of a job that measures nothing."""
    found = Surroundings(device, strict=False).after(computes=computes)
    checked(Conditions, found)
    return found


def test_conditions_of_a_gpu_are_what_nvml_says(nvml):
    """With units; the reasons of the clocks by name, also one that this version does not know."""
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = GPU_IDLE | SW_POWER_CAP | 0x800
    nvml.answers["nvmlDeviceGetFieldValues"] = counters(2_500_000, refused=(1,))
    found = conditions()
    before = found["before"]
    assert before.pop("host_load") >= 0
    assert before == {
        "other_processes": 0,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 1980,
        "temperature_celsius": 41,
        "power_watts": 123.4,
        "power_limit_watts": 700,
        "clock_reasons": ["gpu_idle", "sw_power_cap", "unknown_800"],
        "throttled_ms": {"sw_power_cap": 2.5, "hw_thermal_slowdown": 2.5, "hw_power_brake_slowdown": 2.5},
    }
    assert found["after"].keys() - before.keys() == {"host_load"}
    assert found["strict"] is False


def test_what_cannot_be_told_has_a_reason(nvml):
    """A GPU that refuses every question, and a CPU, whose load is known."""
    nvml.answers.clear()
    found = conditions()
    assert {str(value) for name, value in found["after"].items() if name not in ("host_load", "other_processes")} == {
        str(REFUSED)
    }
    assert found["affinity"] == REFUSED
    found = conditions("cpu")
    for moment in (found["before"], found["after"]):
        assert moment.pop("host_load") >= 0
        assert all(value == NO_GPU for value in moment.values())
    assert found["affinity"] == NO_GPU


@pytest.mark.parametrize(
    ("running", "computes", "others"),
    [
        ((), False, 0),
        ((7,), False, 1),
        ((os.getpid(),), True, 0),
        ((os.getpid(), 7), False, 1),
        ((4711,), True, 0),  # itself, by its number outside of the container
        ((4711, 7), True, 1),
        ((), True, 0),  # NVML hides them all
    ],
)
def test_a_job_is_none_of_the_other_processes(nvml, running, computes, others):
    """Under whichever number."""
    nvml.running = running
    assert conditions(computes=computes)["after"]["other_processes"] == others


def test_threads_are_bound_to_the_near_cores_that_may_be_used(nvml, bound):
    """All threads, and no more of torch's than there are cores."""
    assert conditions()["affinity"] == "4-11"
    assert bound.pop("threads") == 8
    assert {int(name) for name in os.listdir("/proc/self/task")} <= bound.keys()
    assert all(cores == set(range(4, 12)) for cores in bound.values())
    nvml.answers["nvmlDeviceGetCpuAffinity"] = [0x8F0D, 0]
    assert conditions()["affinity"] == "0,2-3,8-11,15"


def test_too_few_near_cores_bind_nothing(nvml, bound):
    """The cores that the process may use lie elsewhere."""
    nvml.answers["nvmlDeviceGetCpuAffinity"] = [0x7 << 13, 0xFFFF]
    expected = {"unavailable": "this process may use 3 of the cores near the GPU, fewer than 4"}
    assert conditions()["affinity"] == expected
    assert not bound


def test_a_system_that_binds_nothing_is_a_reason(nvml, monkeypatch):
    """Not the end of the job; a thread that has just ended is none."""

    def bind(error):
        def refuse(thread, cores):
            raise error

        monkeypatch.setattr(os, "sched_setaffinity", refuse)
        return conditions()["affinity"]

    assert bind(ProcessLookupError()) == "4-11"
    assert bind(PermissionError(1, "Operation not permitted")) == {"unavailable": "[Errno 1] Operation not permitted"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nvmlDeviceGetCurrentClocksEventReasons": HW_SLOWDOWN}, r"throttled \(hw_slowdown\)"),
        ({"nvmlDeviceGetCurrentClocksEventReasons": None}, "does not tell whether the GPU is throttled"),
    ],
)
def test_a_strict_job_stops_on_a_throttled_gpu(nvml, change, said):
    """Before anything is measured, and afterwards if it became so; also where nobody can tell."""
    Surroundings("cuda", strict=True).after(computes=True)
    surroundings = Surroundings("cuda", strict=True)
    nvml.answers = {key: value for key, value in {**ANSWERS, **change}.items() if value is not None}
    with pytest.raises(Disturbed, match=rf"^strict: .*{said}.* after it was measured, so there is no record"):
        surroundings.after(computes=True)
    with pytest.raises(Disturbed, match=rf"^strict: .*{said}.* before anything was measured"):
        Surroundings("cuda", strict=True)
    conditions()  # that is not strict goes on


def test_a_strict_job_stops_if_the_gpu_was_throttled_meanwhile(nvml):
    """Though at neither end; what the software's power cap counts is no throttle."""
    surroundings = Surroundings("cuda", strict=True)
    nvml.answers["nvmlDeviceGetFieldValues"] = counters(5_000_000, refused=(1, 2, 3))
    surroundings.after(computes=True)
    nvml.answers["nvmlDeviceGetFieldValues"] = counters(5_000_000, refused=(0, 3))
    with pytest.raises(Disturbed, match=r"throttled for a while \(hw_thermal_slowdown, sw_thermal_slowdown\)"):
        surroundings.after(computes=True)


@pytest.mark.parametrize("bits", [0, GPU_IDLE, 0x2, SW_POWER_CAP, 0x10, 0x100])
def test_an_idle_gpu_and_clocks_that_were_set_are_no_throttle(nvml, bits):
    """Nor is a GPU at its power limit, where a large product always is."""
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = bits
    Surroundings("cuda", strict=True).after(computes=True)


def test_a_strict_job_stops_on_a_shared_gpu(nvml):
    """One message, which says with how many."""
    nvml.running = (7, 8)
    with pytest.raises(Disturbed, match=r"the GPU was shared with 2 other processes before anything was measured\."):
        Surroundings("cuda", strict=True)
    nvml.running = (7,)
    with pytest.raises(Disturbed, match="shared with 1 other process before"):
        Surroundings("cuda", strict=True)


def test_a_strict_job_on_a_cpu_has_nothing_to_refuse():
    """A functional run says nothing about speed."""
    Surroundings("cpu", strict=True).after(computes=False)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs a job that measures nothing on the CPU; returns its status and what it would have written."""
    written = {}
    monkeypatch.setattr("evaluation.measure.job.write_record", lambda path, record: written.update(record))

    def run(*options, config=CONFIG):
        (tmp_path / "study.json").write_text(json.dumps(resolve(config).to_json()))
        paths = ["--study", str(tmp_path / "study.json"), "--out", str(tmp_path / "r.json")]
        monkeypatch.setattr(sys, "argv", ["load", *paths, *options])
        written.clear()
        return run_side_job("load", "", take), written

    def take(study, subject, report):
        written.update(taken=1)
        return {"cells": []}

    return run


def test_a_record_holds_the_conditions_of_its_job(job):
    """And whether its job was strict, by the study or by the command."""
    for options, config, strict in (
        ((), {}, False),
        (("--strict", "1"), {}, True),
        ((), {"strict": True}, True),
        (("--strict", "0"), {"strict": True}, False),
    ):
        status, written = job(*options, config={**CONFIG, **config})
        assert status == 0
        found = written["provenance"]["conditions"]
        assert checked(Conditions, found).strict is strict
        assert "strict" not in written["study"]


def test_a_disturbed_job_measures_nothing_and_writes_nothing(job, monkeypatch, capsys):
    """One line on stderr, and the status of a refusal."""

    def disturbed(device, *, strict):
        raise Disturbed("strict: the GPU was shared")

    monkeypatch.setattr("evaluation.measure.job.Surroundings", disturbed)
    assert job("--strict", "1") == (2, {})
    assert capsys.readouterr().err == "error: strict: the GPU was shared\n"


def test_a_job_that_became_disturbed_writes_nothing(job, monkeypatch):
    """It measured, and there is no record."""

    def after(self, *, computes):
        raise Disturbed("strict: the GPU was shared")

    monkeypatch.setattr(Surroundings, "after", after)
    assert job("--strict", "1") == (2, {"taken": 1})
