"""Files of one tensor: .pt, .npy and .safetensors. Nothing in a file is run, and none is there until it is whole."""

import io
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from djinn.debugger.values import Refused
from djinn.debugger.words import error_line
from djinn.durable.session_file import check_can_write


def read(path: Path) -> torch.Tensor:
    """Return the one tensor in a file; nothing in it is run. Raises :class:`Refused`."""
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_pt, ".pth": _read_pt}
    if path.suffix not in readers:
        raise Refused(f"{path} is no .pt, .npy or .safetensors file")
    try:
        found = readers[path.suffix](path)
    except FileNotFoundError:
        raise Refused(f"there is no file {path}") from None
    except (pickle.UnpicklingError, ImportError, OSError, RuntimeError, ValueError, TypeError, EOFError) as error:
        line = str(error).partition("\n")[0] or type(error).__name__
        raise Refused(f"{path} cannot be read as a tensor: {line}") from None
    if isinstance(found, dict) and len(found) == 1:
        found = next(iter(found.values()))
    if not isinstance(found, torch.Tensor):
        what = f"{len(found)} tensors" if isinstance(found, dict) else type(found).__name__
        raise Refused(f"{path} has {what} in place of one tensor")
    return found


def _read_npy(path: Path) -> Any:
    import numpy as np  # noqa: PLC0415 - torch can do without

    return torch.from_numpy(np.load(path, allow_pickle=False))


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError  # noqa: PLC0415 - it comes with transformers
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(error) from None


def _read_pt(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def check_writable(path: Path, dtype: torch.dtype) -> None:
    """Raise :class:`Refused`, or what the system raises, if a tensor of this kind cannot be written to ``path``."""
    if path.suffix not in _WRITERS:
        raise Refused(f"{path} is no .pt, .npy or .safetensors file")
    check_can_write(path.absolute())
    try:
        _WRITERS[path.suffix](io.BytesIO(), "one", torch.empty(0, dtype=dtype))
    except (ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise Refused(f"a {path.suffix} file does not take {dtype}, one in .pt does: {error_line(error)}") from None


def write(path: Path, name: str, tensor: torch.Tensor) -> int:
    """Write ``tensor``, which is in host memory and contiguous, to ``path``; return the bytes of the file.

    What was there is there until the new file is whole.
    """
    aside = path.with_name(f".{path.name}-{os.getpid()}.partial")
    try:
        with aside.open("wb") as file:
            _WRITERS[path.suffix](file, name, tensor)
        aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink()
    return path.stat().st_size


def _write_pt(file: BinaryIO, name: str, tensor: torch.Tensor) -> None:
    torch.save(tensor, file)


def _write_npy(file: BinaryIO, name: str, tensor: torch.Tensor) -> None:
    import numpy as np  # noqa: PLC0415 - torch can do without

    np.save(file, tensor.numpy())


def _write_safetensors(file: BinaryIO, name: str, tensor: torch.Tensor) -> None:
    from safetensors.torch import save  # noqa: PLC0415 - it comes with transformers

    file.write(save({name: tensor}))


_WRITERS: dict[str, Callable[[BinaryIO, str, torch.Tensor], None]] = {
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
    ".pt": _write_pt,
    ".pth": _write_pt,
}
