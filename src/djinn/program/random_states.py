"""The states of all random generators that a program may draw from, as plain data that a file can hold."""

import base64
import importlib
from typing import Any

import torch

from djinn.program.generators import PythonGenerator, TorchGenerator, generators_of, generators_of_process

State = dict[str, Any]  # by the generator's name
_NUMPY_WORDS = 624


class RandomStates:
    """Reads and sets the generators of the process and of ``device``; used by a program in its turn."""

    def __init__(self, device: torch.device) -> None:
        generators = (*generators_of_process(), *generators_of(device))
        self._generators = dict(zip(("torch", "python", "numpy", "device"), generators, strict=False))

    def marks(self) -> list[object]:
        """Return what differs if one of them has been drawn from since."""
        return [
            bytes(generator.read()[1].numpy()) if isinstance(generator, TorchGenerator) else generator.mark()
            for generator in self._generators.values()
        ]

    def read(self) -> State:
        """Return the state of each; NumPy's is None if it is not imported, and its name if no file can hold it."""
        return {name: _encoded(generator) for name, generator in self._generators.items()}

    def put(self, state: State) -> None:
        """Set each that has a state in ``state``. Raises ``ValueError`` for what is none, as in a foreign file."""
        for name, generator in self._generators.items():
            if state.get(name) is not None:
                try:
                    _put(generator, state[name])
                except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
                    raise ValueError(f"what it has for the random generator {name} is no state of one") from error


def not_kept(state: State) -> str:
    """Return the name of a generator of which ``state`` has nothing but that; an empty string if there is none."""
    return state["numpy"] if isinstance(state.get("numpy"), str) else ""


def _encoded(generator: Any) -> Any:
    state = generator.read()[1]
    if isinstance(generator, TorchGenerator):
        return base64.b64encode(bytes(state.numpy())).decode()
    if isinstance(generator, PythonGenerator):
        version, words, second = state
        return [version, list(words), second]
    if state is None:
        return None
    values = state[2]
    if values["bit_generator"] != "MT19937":
        return str(values["bit_generator"])
    words = [int(word) for word in values["state"]["key"]]
    return [words, int(values["state"]["pos"]), int(values["has_gauss"]), float(values["gauss"])]


def _put(generator: Any, value: Any) -> None:
    if isinstance(generator, TorchGenerator):
        generator.put(torch.frombuffer(bytearray(base64.b64decode(value)), dtype=torch.uint8), None)
    elif isinstance(generator, PythonGenerator):
        generator.put((value[0], tuple(value[1]), value[2]), None)
    else:
        words, place, *rest = value
        if not 0 <= place <= len(words) == _NUMPY_WORDS:
            raise ValueError(place)  # numpy would read other memory
        numpy_random = importlib.import_module("numpy.random")  # the program whose state it is had imported it
        numpy_random.set_state(("MT19937", words, place, *rest))
