"""The file of a session: whole or not there, and refused if a byte of it is not what was written."""

import hashlib
import json
import os
import resource
import stat
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import djinn
from djinn.durable import session_file

HERE = Path(__file__).parents[3]
DOCUMENT = {"format": 1, "words": "of a session", "numbers": [1, 2, 3]}


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"state/hidden_states": 96, "state/kv.1.keys": 1000, "empty": 0}
    return {name: torch.randint(256, (size,), generator=generator, dtype=torch.uint8) for name, size in sizes.items()}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "one.djinn"
    assert session_file.write(path, DOCUMENT, tensors()) == path.stat().st_size
    return path


def test_what_was_written_is_read(path):
    document, found = session_file.read(path)
    assert {name: document[name] for name in DOCUMENT} == DOCUMENT
    expected = tensors()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_was_read_is_free_of_the_file(path):
    """Somebody may write to the file in place while the session goes on."""
    _, found = session_file.read(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


@pytest.mark.parametrize("moment", ["available_bytes", "_document"])
def test_another_file_takes_its_place_while_it_is_read(path, monkeypatch, moment):
    """A save replaces it: what is read is the old one, whole."""
    step = getattr(session_file, moment)

    def replaced(*args):
        session_file.write(path, {"format": 2}, tensors(seed=1))
        return step(*args)

    monkeypatch.setattr(session_file, moment, replaced)
    document, found = session_file.read(path)
    assert document["format"] == 1
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


def test_a_document_has_no_limit(path):
    """Thousands of steps that draw random numbers come to more than the 100 MB that a header may have."""
    document = {"words": "x" * 101_000_000}
    session_file.write(path, document, {})
    assert session_file.read(path)[0]["words"] == document["words"]


def test_a_name_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("x" * 255)
    session_file.write(path, DOCUMENT, tensors())
    assert session_file.read(path)[0]["words"] == DOCUMENT["words"]


def test_a_file_that_host_memory_cannot_hold(path):
    """It is refused before it is read; a sparse one takes no room on the disk."""
    os.truncate(path, 1 << 43)
    with pytest.raises(djinn.NotRestored, match="it has 8796093022208 bytes"):
        session_file.read(path)


@pytest.mark.parametrize("words", [b"[" * 100_000, b'{"a": NaN}', b"9" * 5000, b"\xff", b"[]", b"null", b"{}"])
def test_what_is_no_document_is_refused(path, words):
    """Also where its digest is right."""
    digest = hashlib.sha256(words).digest()
    content = {"document": words, "document.sha256": digest}
    save_file({name: torch.tensor(list(part), dtype=torch.uint8) for name, part in content.items()}, path)
    with pytest.raises(djinn.NotRestored):
        session_file.read(path)


def entry(start, end, **other):
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end], **other}


@pytest.mark.parametrize(
    "header",
    [
        {"document": entry(0, 4)},
        {"document": entry(4, 8)},
        {"document": entry(0, 9)},
        {"document": entry(0, 8), "more": entry(0, 8)},
        {"document": entry(0, 12), "more": entry(12, 8)},
        {"document": entry(-8, 8)},
        {"document": entry(0, 8, dtype="F32")},
        {"document": entry(0, 8, shape=[2, 4])},
        {"document": entry(0, 8, data_offsets=[0, 8, 8])},
        {"document": entry(0, 8, data_offsets=["0", None])},
        {"document": entry(0, 8, data_offsets=[0, float("inf")])},
        {"document": {}},
        {"document": 8},
        ["document"],
        "document",
    ],
)
def test_a_header_that_does_not_fit_the_file(tmp_path, header):
    """Tensors with holes, that overlap or leave the file, and what describes none at all."""
    path, words = tmp_path / "one.djinn", json.dumps(header).replace("Infinity", "1e999").encode()
    path.write_bytes(len(words).to_bytes(8, "little") + words + bytes(8))
    with pytest.raises(djinn.NotRestored, match="no file of a session"):
        session_file.read(path)


def test_a_header_of_any_length(path):
    """A length that the file does not have, or that no header has, is not read."""
    data = path.read_bytes()[8:]
    for length in (0, 1, len(data) + 1, 2**63, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + data)
        with pytest.raises(djinn.NotRestored, match="no file of a session"):
            session_file.read(path)


def test_other_programs_can_read_it(path):
    """It is safetensors."""
    found = load_file(path)
    assert json.loads(bytes(found["document"].tolist()))["words"] == DOCUMENT["words"]
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


def test_only_its_owner_can_read_it(path):
    """Also where a file that all could read is replaced."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    session_file.write(path, DOCUMENT, tensors())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_shorter_file_is_refused(path):
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(djinn.NotRestored, match="cut short|altered|no session"):
            session_file.read(path)


def test_an_altered_byte_is_refused(path):
    """Every one that says something, and every seventh of those that fill pages."""
    whole = path.read_bytes()
    for place, byte in enumerate(whole):
        if byte in b" \0" and place % 7:
            continue
        path.write_bytes(whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :])
        with pytest.raises(djinn.NotRestored, match="cut short|altered|no session"):
            session_file.read(path)


def test_more_bytes_are_refused(path):
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(djinn.NotRestored):
        session_file.read(path)


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(djinn.NotRestored, match="no session of djinn"):
        session_file.read(foreign)
    foreign.write_text("a text")
    with pytest.raises(djinn.NotRestored, match="no file of a session"):
        session_file.read(foreign)


def test_nothing_is_followed(path, tmp_path):
    """A link is neither read nor replaced, and neither is a folder or a pipe."""
    link, folder, pipe = (tmp_path / name for name in ("link", "folder", "pipe"))
    link.symlink_to(path)
    folder.mkdir()
    os.mkfifo(pipe)
    for other in (link, folder, pipe):
        with pytest.raises(djinn.NotRestored, match="no plain file"):
            session_file.read(other)
        with pytest.raises(djinn.DjinnError, match=other.name):
            session_file.check_can_write(other)
    with pytest.raises(FileNotFoundError):
        session_file.read(tmp_path / "absent")
    with pytest.raises(NotADirectoryError, match="nowhere"):
        session_file.check_can_write(tmp_path / "nowhere" / "one.djinn")


def test_a_folder_that_is_read_only(path, monkeypatch):
    """It is named, and not a file of ours in it."""
    monkeypatch.setattr("os.access", lambda folder, mode: folder != path.parent)
    with pytest.raises(PermissionError, match=f"the folder {path.parent}:"):
        session_file.check_can_write(path)


def test_a_full_disk(path):
    """The system refuses in the middle of the file; it is told, and what was there stays."""
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match=f"{path} could not be written: .*too large"):
            session_file.write(path, DOCUMENT, {"state/large": torch.zeros(2 << 20, dtype=torch.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", ["_sync", "os.pwrite", "Path.replace"])
def test_a_failing_disk_leaves_the_old_file(path, monkeypatch, step):
    """Whatever step of writing the system refuses, what was there is there, and nothing else."""
    before = path.read_bytes()

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    target = {
        "_sync": "djinn.durable.session_file._sync",
        "os.pwrite": "os.pwrite",
        "Path.replace": "pathlib.Path.replace",
    }[step]
    monkeypatch.setattr(target, refuse)
    with pytest.raises(OSError, match="No space left"):
        session_file.write(path, DOCUMENT, tensors(1))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_what_dead_processes_left_is_removed(path):
    """Beside the file of this name; what a living process is writing stays."""
    name, other = (hashlib.sha256(word.encode()).hexdigest()[:16] for word in (path.name, "other"))
    gone = [path.with_name(f".djinn-{name}-{2**22 + 1}-0123abcd.partial")]
    stay = [
        path.with_name(f".djinn-{name}-{os.getppid()}-0123abcd.partial"),
        path.with_name(f".djinn-{other}-{2**22 + 1}-0123abcd.partial"),
        path.with_name(".djinn-.partial"),
    ]
    for left in (*gone, *stay):
        left.touch()
    session_file.write(path, DOCUMENT, tensors(1))
    assert sorted(os.listdir(path.parent)) == sorted(one.name for one in (path, *stay))


def test_killed_at_200_moments(path, interpreters):
    """A writer that is killed by the system leaves a whole file of before or of after, and the next one cleans up."""
    script = f"""
    import os, random, signal, sys, time
    sys.path[:0] = [{str(HERE)!r}, {str(HERE / "src")!r}]
    from pathlib import Path
    import torch
    from djinn.durable import session_file
    from tests.djinn.durable.test_session_file import tensors

    torch.set_num_threads(1)
    path, moments = Path({str(path)!r}), random.Random(7)
    cut_short = 0
    began = time.perf_counter()
    session_file.write(path, {{"format": 1, "version": 0}}, tensors())
    seconds = time.perf_counter() - began
    for version in range(200):
        ready, written = os.pipe()
        writer = os.fork()
        if writer == 0:
            content = tensors(version)
            os.write(written, b".")
            while True:
                session_file.write(path, {{"format": 1, "version": version}}, content)
                os.write(written, b".")
        # Half of them die in their first write, half in a later one, however slow the machine is.
        os.close(written)
        for _ in range(1 + version % 2):
            assert os.read(ready, 1) == b"."
        time.sleep(moments.uniform(0, seconds))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        os.close(ready)
        document, found = session_file.read(path)
        expected = tensors(document["version"])
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert document["version"] == version if version % 2 else document["version"] <= version
        cut_short += len(os.listdir(path.parent)) > 1
    session_file.write(path, {{"format": 1}}, tensors())
    print(cut_short, os.listdir(path.parent) == [path.name])
    """
    ended = interpreters.run(textwrap.dedent(script))
    assert ended.returncode == 0, ended.stderr
    cut_short, clean = ended.stdout.split()
    assert int(cut_short) > 20
    assert clean == "True"
