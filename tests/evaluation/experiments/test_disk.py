"""Sessions beyond host memory: what the record holds, and that neither a lie nor a lost session passes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from djinn.memory import disk_tier
from evaluation.experiments import disk, plain_disk
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_side_job
from evaluation.measure.models import build
from evaluation.study.plan import ConfigError
from evaluation.study.resolve import resolve

SESSIONS = 5
SMALL = {
    "device": "cpu",
    "workloads": [{"name": "session", "batch": 1, "tokens": 16, "kv_cache": True}],
    "functional": {"tokens": 16, "disk": {"sessions": SESSIONS, "host_arena_gib": 0.0001}},
}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Where the files of sessions go."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def study():
    return resolve(SMALL)


def take(study):
    with torch.no_grad():
        return disk.take(build(study), study.only("disk"), lambda line: None)


def test_the_record_holds_every_swap_and_what_lay_on_the_disk(monkeypatch, folder, study):
    """The arena holds some; each one more sends another to the disk. All come back, and no file is left behind."""
    (folder / "study.json").write_text(json.dumps(study.to_json()))
    monkeypatch.setattr(sys, "argv", ["disk", "--study", "study.json", "--out", "disk.json"])
    assert run_side_job("disk", "", disk.take) == 0
    (cell,) = json.loads(Path("disk.json").read_text())["cells"]
    assert (cell["sessions"], cell["stopped_by"]) == (SESSIONS, "cap")
    spilled = [one["spilled_bytes"] for one in cell["swap_outs"]]
    assert spilled[0] == 0
    assert spilled[-1] == cell["state_bytes"]
    assert sum(spilled) == cell["on_disk_bytes"]
    assert sorted(one["session"] for one in cell["resumes"]) == list(range(SESSIONS))
    assert {one["on_disk_bytes"] for one in cell["resumes"]} == {0, cell["state_bytes"]}
    assert len(cell["plain"]) == 2
    assert {path.name for path in folder.iterdir()} <= {"study.json", "disk.json", ".lock"}


@pytest.mark.parametrize("nbytes", [130_000, 150_000])
def test_a_full_disk_ends_the_count_and_is_named(monkeypatch, study, nbytes):
    """What was opened by then comes back all the same."""
    monkeypatch.setattr(disk, "_disk_bytes", lambda folder: nbytes)
    (cell,) = take(study)["cells"]
    assert cell["sessions"] < SESSIONS
    assert cell["stopped_by"] == "disk"
    assert "disk_bytes" in cell["message"]
    assert len(cell["resumes"]) == cell["sessions"]


def test_a_disk_that_is_just_full_lets_all_come_back(monkeypatch, study):
    """The first in the order lies on it, and cannot be read while arena and disk are full: another makes room."""
    monkeypatch.setattr(disk, "_disk_bytes", lambda folder: 250_000)
    (cell,) = take(study)["cells"]
    assert (cell["sessions"], cell["stopped_by"], len(cell["resumes"])) == (SESSIONS, "cap", SESSIONS)
    assert cell["resumes"][0]["on_disk_bytes"] == 0


def test_a_disk_without_room_is_refused_before_work(monkeypatch, study):
    """By name of the folder."""
    monkeypatch.setattr(disk, "_LEFT_FREE", 1 << 60)
    with pytest.raises(ConfigError, match="has no room for sessions"):
        take(study)


def test_a_session_that_comes_back_altered_fails_the_job(monkeypatch, study):
    """The bytes are spoilt behind the check of their digest."""
    read = disk_tier.read

    def spoilt(session, spilled, targets):
        read(session, spilled, targets)
        for target in targets:
            target[:] = bytes(len(target))

    monkeypatch.setattr(disk_tier, "read", spoilt)
    with pytest.raises(NotBitExact, match="differs from its uninterrupted run"):
        take(study)


def test_an_arena_that_holds_all_sessions_shows_nothing(study):
    """The setting is named, and so is what is wrong with it."""
    roomy = replace(study, disk=replace(study.disk, host_arena_gib=0.01))
    with pytest.raises(ConfigError, match="disk.host_arena_gib: no session went to the disk: the arena holds all"):
        take(roomy)


def test_bytes_that_are_in_no_file_fail_the_job(monkeypatch, study):
    """A session that only says that it lies on the disk would be read back at once."""
    monkeypatch.setattr(disk._Spilled, "on_disk_bytes", property(lambda self: 1 << 40))
    with pytest.raises(NotBitExact, match="are said to lie in files"):
        take(study)


@pytest.mark.parametrize("past_cache", [True, False])
def test_plain_transfers_move_every_byte_once(monkeypatch, folder, past_cache):
    """In requests that do not overlap, of whole pages, whatever the size."""
    nbytes, moved = (40 << 20) + 5, {"pwrite": [], "preadv": []}
    if not past_cache:
        monkeypatch.setattr(plain_disk.os, "O_DIRECT", 0)
    for name, done in moved.items():
        real = getattr(plain_disk.os, name)

        def note(handle, piece, at, *, done=done, real=real):
            count = real(handle, piece, at)
            done.append((at, count))
            return count

        monkeypatch.setattr(plain_disk.os, name, note)
    file = folder / "plain"
    assert plain_disk.plain_write_ms(file, nbytes) > 0
    assert plain_disk.plain_read_ms(file) > 0
    for done in moved.values():
        end = 0
        for start, count in sorted(done):
            assert start == end
            end += count
        assert end == file.stat().st_size == nbytes + 4096 - 5
