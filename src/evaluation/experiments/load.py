"""Resume under load: times random resumes among many sessions, paused at the deepest layer with their KV cache.

Each session has tokens of its own. A resumed one runs on through its decode steps, and what it computed is compared
with an uninterrupted run of the same tokens. Then a new session of these tokens is paused in its place. One arena
serves all, and each number of sessions takes those of the smaller ones over.
"""

import gc
import random
import sys
import time
from collections.abc import Callable

import torch

import djinn
from djinn.memory.host_memory import available_bytes
from evaluation.measure.cell import Record, first_line
from evaluation.measure.device_memory import allocated_bytes, synchronize
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_side_job
from evaluation.measure.models import Subject
from evaluation.measure.programs import digest, equal, generate_greedily, least_bytes_of_prefill
from evaluation.measure.stopwatch import now_ms
from evaluation.study.plan import ConfigError, Load, Study

_LEFT_FREE = 6 << 30  # bytes of host memory that are not for the arena


class _Sessions:
    """Paused sessions of one runtime, and what each must compute."""

    def __init__(self, subject: Subject, study: Study, runtime: djinn.Runtime, count: int) -> None:
        workload = next((one for one in study.workloads if one.kv_cache), study.workloads[0])
        self._subject, self._runtime = subject, runtime
        self._steps = study.measurement.decode_steps
        generator = torch.Generator().manual_seed(study.model.seed)
        shape = (count, workload.batch, workload.tokens)
        self._tokens = torch.randint(subject.model.config.vocab_size, shape, generator=generator).to(subject.device)
        self._expected = [self._program(index) for index in range(count)]
        self._least = least_bytes_of_prefill(subject.model, subject.layers[-1], self._tokens[0], True)
        self.open: dict[int, djinn.Session] = {}

    def _program(self, index: int) -> list[torch.Tensor]:
        """The digest of the prefill and of the decode steps."""
        return digest(generate_greedily(self._subject.model, self._tokens[index], True, self._steps))

    def pause(self, index: int) -> None:
        """Run session ``index`` to the deepest layer and swap it out."""
        session = self._runtime.open(breakpoint=self._runtime.depth).start(self._program, index)
        if session.wait() is not djinn.Phase.PAUSED:
            session.result()  # raises what went wrong
        self.open[index] = session
        session.io_wait()
        if session.host_bytes < self._least:
            raise NotBitExact(
                f"load: the pause kept {session.host_bytes} bytes of a state of at least {self._least}: "
                f"{session.left_behind}"
            )

    def device_bytes(self) -> int | None:
        """Bytes of device memory in use by tensors; None on the CPU."""
        synchronize(self._subject.device)
        return allocated_bytes(self._subject.device)

    def host_bytes(self) -> int:
        """Bytes of the arena that the paused sessions hold."""
        return self._runtime.arena.reserved_bytes

    def resume(self, index: int, think_time_ms: float) -> Record:
        """Time the resume of session ``index``, and let it come to its end."""
        session = self.open.pop(index)
        synchronize(self._subject.device)
        time.sleep(think_time_ms / 1000)
        gc.disable()
        try:
            start = now_ms()
            session.resume()
            ready_ms = now_ms() - start
            session.wait_resident()
            resident_ms = now_ms() - start
        finally:
            gc.enable()
        found = session.result()
        session.close()
        if not equal(found, self._expected[index]):
            raise NotBitExact(f"load: session {index} of {len(self._expected)} differs from its uninterrupted run")
        return {"session": index, "ready_ms": ready_ms, "resident_ms": resident_ms, "bit_exact": True}


def take(subject: Subject, study: Study, report: Callable[[str], None]) -> Record:
    """One cell for each number of sessions, with every resume."""
    nbytes = int(study.load_host_arena_gib * 2**30)
    if subject.device.type == "cuda":
        nbytes = min(nbytes, available_bytes() - _LEFT_FREE)
    report("reserving host memory")
    try:
        runtime = djinn.Runtime(subject.model, host_memory_bytes=nbytes)
        runtime.arena.wait_grown()  # before anything is timed
    except (djinn.HostMemoryFull, ValueError) as error:
        raise ConfigError(f"djinn.load_host_arena_gib: {error}") from error
    rows = sorted(study.load, key=lambda row: row.sessions)
    with runtime:
        sessions = _Sessions(subject, study, runtime, rows[-1].sessions)
        before = sessions.device_bytes()
        cells = [_cell(sessions, row, before, study, report) for row in rows]
        for session in sessions.open.values():
            session.close()
    return {"host_arena_bytes": nbytes, "cells": cells}


def _cell(sessions: _Sessions, row: Load, before: int | None, study: Study, report: Callable[[str], None]) -> Record:
    """Pause sessions up to the number of ``row``, which add to ``before`` bytes on the device; resume random ones."""
    outcome, message, samples = "ok", "", []
    opened_before = len(sessions.open)
    start = now_ms()
    try:
        for index in range(opened_before, row.sessions):
            report(f"{row.sessions} sessions: pausing")
            sessions.pause(index)
    except djinn.HostMemoryFull as error:
        outcome, message = "host_full", first_line(error)
        sessions.open.popitem()[1].close()  # it could not be swapped out
    open_seconds = (now_ms() - start) / 1000
    after = sessions.device_bytes()
    paused = len(sessions.open)
    host_bytes = sessions.host_bytes()
    chance = random.Random(study.order_seed)
    for _ in range(row.resumes if paused else 0):
        report(f"{row.sessions} sessions: resuming")
        index = chance.choice(sorted(sessions.open))
        samples.append(sessions.resume(index, study.measurement.think_time_ms))
        sessions.pause(index)
    return {
        "sessions": row.sessions,
        "paused": paused,
        "opened": paused - opened_before,
        "outcome": outcome,
        "message": message,
        "open_seconds": open_seconds,
        "device_bytes_paused": None if before is None or after is None else max(after - before, 0),
        "host_bytes_paused": host_bytes,
        "samples": samples,
    }


if __name__ == "__main__":
    sys.exit(run_side_job("load", __doc__, take))
