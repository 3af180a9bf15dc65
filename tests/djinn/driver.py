"""A CUDA driver that pins nothing: it notes what it is asked to pin, when it is allowed to."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import torch

from djinn.memory import growth

PIECE = 64 << 10  # bytes


class FakeDriver:
    """Takes torch's place. An arena's first piece is pinned at once, each further one when it is allowed.

    ``refuses`` is the number of a piece, from 1, that is refused to every arena.
    """

    def __init__(self, monkeypatch, refuses=None):
        self.pinned = []  # address and bytes
        self.begun = threading.Semaphore(0)  # counts the pieces that wait to be allowed
        self.joins_fail = False
        self._refuses = refuses
        self._asked = {}  # by growing thread: pieces
        self._allowed = threading.Semaphore(0)
        cudart = SimpleNamespace(cudaHostRegister=self._register, cudaHostUnregister=self._unregister)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "device", nullcontext)
        monkeypatch.setattr(growth, "FIRST_BYTES", PIECE)
        monkeypatch.setattr(growth, "PIECE_BYTES", PIECE)

    def allow(self, pieces):
        self._allowed.release(pieces)

    def _register(self, address, nbytes, flags):
        thread = threading.current_thread()
        refused = self.joins_fail
        if thread.name == "djinn-arena":
            asked = self._asked[thread] = self._asked.get(thread, 0) + 1
            refused = asked == self._refuses
            if asked > 1 and not refused:
                self.begun.release()
                assert self._allowed.acquire(timeout=20)
        if refused:
            return 2
        assert not any(start < address + nbytes and address < start + size for start, size in self.pinned)
        self.pinned.append((address, nbytes))
        return 0

    def _unregister(self, address):
        self.pinned.remove(next(part for part in self.pinned if part[0] == address))
        return 0
