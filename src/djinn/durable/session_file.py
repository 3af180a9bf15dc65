"""The file of a saved session: safetensors, of which one tensor is a JSON document. Nothing in it is ever run.

Its form, and how it is written and read, are those of a spilled session's (``memory.spill_file``): in large pieces, on
several threads, which take the digests meanwhile. A file of somebody else's is not trusted in any of it.

It is written aside, synced, and renamed: data before name, then the folder. So there is the old file, or the new one,
and never a third thing. Only its owner can read it.

The document has the digest (sha256) of every other tensor, and its own lies beside it. Reading checks all of them
first. The document is no part of the header, which may not have more than 100 MB.
"""

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

import torch

from djinn.core import DjinnError, NotRestored
from djinn.durable.document import Json
from djinn.memory.host_memory import available_bytes
from djinn.memory.spill_file import DOCUMENT, ITS_DIGEST, Altered, Draft, Part, SpillFile, is_padding

_LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it
_ASIDE = re.compile(r"\.djinn-(?P<name>[0-9a-f]{16})-(?P<process>\d+)-[0-9a-f]{8}\.partial")


def check_can_write(path: Path) -> None:
    """Raise :class:`DjinnError` or ``OSError`` if a file cannot be written to ``path``; nothing is written yet."""
    if not path.parent.is_dir():
        raise NotADirectoryError(f"there is no folder {path.parent} to save in: make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no file can be written to the folder {path.parent}: name another path")
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise DjinnError(f"{path} is no file that can be replaced: name another path")


def write(path: Path, document: Json, tensors: Mapping[str, torch.Tensor]) -> int:
    """Write ``document`` and ``tensors`` (uint8, in host memory) to ``path``; return the bytes of the file.

    Raises ``OSError`` if the system refuses. What was at ``path`` is there then.
    """
    draft = Draft([(name, tensor.numpy().data) for name, tensor in tensors.items()], document)
    _remove_left_over(path)
    aside = path.with_name(f".djinn-{_short(path.name)}-{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        draft.write(aside)
        _sync(aside)
        aside.replace(path)
    except OSError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)
    _sync(path.parent)
    return draft.nbytes


def read(path: Path) -> tuple[Json, dict[str, torch.Tensor]]:
    """Return the document and the tensors of the file at ``path``, when all digests are right.

    Raises ``OSError`` if the system refuses, and :class:`NotRestored` for what is no whole and unaltered file of a
    session. What is returned is in memory: what happens to the file later does not matter.
    """
    with _opened(path) as file:
        return _read(file, Path(f"/proc/self/fd/{file.fileno()}"))


def check_can_read(path: Path) -> None:
    """Raise what :func:`read` raises before it reads the tensors, which takes long."""
    with _opened(path) as file:
        _begin(file, os.fstat(file.fileno()).st_size)


def _opened(path: Path) -> BinaryIO:
    """Open the file: by its name once, for a save may put another file there meanwhile."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise NotRestored("it is no plain file: a link or a folder is not followed")
    return path.open("rb")


def _read(file: BinaryIO, path: Path) -> tuple[Json, dict[str, torch.Tensor]]:
    """Do what :func:`read` does; ``path`` is that of the open ``file`` itself."""
    size = os.fstat(file.fileno()).st_size
    document, places = _begin(file, size)
    digests = document.get("sha256")
    if not isinstance(digests, dict) or set(places) != set(digests):
        raise NotRestored("it is altered: its tensors are not those that were saved")
    found = {name: torch.empty(nbytes, dtype=torch.uint8) for name, (_, nbytes) in places.items()}
    parts = tuple(
        Part(name=name, offset=offset, nbytes=nbytes, digest=str(digests[name]))
        for name, (offset, nbytes) in places.items()
    )
    try:
        targets = [tensor.numpy().data for tensor in found.values()]
        SpillFile(path=path, parts=parts, nbytes=size).read(targets)
    except Altered as altered:
        raise NotRestored(f"it is altered: {altered.name} is not what was saved") from None
    return document, {name: tensor for name, tensor in found.items() if not is_padding(name)}


def _begin(file: BinaryIO, size: int) -> tuple[Json, dict[str, tuple[int, int]]]:
    """Return the document of the ``file`` of ``size`` bytes, and where each tensor begins, and its bytes."""
    if size > (free := available_bytes()):
        raise NotRestored(f"it has {size} bytes, and is read to host memory: {free} are free")
    places = _places(file, size)
    words, its_digest = (_bytes_at(file, *places.pop(name, (0, 0))) for name in (DOCUMENT, ITS_DIGEST))
    if hashlib.sha256(words).digest() != its_digest:
        raise NotRestored("it is altered: its document is not what was saved")
    return _document(words), places


def _places(file: BinaryIO, nbytes: int) -> dict[str, tuple[int, int]]:
    """Return where in the ``file`` of ``nbytes`` each tensor begins, and its bytes, as the header says."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length) if length <= min(nbytes, _LONGEST_HEADER) else b""
    begin = end = 8 + length
    places = {}
    try:
        entries = json.loads(header, parse_constant=_refuse)
        if DOCUMENT not in entries:
            raise NotRestored("it holds tensors, but no session of djinn")
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            start, after = map(int, entry["data_offsets"])
            if begin + start != end or after < start or entry["shape"] != [after - start] or entry["dtype"] != "U8":
                raise ValueError(f"{name} does not follow what is before it")
            places[name] = end, after - start
            end = begin + after
        if end != nbytes:
            raise ValueError(f"of {end} bytes it has {nbytes}")
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise NotRestored(f"it is cut short, or no file of a session: {error}") from error
    return places


def _bytes_at(file: BinaryIO, offset: int, nbytes: int) -> bytes:
    file.seek(offset)
    return file.read(nbytes)


def _document(words: bytes) -> Json:
    try:
        document = json.loads(words, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotRestored(f"its document is not that of a session ({error})") from error
    if not isinstance(document, dict):
        raise NotRestored("its document is not that of a session")
    return document


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _short(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_left_over(path: Path) -> None:
    """Remove what processes that have died in the middle of writing to ``path`` have left beside it."""
    for left in path.parent.glob(".djinn-*.partial"):
        match = _ASIDE.fullmatch(left.name)
        if match and match["name"] == _short(path.name) and not Path(f"/proc/{match['process']}").exists():
            with suppress(OSError):
                left.unlink()
