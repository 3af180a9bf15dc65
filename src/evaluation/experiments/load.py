"""Resumes among paused sessions: random ones of many, paused at the deepest layer with their KV cache. None computes.

Each session has tokens of its own. A resumed one runs on through its decode steps, and what it computed is compared
with an uninterrupted run of the same tokens. Then a new session of these tokens is paused in its place. One arena
serves all, and each number of sessions takes those of the smaller ones over.

Hand-written copies are the control. For each resume of Djinn there is one by hand, in the same process, of a session
with the same state. It has the form that is quickest at ready. Who comes first alternates: ABBA. So what the machine
does meanwhile falls on both. The host memory of the control is set aside before Djinn's arena. It has room for no more
than two sessions, for Djinn's fill the host. So it does not show what many sessions would cost by hand; it shows what a
resume costs in this process where nothing knows of the others. No resume alters its copies, so it is paused but once.
"""

import random
import sys
from collections.abc import Callable
from contextlib import closing

import djinn
from djinn.memory.host_memory import available_bytes
from evaluation.experiments.crowd import ByHand, Djinns, Prompts
from evaluation.measure.cell import Record, first_line
from evaluation.measure.device_memory import allocated_bytes, synchronize
from evaluation.measure.job import run_side_job
from evaluation.measure.models import Subject, twin
from evaluation.measure.stopwatch import now_ms
from evaluation.study.plan import ConfigError, Load, Study

_LEFT_FREE = 6 << 30  # bytes of host memory that are not for the arena
_BY_HAND = 2  # sessions of the control


def take(subject: Subject, study: Study, report: Callable[[str], None]) -> Record:
    """One cell for each number of sessions, with every resume of either kind."""
    rows = sorted(study.load, key=lambda row: row.sessions)
    report("uninterrupted runs")
    prompts = Prompts(subject, study, rows[-1].sessions)
    with closing(ByHand(subject, prompts, study, min(_BY_HAND, rows[-1].sessions))) as by_hand:
        nbytes = int(study.load_host_arena_gib * 2**30)
        if subject.device.type == "cuda":
            nbytes = min(nbytes, available_bytes() - _LEFT_FREE)
        report("reserving host memory")
        watched = twin(subject)  # so that none by hand pays for Djinn's hooks
        try:
            runtime = djinn.Runtime(watched.model, host_memory_bytes=nbytes)
            runtime.arena.wait_grown()  # before anything is timed
        except (djinn.HostMemoryFull, ValueError) as error:
            raise ConfigError(f"djinn.load_host_arena_gib: {error}") from error
        with runtime:
            djinns = Djinns(watched, prompts, runtime)
            before = _device_bytes(subject)
            cells = [_cell(djinns, by_hand, row, before, study, report) for row in rows]
            for session in djinns.open.values():
                session.close()
    return {"host_arena_bytes": nbytes, "by_hand": by_hand.described, "cells": cells}


def _device_bytes(subject: Subject) -> int | None:
    """Bytes of device memory in use by tensors; None on the CPU."""
    synchronize(subject.device)
    return allocated_bytes(subject.device)


def _cell(
    djinns: Djinns, by_hand: ByHand, row: Load, before: int | None, study: Study, report: Callable[[str], None]
) -> Record:
    """Pause sessions up to the number of ``row``, which add to ``before`` bytes on the device; resume random ones.

    Two turns of either kind go before and are not recorded: they allocate what those after them use again.
    """
    outcome, message = "ok", ""
    opened_before = len(djinns.open)
    start = now_ms()
    try:
        for index in range(opened_before, row.sessions):
            report(f"{row.sessions} sessions: pausing")
            djinns.pause(index)
    except djinn.HostMemoryFull as error:
        outcome, message = "host_full", first_line(error)
        djinns.open.popitem()[1].close()  # it could not be swapped out
    open_seconds = (now_ms() - start) / 1000
    after = _device_bytes(djinns.subject)
    paused, host_bytes = len(djinns.open), djinns.host_bytes()
    chance = random.Random(study.order_seed)
    samples = []
    for number in range(-2, row.resumes) if paused else ():
        report(f"{row.sessions} sessions: {'resuming' if number >= 0 else 'warm-up'}")
        chosen = {djinns: chance.choice(sorted(djinns.open)), by_hand: chance.randrange(min(by_hand.count, paused))}
        order = list(chosen) if number % 2 == 0 else list(reversed(chosen))
        taken = {kind: kind.turn(chosen[kind], study.measurement.think_time_ms) for kind in order}
        if number >= 0:
            samples.append({**taken[djinns], "djinn_first": order[0] is djinns, "by_hand": taken[by_hand]})
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
