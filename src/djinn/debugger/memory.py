"""Device memory over time: a ring of samples, and how it is drawn in characters."""

import threading
import time
from collections import deque
from collections.abc import Sequence

import torch

from djinn.core import Phase
from djinn.debugger.values import MemorySample
from djinn.runtime import Runtime

_SAMPLES = 600


class MemoryRing:
    """The last 600 samples of the device memory of ``runtime``; :meth:`take` is called by whoever shows them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._began = time.monotonic()
        self._samples: deque[MemorySample] = deque(maxlen=_SAMPLES)
        self._adding = threading.Lock()

    def take(self) -> MemorySample:
        """Take a sample and return it.

        On CUDA that is what torch's allocator has in use. Elsewhere it is the state of the parked sessions that is on
        the device.
        """
        sessions = self._runtime.sessions
        device = self._runtime._device
        if device.type == "cuda":
            nbytes = torch.cuda.memory_allocated(device)
        else:
            nbytes = sum(session.device_bytes for session in sessions)
        phases = tuple((session.number, session._phase) for session in sessions)
        sample = MemorySample(seconds=time.monotonic() - self._began, nbytes=nbytes, phases=phases)
        with self._adding:
            self._samples.append(sample)
        return sample

    @property
    def samples(self) -> tuple[MemorySample, ...]:
        """The samples, the oldest first."""
        with self._adding:
            return tuple(self._samples)


def drawn(samples: Sequence[MemorySample], *, width: int, height: int) -> tuple[str, ...]:
    """Draw the last ``width`` samples in ``height`` lines of ``#``, the largest as high as the whole.

    A line below has ``w`` where a session was in IO_WAIT, ``r`` where one computed, both as ``b``, else ``.``.
    """
    shown = list(samples)[-width:]
    most = max((sample.nbytes for sample in shown), default=0)
    lines = []
    for level in range(height, 0, -1):
        line = "".join("#" if most and sample.nbytes * height > (level - 1) * most else " " for sample in shown)
        lines.append(line.rstrip())
    return (*lines, "".join(map(phase_mark, shown)))


def phase_mark(sample: MemorySample) -> str:
    """Return the character of ``sample`` in the line of phases."""
    runs = any(phase is Phase.RUNNING for _, phase in sample.phases)
    return {(True, True): "b", (True, False): "w", (False, True): "r", (False, False): "."}[sample.waits, runs]
