"""The file of a spilled session: what is written is read back into memory, or refused by name."""

import errno
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from djinn.durable import session_file
from djinn.memory import spill_file
from djinn.memory.host_memory import HostArena
from djinn.memory.spill_file import Draft

SIZES = [4096, 1, 9 * 4096 + 17, 512, 3 << 20]  # whole pages and not, and more than one thread's


@pytest.fixture
def tensors():
    """Random bytes in extents of an arena, as sessions have them."""
    generator = torch.Generator().manual_seed(0)
    extents = HostArena(8 << 20, pinned=False).reserve(SIZES)
    for extent in extents:
        extent.bytes.random_(256, generator=generator)
    return {f"state/{number}": extent for number, extent in enumerate(extents)}


def draft(tensors):
    return Draft([(name, extent.memory) for name, extent in tensors.items()], {"format": "spilled"})


@pytest.fixture(params=["past the page cache", "refused when opened", "refused when used"])
def disk(request, monkeypatch):
    """A file system that takes O_DIRECT, and those that do not."""
    direct, open_, pwrite, preadv = [], os.open, os.pwrite, os.preadv

    def opening(path, flags, *mode):
        if flags & os.O_DIRECT and request.param == "refused when opened":
            raise OSError(errno.EINVAL, "Invalid argument")
        handle = open_(path, flags & ~os.O_DIRECT, *mode)
        if flags & os.O_DIRECT:
            direct.append(handle)
        return handle

    def checked(call):
        def transfer(handle, data, offset):
            part = data[0] if isinstance(data, list) else data
            if handle in direct:
                if request.param == "refused when used":
                    raise OSError(errno.EINVAL, "Invalid argument")
                assert len(part) % 4096 == offset % 4096 == 0
            return call(handle, data, offset)

        return transfer

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "pwrite", checked(pwrite))
    monkeypatch.setattr(os, "preadv", checked(preadv))
    return request.param


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("request_bytes", [4096, 16 << 20])
def test_what_was_written_is_read(tensors, tmp_path, monkeypatch, request_bytes):
    """Whatever the file system takes, and however many requests it takes."""
    monkeypatch.setattr(spill_file, "_REQUEST_BYTES", request_bytes)
    file = draft(tensors).write(tmp_path / "one")
    assert file.nbytes == (tmp_path / "one").stat().st_size
    expected = [extent.bytes.clone() for extent in tensors.values()]
    for extent in tensors.values():
        extent.bytes.zero_()
    file.read([extent.memory for extent in tensors.values()])
    assert all(map(torch.equal, (extent.bytes for extent in tensors.values()), expected))


def test_it_has_the_form_of_a_saved_session(tensors, tmp_path):
    """The library loads it, all digests are right, and each tensor begins at a page."""
    file = draft(tensors).write(tmp_path / "one")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert all(part.offset % 4096 == 0 for part in file.parts)
    document, found = session_file.read(file.path)
    assert document["format"] == "spilled"
    for loaded in (found, load_file(file.path)):
        assert all(torch.equal(loaded[name], extent.bytes) for name, extent in tensors.items())


def test_every_altered_byte_is_found(tensors, tmp_path):
    """Of the tensors; what stands between them is never read."""
    small = dict(list(tensors.items())[1:2] + list(tensors.items())[3:4])
    file = draft(small).write(tmp_path / "one")
    targets = [extent.memory for extent in small.values()]
    whole = file.path.read_bytes()
    for part in file.parts:
        for place in range(part.offset, part.offset + part.nbytes):
            file.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(OSError, match=f"{file.path} is altered: {part.name} "):
                file.read(targets)
    file.path.write_bytes(whole)
    file.read(targets)


def test_a_file_that_is_cut_short_or_gone(tensors, tmp_path):
    file = draft(tensors).write(tmp_path / "one")
    targets = [extent.memory for extent in tensors.values()]
    os.truncate(file.path, file.parts[-1].offset + 5000)
    with pytest.raises(OSError, match=r"cut short.*one"):
        file.read(targets)
    file.path.unlink()
    with pytest.raises(FileNotFoundError):
        file.read(targets)


def test_a_full_disk(tensors, tmp_path):
    """The system refuses in the middle of the file; it is told, and no file is left."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            draft(tensors).write(tmp_path / "one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_not_written_over(tensors, tmp_path):
    """A foreign file of that name stays."""
    (tmp_path / "one").write_text("foreign")
    with pytest.raises(FileExistsError):
        draft(tensors).write(tmp_path / "one")
    assert (tmp_path / "one").read_text() == "foreign"


def test_a_pipe_in_its_place_is_not_waited_for(tensors, tmp_path):
    """It is an error like any other, and the thread that reads goes on."""
    file = draft(tensors).write(tmp_path / "one")
    file.path.unlink()
    os.mkfifo(file.path)
    with pytest.raises(OSError):  # noqa: PT011 - the system's words
        file.read([bytearray(size) for size in SIZES])


def test_threads_that_the_system_refuses(tensors, tmp_path, monkeypatch):
    """One thread does it all then."""

    def refuse(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    file = draft(tensors).write(Path(tmp_path / "one"))
    file.read([extent.memory for extent in tensors.values()])
