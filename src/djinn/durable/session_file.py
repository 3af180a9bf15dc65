"""The file of a saved session: safetensors, of which one tensor is a JSON document. Nothing in it is ever run.

It is written aside, synced, and renamed: data before name, then the folder. So there is the old file, or the new one,
and never a third thing. Only its owner can read it.

The document has the digest (sha256) of every other tensor, and its own lies beside it. Reading checks all of them
first. The document is no part of the header, which may not have more than 100 MB.
"""

import hashlib
import importlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from djinn.core import DjinnError, NotRestored
from djinn.durable.document import Json
from djinn.memory.host_memory import available_bytes

_LIBRARY = "safetensors"
_DOCUMENT, _ITS_DIGEST = "document", "document.sha256"
_ASIDE = re.compile(r"\.djinn-(?P<name>[0-9a-f]{16})-(?P<process>\d+)-[0-9a-f]{8}\.partial")


def check_can_write(path: Path) -> None:
    """Raise :class:`DjinnError` or ``OSError`` if a file cannot be written to ``path``; nothing is written yet."""
    _safetensors()
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
    library = _safetensors()
    digests = {name: hashlib.sha256(tensor.numpy().data).hexdigest() for name, tensor in tensors.items()}
    words = json.dumps({**document, "sha256": digests}, sort_keys=True).encode()
    content = {**tensors, _DOCUMENT: _tensor(words), _ITS_DIGEST: _tensor(hashlib.sha256(words).digest())}
    _remove_left_over(path)
    aside = path.with_name(f".djinn-{_short(path.name)}-{os.getpid()}-{secrets.token_hex(4)}.partial")
    aside.mkdir(0o700)  # a folder: the library writes to a file of its own naming first
    try:
        file = aside / path.name
        library.torch.save_file(content, str(file))
        file.chmod(0o600)
        _sync(file)
        nbytes = file.stat().st_size
        file.replace(path)
    except library.SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _sync(path.parent)
    return nbytes


def read(path: Path) -> tuple[Json, dict[str, torch.Tensor]]:
    """Return the document and the tensors of the file at ``path``, when all digests are right.

    Raises ``OSError`` if the system refuses, and :class:`NotRestored` for what is no whole and unaltered file of a
    session. What is returned is in memory: what happens to the file later does not matter.
    """
    library = _safetensors()
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise NotRestored("it is no plain file: a link or a folder is not followed")
    if 2 * status.st_size > (free := available_bytes()):  # its bytes, and its tensors
        raise NotRestored(
            f"it has {status.st_size} bytes, and is read with twice as many of host memory: {free} are free"
        )
    try:
        found = {name: part["data"] for name, part in library.deserialize(path.read_bytes())}
    except library.SafetensorError as error:
        raise NotRestored(f"it is cut short, or no file of a session: {error}") from error
    words, its_digest = found.pop(_DOCUMENT, b""), found.pop(_ITS_DIGEST, b"")
    if not words:
        raise NotRestored("it holds tensors, but no session of djinn")
    if hashlib.sha256(words).digest() != its_digest:
        raise NotRestored("it is altered: its document is not what was saved")
    document = _document(words)
    digests = document.get("sha256")
    if not isinstance(digests, dict) or set(found) != set(digests):
        raise NotRestored("it is altered: its tensors are not those that were saved")
    for name, data in found.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            raise NotRestored(f"it is altered: {name} is not what was saved")
    return document, {name: _tensor(data) for name, data in found.items()}


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


def _tensor(data: bytes | bytearray) -> torch.Tensor:
    """Return ``data`` as a tensor (uint8), an alias if it can be written to."""
    if not data:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data) if isinstance(data, bytes) else data, dtype=torch.uint8)


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
            shutil.rmtree(left, ignore_errors=True)


def _safetensors() -> Any:
    """Return the library, with its part for tensors of torch."""
    try:
        importlib.import_module(f"{_LIBRARY}.torch")
        return importlib.import_module(_LIBRARY)
    except ImportError as error:
        raise DjinnError("a session is saved by the package safetensors: pip install 'djinn[durable]'") from error
