"""The random generators that all threads of a process share: torch's, Python's and NumPy's.

To read or set NumPy's state takes some 70 microseconds, and Python's 15. So both tell in one whether they have changed,
by a mark: the bytes in which the generator keeps its state. NumPy is not imported here. Where the program has not
imported it there is nothing to carry.
"""

import _random
import ctypes
import random
import sys
from typing import Any

import torch

_HEADER_BYTES = object.__basicsize__
_PYTHON_BYTES = _random.Random.__basicsize__ - _HEADER_BYTES
_MT19937_BYTES = 625 * 4  # 624 words and the position


class TorchGenerator:
    """One of torch's default generators: the CPU's or a device's. Its state is read and set as fast as a mark."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def mark(self) -> object:
        """Return None: it cannot be told without reading."""
        return None

    def read(self) -> tuple[object, Any]:
        """Return no mark, and the state."""
        return None, self._generator.get_state()

    def put(self, state: Any, over: Any) -> None:
        """Set the state."""
        self._generator.set_state(state)

    def is_seeded_since(self, state: torch.Tensor) -> bool:
        """Whether another seed was given since the generator had ``state``, which begins with its seed in 8 bytes."""
        return self._generator.initial_seed() != int.from_bytes(bytes(state[:8].tolist()), sys.byteorder)


class PythonGenerator:
    """The generator behind the functions of :mod:`random`."""

    def mark(self) -> object:
        """Return the bytes of its state, and the second number of a pair of normal ones, if it waits for its turn."""
        instance: Any = random._inst
        return ctypes.string_at(id(instance) + _HEADER_BYTES, _PYTHON_BYTES), instance.gauss_next

    def read(self) -> tuple[object, Any]:
        """Return the mark and the state."""
        return self.mark(), random.getstate()

    def put(self, state: Any, over: Any) -> None:
        """Set the state."""
        random.setstate(state)


class NumpyGenerator:
    """The generator behind the functions of ``numpy.random``, once it is imported.

    It makes normal numbers in pairs. The second waits outside the bytes of the mark, and drawing it leaves them alone.
    So there is no mark while one waits.
    """

    def mark(self) -> object:
        """Return the bytes of its state; "absent" without NumPy, None for another generator than NumPy's default."""
        numpy = _numpy()
        if numpy is None:
            return "absent"
        bits = numpy.get_bit_generator()
        if type(bits) is not numpy._MT19937:
            return None
        return ctypes.string_at(bits.ctypes.state_address, _MT19937_BYTES)

    def read(self) -> tuple[object, Any]:
        """Return the mark and the state: the generator, its mark, and the values that it and NumPy keep."""
        numpy = _numpy()
        if numpy is None:
            return "absent", None
        values = numpy.get_state(legacy=False)
        mark = None if values["has_gauss"] else self.mark()
        return mark, (numpy.get_bit_generator(), mark, values)

    def put(self, state: Any, over: Any) -> None:
        """Set the state; with a mark on both sides its bytes are all of it."""
        numpy = _numpy()
        if numpy is None or state is None:
            return
        bits, mark, values = state
        if mark is not None and over is not None and over[0] is bits and over[1] is not None:
            ctypes.memmove(bits.ctypes.state_address, mark, _MT19937_BYTES)
        else:
            if numpy.get_bit_generator() is not bits:
                numpy.set_bit_generator(bits)
            numpy.set_state(values)


def _numpy() -> Any:
    """Return ``numpy.random.mtrand`` once it is imported whole, else None."""
    module = sys.modules.get("numpy.random.mtrand")
    return module if hasattr(module, "get_bit_generator") else None


def carried_generators() -> tuple[object, ...]:
    """Return the generators of the process: their states change with the turn, and are each session's own."""
    numpy = _numpy()
    of_numpy = () if numpy is None else (numpy._rand, numpy.get_bit_generator())
    return torch.default_generator, *torch.cuda.default_generators, random._inst, *of_numpy


def is_carried(value: object) -> bool:
    """Whether ``value`` is a generator of the process."""
    return any(value is one for one in carried_generators())


def generators_of_process() -> list[TorchGenerator | PythonGenerator | NumpyGenerator]:
    """The generators of the process, whatever the device."""
    return [TorchGenerator(torch.default_generator), PythonGenerator(), NumpyGenerator()]


def generators_of(device: torch.device) -> list[TorchGenerator]:
    """The generator that ``device`` has of its own, if it has one."""
    if device.type != "cuda":
        return []
    torch.cuda.init()
    return [TorchGenerator(torch.cuda.default_generators[device.index or 0])]
