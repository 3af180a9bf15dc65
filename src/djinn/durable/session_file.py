"""The file of a saved session: safetensors, with one JSON document in its header. Nothing in it is ever run.

It is written aside, synced, and renamed: data before name, then the folder. So there is the old file, or the new one,
and never a third thing. Only its owner can read it.

The digests of the document and of every tensor (sha256) are in the header. Reading checks all of them first.
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
from typing import Any

import torch

from djinn.core import DjinnError, NotRestored
from djinn.durable.document import Json

_LIBRARY = "safetensors.torch"
_ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)-[0-9a-f]{8}\.partial")


def check_can_write(path: Path) -> None:
    """Raise :class:`DjinnError` or ``OSError`` if a file cannot be written to ``path``; nothing is written yet."""
    _safetensors()
    if not path.parent.is_dir():
        raise NotADirectoryError(f"there is no folder {path.parent} to save in: make it first")
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise DjinnError(f"{path} is no file that can be replaced: name another path")


def write(path: Path, document: Json, tensors: Mapping[str, torch.Tensor]) -> int:
    """Write ``document`` and ``tensors`` (uint8, in host memory) to ``path``; return the bytes of the file.

    Raises ``OSError`` if the system refuses. What was at ``path`` is there then.
    """
    safetensors, refusal = _safetensors()
    digests = {name: _sha256(tensor) for name, tensor in tensors.items()}
    words = json.dumps({**document, "sha256": digests}, sort_keys=True)
    header = {"djinn": words, "djinn_sha256": hashlib.sha256(words.encode()).hexdigest()}
    _remove_left_over(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    aside.mkdir(0o700)  # a folder: the library writes to a file of its own naming first
    try:
        file = aside / path.name
        safetensors.save_file(dict(tensors), str(file), metadata=header)
        file.chmod(0o600)
        _sync(file)
        nbytes = file.stat().st_size
        file.replace(path)
    except refusal as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _sync(path.parent)
    return nbytes


def read(path: Path) -> tuple[Json, dict[str, torch.Tensor]]:
    """Return the document and the tensors of the file at ``path``, when all digests are right.

    Raises ``FileNotFoundError``, and :class:`NotRestored` for what is no whole and unaltered file of a session.
    """
    safetensors, refusal = _safetensors()
    if not stat.S_ISREG(path.lstat().st_mode):
        raise NotRestored(f"{path} is no plain file: a link or a folder is not followed")
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            document = _document(path, file.metadata() or {})
            names = set(file.keys())
            digests = document.get("sha256")
            if not isinstance(digests, dict) or names != set(digests):
                raise NotRestored(f"{path} is altered: its tensors are not those that were saved")
            tensors = {name: file.get_tensor(name) for name in sorted(names)}
    except refusal as error:
        raise NotRestored(f"{path} is cut short, or no file of a session: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.uint8 or tensor.dim() != 1 or _sha256(tensor) != digests[name]:
            raise NotRestored(f"{path} is altered: {name} is not what was saved")
    return document, tensors


def _document(path: Path, header: Mapping[str, str]) -> Json:
    words = header.get("djinn", "")
    if not words:
        raise NotRestored(f"{path} holds tensors, but no session of djinn")
    if hashlib.sha256(words.encode()).hexdigest() != header.get("djinn_sha256"):
        raise NotRestored(f"{path} is altered: its document is not what was saved")
    document = json.loads(words)
    if not isinstance(document, dict):
        raise NotRestored(f"{path} holds no session of djinn")
    return document


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().data).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_left_over(path: Path) -> None:
    """Remove what processes that have died in the middle of writing to ``path`` have left beside it."""
    for left in path.parent.glob(".*.partial"):
        match = _ASIDE.fullmatch(left.name)
        if match and match["name"] == path.name and not Path(f"/proc/{match['process']}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _safetensors() -> tuple[Any, type[Exception]]:
    """Return the library for tensors of torch, and its error."""
    try:
        return importlib.import_module(_LIBRARY), importlib.import_module("safetensors").SafetensorError
    except ImportError as error:
        raise DjinnError("a session is saved by the package safetensors: pip install 'djinn[durable]'") from error
