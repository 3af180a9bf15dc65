"""The memory wall: opens sessions and pauses them, one after another, until something refuses or a cap is reached.

All stop at the deepest layer with their KV cache, and stay paused together. Djinn and page-locked copies by hand have
the same arena: so many bytes of page-locked host memory, of which each session takes just what it needs. What refuses
is that arena, the device or the host, never a computation of sizes: the error is caught and kept with the memory
figures of that moment. Only a host that would be exhausted does not refuse, it kills. So the last bytes are left alone
(``_LEFT_FREE``): an arena is made without them, and sessions without an arena stop before them. Then every session is
resumed in random order and compared bit for bit with an uninterrupted run: nothing may be lost.

Each variant of a method has a process of its own. Vanilla PyTorch is run in two forms. In ``default`` sessions share
the weights in one process. In ``own_process`` each session has a process and weights of its own, as separate notebooks
do. In both torch's allocator maps memory page by page, which leaves no gaps between sessions.
"""

import gc
import importlib
import os
import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection

import torch

from djinn.memory.host_memory import available_bytes
from evaluation.measure.cell import Record, first_line
from evaluation.measure.child import Child, Ended
from evaluation.measure.device_memory import allocated_bytes, is_out_of_memory, synchronize
from evaluation.measure.harness import NotBitExact, check_kept
from evaluation.measure.job import Report, build_subject, run_method_job
from evaluation.measure.method import ArenaFull, HostFull, Method
from evaluation.measure.models import Subject, build, input_tokens
from evaluation.measure.programs import Logits, digest, equal, generate_greedily, least_bytes_of_prefill
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.study.plan import Study, Workload

_WITHOUT_GAPS = "expandable_segments:True"  # as it is by default, 0.5 GiB of them beside each session of 1.6 GiB
_LEFT_FREE = 6 << 30  # bytes of host memory on a GPU machine
_PROMPTS = 8  # sessions take these by turns: one that got another's state would differ


def take(method: str, study: Study, _make_subject: Callable[[], Subject], report: Report) -> Record:
    """The cells of ``method``: one for each variant that holds another amount of memory while paused."""
    workload = next((one for one in study.workloads if one.kv_cache), study.workloads[0])
    workload = replace(workload, decode_step=0)
    cells: list[Record] = []
    if method == "vanilla":
        os.environ.setdefault("PYTORCH_ALLOC_CONF", _WITHOUT_GAPS)  # read when a process starts
        cells.append(_own_processes(study, workload, report))
    module = importlib.import_module(f"evaluation.methods.benchmark_{method}")
    if hasattr(module, "counted"):
        kinds = module.counted(study, workload)
    else:
        kinds = [kind for kind in module.variants(workload) if kind.headline]
    return {"cells": [*cells, *(_apart(kind, study, workload, report) for kind in kinds)]}


def _apart(kind: type[Method], study: Study, workload: Workload, report: Report) -> Record:
    """Sessions of ``kind`` in a process of its own.

    What one variant leaves behind would be counted with the next: the workspaces of its threads, and torch's caches.
    """
    with Child(_fill_there, study, kind, workload, report=report) as process:
        cell: Record = process.hear("done")
    return cell


def _fill_there(connection: Connection, study: Study, kind: type[Method], workload: Workload) -> Record:
    return _fill(kind, build_subject(study), study, workload, lambda line: connection.send(("report", line)))


def _fill(kind: type[Method], subject: Subject, study: Study, workload: Workload, report: Report) -> Record:
    """Open sessions of ``kind`` in this process up to the wall, then resume them all."""
    study = study.but(host_arena_gib=_arena_gib(study, subject))
    prompts = [input_tokens(subject, study, workload, index) for index in range(_PROMPTS)]
    expected = [_uninterrupted(subject, study, workload, prompt) for prompt in prompts]
    least = least_bytes_of_prefill(subject.model, subject.layers[-1], prompts[0], workload.kv_cache)
    first = kind(subject, study, workload, layer=len(subject.layers), input_ids=prompts[0])
    arena_bytes = first.share_arena()
    paused: list[Method] = []
    room = None if kind.frees_memory else _room_to_finish(first, subject.device)
    wall = _Wall(kind.variant, primary=kind.headline)
    while wall.stopped_by == "cap" and len(paused) < study.capacity.sessions:
        report(f"{kind.variant}: pausing")
        session = first.beside(prompts[len(paused) % _PROMPTS])
        if wall.met(*_open(session, subject.device, paused, in_arena=arena_bytes is not None)):
            session.abandon()
            gc.collect()  # the error's traceback held what had been made
        else:
            check_kept(session, least, f"capacity: {kind.__name__} ({kind.variant})")
            paused.append(session)
    del room
    order = list(range(len(paused)))
    random.Random(study.order_seed).shuffle(order)
    for index in order:
        report(f"{kind.variant}: resuming")
        paused[index].resume()
        if not equal(digest(paused[index].finish()), expected[index % _PROMPTS]):
            raise NotBitExact(f"capacity: {kind.__name__} ({kind.variant}): session {index} of {len(paused)} differs")
    first.close()
    return {**wall.cell(), "arena_bytes": arena_bytes, "expandable_segments": _maps_by_page(subject.device)}


def _maps_by_page(device: torch.device) -> bool:
    """Whether torch's allocator on ``device`` maps memory page by page."""
    return device.type == "cuda" and any(segment["is_expandable"] for segment in torch.cuda.memory_snapshot())


def _room_to_finish(session: Method, device: torch.device) -> torch.Tensor:
    """As many bytes of device memory as ``session`` takes to come from its pause to its end, measured.

    They are kept free while sessions fill the device: none is paused that could not go on.
    """
    session.prepare()
    session.pause()
    before = allocated_bytes(device)
    if before is not None:
        torch.cuda.reset_peak_memory_stats(device)
    session.resume()
    digest(session.finish())
    taken = 0 if before is None else torch.cuda.max_memory_allocated(device) - before
    return torch.empty(taken, dtype=torch.uint8, device=device)


def _open(session: Method, device: torch.device, paused: list[Method], *, in_arena: bool) -> tuple[str, str, Record]:
    """Run ``session`` to its breakpoint and pause it beside ``paused``.

    In an arena it takes nothing more of the host. Returns "cap", or what refused and its message; and the memory
    figures of that moment.
    """
    left = _left_free(device)
    if not in_arena and available_bytes() < left:
        return "host_full", f"less than {left} bytes of host memory are available", _memory(device, paused)
    try:
        session.prepare()
        synchronize(device)
        session.pause()
        return "cap", "", _memory(device, [*paused, session])
    except HostFull as error:
        what = "arena" if isinstance(error, ArenaFull) else "host_full"
        return what, first_line(error), _memory(device, paused)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return "device_oom", first_line(error), _memory(device, paused)


class _Wall:
    """The outcome of each session that was opened, up to the one that was refused."""

    def __init__(self, variant: str, *, primary: bool) -> None:
        self.stopped_by = "cap"
        self._variant = variant
        self._primary = primary
        self._message = ""
        self._figures: list[Record] = []

    def met(self, outcome: str, message: str, figures: Record) -> bool:
        """Note one session; whether it was refused."""
        self.stopped_by, self._message = outcome, message
        self._figures.append(figures)
        return outcome != "cap"

    def cell(self) -> Record:
        """The entry of the record; the last of ``figures`` are those of the refusal, if there was one."""
        return {
            "variant": self._variant,
            "headline": self._primary,  # the format's word for it
            "sessions": self._figures[-1]["sessions"],
            "stopped_by": self.stopped_by,
            "message": self._message,
            "figures": self._figures,
            "bit_exact": True,
        }


def _own_processes(study: Study, workload: Workload, report: Report) -> Record:
    """Vanilla sessions in a process each, with weights of their own, up to the wall; then all are resumed."""
    wall = _Wall("own_process", primary=False)
    paused: list[Child] = []
    with ExitStack() as processes:
        while wall.stopped_by == "cap" and len(paused) < study.capacity.processes:
            report("own_process: pausing")
            process = processes.enter_context(Child(_alone, study, workload, len(paused)))
            if wall.met(*_opened(process, len(paused))):
                process.end()  # the device is full until it has gone, and the others need room to compute
            else:
                paused.append(process)
        for process in paused:
            report("own_process: resuming")
            process.tell("resume")
            process.hear("done")
    return wall.cell()


def _opened(process: Child, others: int) -> tuple[str, str, Record]:
    """What ``process`` says, beside ``others`` that are paused; one that is killed was too much for the host."""
    try:
        outcome, message, figures = process.hear("opened")
    except Ended as ended:
        if not ended.killed:
            raise
        return "host_full", "the system killed the process", {"sessions": others, **_host_memory([])}
    return outcome, message, {**figures, "sessions": others + (outcome == "cap")}


def _alone(connection: Connection, study: Study, workload: Workload, index: int) -> None:
    """One vanilla session: says what came of it, waits for the word, goes on and compares."""
    try:
        subject = build(study)
        prompt = input_tokens(subject, study, workload, index)
        expected = _uninterrupted(subject, study, workload, prompt)
        session = Vanilla(subject, study, workload, layer=len(subject.layers), input_ids=prompt)
        opened = _open(session, subject.device, [], in_arena=False)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        opened = "device_oom", first_line(error), _memory(torch.device(study.device), [])
    connection.send(("opened", opened))
    if opened[0] != "cap":
        return
    connection.recv()
    where = f"capacity: vanilla session {index} in a process of its own"
    try:
        session.resume()
        found = digest(session.finish())
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise NotBitExact(f"{where} does not come to its end: {first_line(error)}") from error
    if not equal(found, expected):
        raise NotBitExact(f"{where} differs")


def _uninterrupted(subject: Subject, study: Study, workload: Workload, prompt: torch.Tensor) -> Logits:
    steps = study.measurement.decode_steps if workload.kv_cache else 0
    return digest(generate_greedily(subject.model, prompt, workload.kv_cache, steps))


def _memory(device: torch.device, paused: list[Method]) -> Record:
    """Bytes in use on the device, by everybody (None where there is no GPU), and in host memory."""
    used = None
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch only holds in reserve would still be there for a session
        free, total = torch.cuda.mem_get_info(device)
        used = total - free
    return {"sessions": len(paused), "device_bytes": used, **_host_memory(paused)}


def _host_memory(paused: list[Method]) -> Record:
    """Bytes that the sessions say they hold, and that the host has available."""
    return {"host_bytes": sum(session.host_bytes() for session in paused), "host_available_bytes": available_bytes()}


def _arena_gib(study: Study, subject: Subject) -> float:
    """What is set aside for all sessions: as configured for many, or less where the machine has less."""
    return min(study.load_host_arena_gib, (available_bytes() - _left_free(subject.device)) / 2**30)


def _left_free(device: torch.device) -> int:
    """Bytes of host memory that are left alone; a functional run takes too little to need any."""
    return _LEFT_FREE if device.type == "cuda" else 0


if __name__ == "__main__":
    sys.exit(run_method_job("capacity", __doc__, take))
