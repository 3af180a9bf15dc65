"""Faults that a test injects: an allocation, a release, a copy, a read or a write fails, once, on whichever thread."""

import errno
import os
import threading

import torch

from djinn.memory import transfer
from djinn.memory.lanes import Lane

ERRORS = {
    "no room": torch.OutOfMemoryError("injected"),
    "no memory on the CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: injected"),
    "MemoryError": MemoryError("injected"),
    "another error": RuntimeError("injected"),
    "KeyboardInterrupt": KeyboardInterrupt("injected"),
}
DISK_ERROR = OSError(errno.EIO, "injected")


class Fault:
    """Lets call number ``count`` of a kind fail, once, on whichever thread makes it."""

    def __init__(self, monkeypatch, kind):
        self.left = None
        self.error = None
        self._lock = threading.Lock()
        resize, bring = torch.UntypedStorage.resize_, Lane.bring

        def resize_(storage, nbytes):
            if kind == ("allocate" if nbytes else "free"):
                self._trip()
            return resize(storage, nbytes)

        def copy_in(lane, *args, **kwargs):
            if kind == "copy in":
                self._trip()
            return bring(lane, *args, **kwargs)

        def copy_out(engine, *args, **kwargs):
            if kind == "copy out":
                self._trip()
            return take(engine, *args, **kwargs)

        def of_the_disk(call):
            def transfer_(*args):
                self._trip()
                return call(*args)

            return transfer_

        if kind in ("write", "read"):
            name = {"write": "pwrite", "read": "preadv"}[kind]
            monkeypatch.setattr(os, name, of_the_disk(getattr(os, name)))
        take = transfer.TransferEngine.copy_out
        monkeypatch.setattr(torch.UntypedStorage, "resize_", resize_)
        monkeypatch.setattr(Lane, "bring", copy_in)
        monkeypatch.setattr(transfer.TransferEngine, "copy_out", copy_out)

    def _trip(self):
        with self._lock:
            if self.left is None:
                return
            self.left -= 1
            if self.left:
                return
            self.left = None
        raise type(self.error)(*self.error.args)  # a new one: its traceback will hold what the frames hold

    def at(self, count, error):
        self.left, self.error = count, error
