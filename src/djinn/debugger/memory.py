"""Device memory over time: a ring of samples, and how it is drawn in characters."""

import threading
import time
from collections import deque
from collections.abc import Sequence

import torch

from djinn.core import Phase
from djinn.debugger.values import MemorySample
from djinn.runtime import Runtime
from djinn.wording import sized

_SAMPLES = 600
_LABEL = 9  # characters beside the bars, so that these stay where they are
_SPANS = (30, 60, 120, 300, 600, 1800, 3600)  # seconds
_ASCII = " .:#"
_BLOCKS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"  # by eighths


class MemoryRing:
    """The last 600 samples of the device memory of ``runtime``; :meth:`take` is called by whoever shows them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._began = time.monotonic()
        self._samples: deque[MemorySample] = deque(maxlen=_SAMPLES)
        self._adding = threading.Lock()
        self._known: dict[int, int] = {}  # bytes of state by session, as it was last seen parked

    def take(self) -> MemorySample:
        """Take a sample and return it.

        On CUDA that is what torch's allocator has in use. Elsewhere it is the state of the sessions that is on the
        device: of one that computes the state that it had when it was last seen parked.
        """
        sessions = self._runtime.sessions
        device = self._runtime._device
        phases = tuple((session.number, session._phase) for session in sessions)
        known, held = self._known, 0
        if device.type == "cuda":
            nbytes = torch.cuda.memory_allocated(device)
        else:
            self._known = {one.number: sum(one.storage_sizes) or known.get(one.number, 0) for one in sessions}
            held = sum(self._known[number] for number, phase in phases if phase is Phase.RUNNING)
            nbytes = held + sum(session.device_bytes for session in sessions)
        seconds = time.monotonic() - self._began
        sample = MemorySample(seconds=seconds, nbytes=nbytes, phases=phases, held_bytes=held)
        with self._adding:
            self._samples.append(sample)
        return sample

    @property
    def samples(self) -> tuple[MemorySample, ...]:
        """The samples, the oldest first."""
        with self._adding:
            return tuple(self._samples)


def history(samples: Sequence[MemorySample], *, width: int, height: int, ascii: bool = True) -> tuple[str, ...]:
    """Draw device memory over time in ``height`` lines of at most ``width``: bars, a line of marks, the time.

    A column is the largest value in its share of the time. The highest bar is the largest value, which stands beside
    it. The marks are ``w`` where a session was in IO_WAIT, ``r`` where one computed, ``b`` where both, else ``.``.
    Unless ``ascii`` bars are blocks.
    """
    levels = _ASCII if ascii else _BLOCKS
    span = _span(samples)
    shown = [sample for sample in samples if sample.seconds >= samples[-1].seconds - span]
    most = max((sample.nbytes for sample in shown), default=0)
    said, rows = f"{sized(most):>{_LABEL}}", max(height - 2, 1)
    columns = max(width - len(said) - 1, 8)
    parts = _shares(samples, columns=columns, span=span)
    filled = [max(sample.nbytes for sample in part) * rows / most if part and most else 0.0 for part in parts]
    lines = []
    for row in range(rows):
        beside = said if row == 0 else "0" if row == rows - 1 else ""
        lines.append(f"{beside:>{len(said)}}|{''.join(_piece(all - (rows - 1 - row), levels) for all in filled)}")
    begin = f"-{span} s" if span < 120 else f"-{span // 60} min"
    lines.append(f"{'':{len(said)}}|{''.join(map(phase_mark, parts))}")
    lines.append(f"{'':{len(said)}} {begin}{'now':>{columns - len(begin)}}")
    return tuple(line[:width].rstrip() for line in lines)


def _span(samples: Sequence[MemorySample]) -> int:
    """Return the seconds that are drawn: the least of a few that hold all samples."""
    taken = samples[-1].seconds - samples[0].seconds if samples else 0.0
    return next((span for span in _SPANS if taken <= span), _SPANS[-1])


def _shares(samples: Sequence[MemorySample], *, columns: int, span: int) -> list[list[MemorySample]]:
    """Return the samples of each column; where none was taken, the one before, for it still held."""
    parts: list[list[MemorySample]] = [[] for _ in range(columns)]
    held: list[MemorySample] = []
    begin = samples[-1].seconds - span if samples else 0.0
    for sample in samples:
        at = int((sample.seconds - begin) / span * columns)
        if at < 0:
            held = [sample]
        else:
            parts[min(at, columns - 1)].append(sample)
    for at, part in enumerate(parts):
        parts[at] = part or held
        held = parts[at][-1:]
    return parts


def _piece(filled: float, levels: str) -> str:
    """Return the character for a place that is ``filled`` from below, 1 for the whole; anything is seen."""
    if filled <= 0:
        return levels[0]
    return levels[max(round(min(filled, 1.0) * (len(levels) - 1)), 1)]


def phase_mark(samples: Sequence[MemorySample]) -> str:
    """Return the character of ``samples`` in the line of marks; a blank for none."""
    if not samples:
        return " "
    runs = any(sample.computes for sample in samples)
    waits = any(sample.waits for sample in samples)
    return {(True, True): "b", (True, False): "w", (False, True): "r", (False, False): "."}[waits, runs]
