"""Resumes are timed with the debugger's screen at work and without, by turns; every one is bit-exact."""

import json
import sys

import pytest

from djinn.debugger.screen import Debugger
from evaluation.experiments import beside_debugger
from tests.evaluation.measuring import CONFIG, shallow

__all__ = ["shallow"]


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs the command in a folder with a study: its exit status and what it prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({**CONFIG, "djinn": {"load_host_arena_gib": 0.125}}))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["beside_debugger", "r.json", *words])
        status = beside_debugger.main()
        said = capsys.readouterr()
        return status, said.out if status == 0 else said.err

    return run


def test_windows_with_a_screen_and_without(command, tmp_path, monkeypatch):
    """In the order ABBA; a screen has shown sessions in its windows, and in no others."""
    monkeypatch.setattr(beside_debugger, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(beside_debugger, "_REST_SECONDS", 0.01)
    status, said = command("--sessions", "3", "--windows", "2", "--resumes", "5")
    assert status == 0
    samples = json.loads((tmp_path / "r.json").read_text())["samples"]
    assert [sample["screen"] for sample in samples[::5]] == [True, False, False, True]
    assert all(sample["bit_exact"] and sample["ready_ms"] > 0 for sample in samples)
    looks = {sample["window"]: sample["looks"] for sample in samples if sample["screen"]}
    assert set(looks) == {0, 3}
    assert sum(looks.values()) > 0
    assert f"the screen showed {sum(looks.values())} looks" in said
    assert "of 10 resumes" in said


def test_a_screen_that_fails_is_said(command, monkeypatch):
    """Else its windows would be as those without."""
    monkeypatch.setattr(Debugger, "begin", lambda *arguments: 1 / 0)
    with pytest.raises(RuntimeError, match="the screen failed, so nothing was beside the resumes"):
        command("--sessions", "2", "--windows", "1", "--resumes", "2")


def test_what_was_measured_is_kept_when_it_is_cut_off(command, tmp_path, monkeypatch):
    """Each window is written behind it."""
    window, left = beside_debugger._window, [1, 1]
    monkeypatch.setattr(beside_debugger, "_window", lambda *arguments: (left.pop(), window(*arguments))[1])
    with pytest.raises(IndexError):
        command("--sessions", "2", "--windows", "2", "--resumes", "2")
    samples = json.loads((tmp_path / "r.json").read_text())["samples"]
    assert [sample["window"] for sample in samples] == [0, 0, 1, 1]


def test_what_is_compared():
    """The 95th percentiles over all windows, and how that differs if windows are drawn again."""
    record = {
        "samples": [
            {"window": window, "screen": beside, "looks": 4, "whole": 3, "ready_ms": ms * (1.5 if beside else 1)}
            for window, beside in enumerate([True, False, False, True])
            for ms in (1.0, 1.0, 2.0)
        ]
    }
    alone, beside, looks, ratio = beside_debugger.compare(record)
    assert alone == "ready alone: median 1.000 ms, 95th percentile 2.000 ms, of 6 resumes"
    assert beside == "ready beside the screen: median 1.500 ms, 95th percentile 3.000 ms, of 6 resumes"
    assert looks == "the screen showed 8 looks, 6 of them whole"
    assert ratio == "beside the screen over alone, 95th percentile: 1.500 (1.500 to 1.500)"


def test_nothing_is_asked_of_no_sessions(command):
    assert command("--sessions", "0") == (2, "error: --sessions 0: at least 1 is needed\n")
