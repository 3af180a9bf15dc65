"""More paused sessions than host memory holds: those that wait longest are spilled to a disk, and all come back.

Sessions of different tokens run to the deepest layer with their KV cache and are swapped out, one after another. The
arena is full long before the last of them. From then on each IO_WAIT first spills the session that has waited longest.
Then all are resumed in a random order. The frontier of one that was spilled is ready only when its file has been read.
Each runs on to its end, and is compared bit for bit with an uninterrupted run of the same tokens.

Beside it stands what the disk gives to plain requests for as many bytes, into files of the same folder. They come from
several threads, and go past the page cache where the file system allows it. One write and one read are made between the
swap-outs and the resumes, and one of each after them.
"""

import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import djinn
from djinn.wording import mebibytes
from evaluation.experiments.crowd import Djinns, Prompts
from evaluation.experiments.disk_folder import filesystem_of, folder_on_disk
from evaluation.experiments.plain_disk import plain_read_ms, plain_write_ms
from evaluation.measure.cell import Record, first_line
from evaluation.measure.device_memory import synchronize
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_side_job
from evaluation.measure.models import Subject
from evaluation.measure.stopwatch import now_ms, without_collections
from evaluation.study.plan import ConfigError, Study

_LEFT_FREE = 4 << 30  # bytes of the disk that are not for sessions; the plain transfers take some of them


def take(subject: Subject, study: Study, report: Callable[[str], None]) -> Record:
    """One cell: every swap-out and every resume, with what was on the disk at that moment."""
    report("uninterrupted runs")
    prompts = Prompts(subject, study, study.disk.sessions)
    with folder_on_disk() as folder:
        report("reserving host memory")
        try:
            runtime = djinn.Runtime(
                subject.model,
                host_memory_bytes=int(study.disk.host_arena_gib * 2**30),
                disk_folder=folder,
                disk_bytes=_disk_bytes(folder),
            )
            runtime.arena.wait_grown()  # before anything is timed
        except djinn.HostMemoryFull as error:
            raise ConfigError(f"disk.host_arena_gib: {error}") from error
        with runtime:
            cell = _cell(_Spilled(subject, prompts, runtime), study, folder, report)
        return {"filesystem": filesystem_of(folder), "host_arena_bytes": runtime.arena.nbytes, "cells": [cell]}


def _disk_bytes(folder: Path) -> int:
    nbytes = shutil.disk_usage(folder).free - _LEFT_FREE
    if nbytes <= 0:
        left = f"{mebibytes(_LEFT_FREE)} that are left free"
        raise ConfigError(f"{folder.parent} has no room for sessions beside the {left}")
    return nbytes


class _Spilled(Djinns):
    """Sessions of a runtime with a disk, and the times at which they go and come."""

    def swap_out(self, index: int) -> Record:
        """Run session ``index`` to the deepest layer, and swap it out."""
        session = self.stopped(index)
        synchronize(self.subject.device)
        before = self.on_disk_bytes
        try:
            with without_collections():
                start = now_ms()
                session.io_wait()
                swap_out_ms = now_ms() - start
        except djinn.HostMemoryFull:
            session.close()  # its state is still on the device, which the others need to come back
            raise
        self.prompts.check_kept(self.who, session.host_bytes, session.left_behind)
        self.open[index] = session
        return {"swap_out_ms": swap_out_ms, "spilled_bytes": self.on_disk_bytes - before}

    @property
    def on_disk_bytes(self) -> int:
        """Bytes of state of all sessions on the disk."""
        return sum(session.disk_bytes for session in self.open.values())

    def resumed(self, index: int, think_time_ms: float) -> Record:
        """Beside its times: what lay on the disk of it, and what of others went there for it."""
        others = self.on_disk_bytes - (on_disk_bytes := self.open[index].disk_bytes)
        taken = super().resumed(index, think_time_ms)
        return {**taken, "on_disk_bytes": on_disk_bytes, "spilled_bytes": self.on_disk_bytes - others}


def _cell(sessions: _Spilled, study: Study, folder: Path, report: Callable[[str], None]) -> Record:
    """Swap out as many sessions as are asked for, or until arena and disk are full; then resume all of them."""
    swap_outs: list[Record] = []
    message = ""
    for index in range(study.disk.sessions):
        report("swapping out")
        try:
            swap_outs.append(sessions.swap_out(index))
        except djinn.HostMemoryFull as error:
            message = first_line(error)
            break
    state_bytes = max(session.host_bytes + session.disk_bytes for session in sessions.open.values())
    report("writing and reading plainly")
    plain = [_plain(folder, state_bytes)]
    most_bytes = sessions.on_disk_bytes
    _check_lies_in(folder, most_bytes, message)
    order = list(range(len(swap_outs)))
    random.Random(study.order_seed).shuffle(order)
    # The disk may be full, too. Then one that lies in host memory makes room for those that are read from the disk.
    first = next(index for index in order if not sessions.open[index].disk_bytes)
    order.sort(key=lambda index: index != first)
    resumes = []
    for index in order:
        report("resuming")
        resumes.append(sessions.resumed(index, study.measurement.think_time_ms))
    plain.append(_plain(folder, state_bytes))
    return {
        "sessions": len(swap_outs),
        "stopped_by": "disk" if message else "cap",
        "message": message,
        "state_bytes": state_bytes,
        "on_disk_bytes": most_bytes,
        "swap_outs": swap_outs,
        "resumes": resumes,
        "plain": plain,
    }


def _check_lies_in(folder: Path, nbytes: int, message: str) -> None:
    """Raise unless ``nbytes`` of state, more than none, can lie in the files of ``folder``."""
    if not nbytes:
        why = message or "the arena holds all of them"
        raise ConfigError(f"disk.sessions, disk.host_arena_gib: no session went to the disk: {why}")
    found = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if found < nbytes:
        raise NotBitExact(f"disk: {nbytes} bytes of sessions are said to lie in files, which have {found}")


def _plain(folder: Path, nbytes: int) -> Record:
    """A file of ``nbytes`` is written, synced and read by nothing but large requests."""
    file = folder / "plain"
    try:
        return {"nbytes": nbytes, "write_ms": plain_write_ms(file, nbytes), "read_ms": plain_read_ms(file)}
    finally:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(run_side_job("disk", __doc__, take))
