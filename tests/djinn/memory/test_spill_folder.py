"""The folder of spilled sessions: the living keep theirs, and what the dead have left is removed."""

import gc
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from djinn.memory import spill_folder
from djinn.memory.spill_folder import SpillFolder

BODY = """
    import runpy, sys
    from pathlib import Path
    SpillFolder = runpy.run_path(sys.argv[1])["SpillFolder"]  # without what djinn imports
    folder = SpillFolder(Path(sys.argv[2]))
    folder.make()
    folder.new_path().touch()
    print(folder.path, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path):
    folder = SpillFolder(tmp_path)
    folder.make()
    yield folder
    folder.close()


def another_process(parent):
    """A living process that has a folder in ``parent``, and the path of that."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BODY), spill_folder.__file__, parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_only_its_owner_may_enter(folder):
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_it_goes_with_all_that_is_in_it(folder, tmp_path):
    """At close; a second one does nothing."""
    folder.new_path().write_text("spilled")
    assert len(folder.files) == 1
    for _ in range(2):
        folder.close()
        assert os.listdir(tmp_path) == []
    assert (folder.files, folder.free_bytes) == (set(), 0)


def test_a_lost_one_goes_too(tmp_path):
    lost = SpillFolder(tmp_path)
    lost.make()
    lost.new_path().touch()
    del lost
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_the_end_of_the_interpreter(tmp_path):
    process, path = another_process(tmp_path)
    assert path.is_dir()
    process.communicate("\n", timeout=30)
    assert process.returncode == 0
    assert not path.exists()


def test_left_overs_of_a_killed_process_are_removed(tmp_path):
    """By the next one, and not while that process lives."""
    process, path = another_process(tmp_path)
    first = SpillFolder(tmp_path)
    first.make()
    assert path.is_dir()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert list(path.glob("*.djinn"))
    second = SpillFolder(tmp_path)
    second.make()
    assert set(tmp_path.iterdir()) == {first.path, second.path}
    for one in (first, second):
        one.close()


def test_a_fork_removes_nothing(folder):
    """Neither by its end, nor by closing, nor as garbage."""
    kept = folder.new_path()
    kept.touch()
    child = os.fork()
    if child == 0:
        try:
            folder.close()
            folder._at_the_end()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert folder.files == {kept}


def test_what_is_not_ours_stays(folder, tmp_path):
    """Other names, links, files, and folders whose owner is another user."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").touch()
    (tmp_path / "djinn-0123").mkdir()
    (tmp_path / "djinn-0123456789abcdef").symlink_to(other)
    (tmp_path / "djinn-0123456789abcdee").touch()
    foreign = tmp_path / "djinn-0123456789abcded"
    foreign.mkdir()
    if os.geteuid() == 0:
        os.chown(foreign, 12345, 12345)
    else:
        (foreign / "deeper").mkdir()  # which no process of ours makes
    before = set(tmp_path.rglob("*"))
    again = SpillFolder(tmp_path)
    again.make()
    again.close()
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("when", ["before the lock", "after the lock"])
def test_two_that_begin_at_once(tmp_path, monkeypatch, when):
    """One takes the other's for a left-over before it is locked: both have a folder, and each its own."""
    first, second = SpillFolder(tmp_path), SpillFolder(tmp_path)
    flock, raced = spill_folder.fcntl.flock, []

    def racing(lock, how):
        if not raced:
            raced.append(lock.name)
            if when == "before the lock":
                second.make()
                return flock(lock, how)
            flock(lock, how)
            return second.make()
        return flock(lock, how)

    monkeypatch.setattr(spill_folder.fcntl, "flock", racing)
    first.make()
    assert set(tmp_path.iterdir()) == {first.path, second.path}
    for one in (first, second):
        assert one._lock is not None
        one.close()


def test_a_death_in_the_middle_of_removing(tmp_path, monkeypatch):
    """What is left is still known for a left-over: its lock goes last."""
    left = SpillFolder(tmp_path)
    left.make()
    for _ in range(3):
        left.new_path().touch()
    left._lock.close()
    unlink, removed = Path.unlink, []

    def dies(path, **how):
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(path.name)
        return unlink(path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            left.close()
    assert "lock" in os.listdir(left.path)
    after = SpillFolder(tmp_path)
    after.make()
    assert set(tmp_path.iterdir()) == {after.path}
    after.close()


def test_a_folder_in_which_nothing_can_be_made(tmp_path):
    """The system's error is told."""
    with pytest.raises(OSError, match="absent"):
        SpillFolder(tmp_path / "absent").make()
