"""Whole files or none: every result, record and figure is written through here.

The bytes go to a temporary file beside the target, reach the disk, and take the target's name in one step. A
reader, or a job that is killed half-way, therefore sees the old file or the new one and never a part of
either. This module does not lock: two writers of one path leave the whole file of whichever came last.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace the file at ``path`` by ``data``; makes its folders. On OSError the old file stands."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because os.replace is atomic only within one file system.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private to the user; results are for everybody
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):  # after the replace there is nothing left to remove
            os.unlink(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Replace the file at ``path`` by ``text`` in UTF-8, with line ends as given."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: object) -> None:
    """Replace the file at ``path`` by ``value`` as indented JSON, keys in the order given.

    Raises ValueError for NaN and infinity, which JSON does not have, and TypeError for what JSON cannot hold;
    in both cases before the old file is touched.
    """
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """``value`` as indented JSON, as :func:`write_json` writes it, which tells what is raised."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
