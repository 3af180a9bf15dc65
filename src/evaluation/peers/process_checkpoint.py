"""A peer: the driver's process checkpoint, which takes a whole process off the GPU and puts it back.

How it works: another process asks the driver to lock a process, whose further CUDA calls wait, and to checkpoint it.
All of its device memory is brought into its host memory, and every device resource is given up. To restore reverses
that at the same addresses, to unlock lets it go on. The process needs no preparation and notices nothing. Weights,
libraries' workspaces and torch's cache go and come with the session's state, because the driver knows nothing of them.

Its best configuration, which is what is measured: a process of one vanilla session, without page-locked memory of its
own, that empties torch's cache before it waits. The supervising process keeps the driver initialised and the device
otherwise free. The driver's functions have no option that would make them faster.

What the driver holds free is overwritten before the untimed resumes, of which there is at least one, and not before the
timed ones: see :func:`evaluation.measure.device_memory.overwrite_driver_memory`.

The clock ready runs from the call that restores until the process, told by a pipe, has synchronised its device and
answered. The other clocks are taken by that process, on the clock that both share.
"""

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from evaluation.measure.cell import Record, cell, first_line
from evaluation.measure.child import Child
from evaluation.measure.clocks import Clocks
from evaluation.measure.device_memory import overwrite_driver_memory, synchronize
from evaluation.measure.edits import edited
from evaluation.measure.hand import Hand
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import Report, build_subject
from evaluation.measure.killed import killed_when_paused
from evaluation.measure.models import input_tokens
from evaluation.measure.peer import Peer, Unread, Unsupported
from evaluation.measure.programs import digest, equal, generate_greedily
from evaluation.measure.stopwatch import now_ms
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.study.plan import Study, Workload

_PACKAGE = "cuda-bindings"
_LOCK_TIMEOUT_MS = 60_000  # 0 would wait for ever for work that does not end


def paused_workload(study: Study) -> Workload:
    """The one that is measured: the prefill with a KV cache, or the first workload where none has one."""
    workload = next((one for one in study.workloads if one.kv_cache), study.workloads[0])
    return replace(workload, decode_step=0)


def take(study: Study, report: Report) -> list[Record]:
    """The one cell; raises as :meth:`Child.hear` does."""
    driver = Driver(_bindings())
    device = Device(torch.device(study.device, 0))  # before there is another process that takes memory
    with Child(session, study, report=report) as process:
        return [supervise(process, driver, study, device, report)]


def kill(study: Study, report: Report) -> str:
    """The driver is asked to restore the killed process. The memory that it was checkpointed to has gone with it."""
    driver, pids = Driver(_bindings()), []

    def checkpoint(process: Child) -> None:
        driver.pause(process.pid)
        pids.append(process.pid)

    killed_when_paused(_wait_edited, study, report=report, when_paused=checkpoint)
    try:
        driver.resume(pids[0])
    except Unsupported as refusal:
        return str(refusal)
    raise Unread(f"the driver restored process {pids[0]}, which was killed")


def _wait_edited(connection: Connection, study: Study) -> None:
    """In the process that is killed: an edited session, which waits for the end."""
    method = edited(Vanilla, build_subject(study), study)
    synchronize(method.subject.device)
    connection.send(("paused", None))
    connection.recv()  # it is here that the process is checkpointed, and killed


def _bindings() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise Unsupported(
            f"{_PACKAGE} cannot be imported ({first_line(error)}): pip install -r envs/peers.txt"
        ) from error


class Driver:
    """The driver's calls on process ``pid``, in pairs; raises :class:`Unsupported` with the name of its error.

    ``bindings`` is the module ``cuda.bindings.driver``, whose functions return a tuple that begins with the error.
    """

    def __init__(self, bindings: Any) -> None:
        self._bindings = bindings
        self._call("cuInit", 0)  # a restore needs a driver that somebody has initialised

    def pause(self, pid: int) -> None:
        """Lock and checkpoint; a process that cannot be checkpointed is unlocked again."""
        options = self._bindings.CUcheckpointLockArgs()
        options.timeoutMs = _LOCK_TIMEOUT_MS
        self._call("cuCheckpointProcessLock", pid, options)
        try:
            self._call("cuCheckpointProcessCheckpoint", pid, None)
        except Unsupported as refusal:
            try:
                self._call("cuCheckpointProcessUnlock", pid, None)
            except Unsupported as error:
                raise Unsupported(f"{refusal}, then {error}") from refusal
            raise

    def resume(self, pid: int) -> None:
        """Restore and unlock."""
        self._call("cuCheckpointProcessRestore", pid, None)
        self._call("cuCheckpointProcessUnlock", pid, None)

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            error, *_ = getattr(self._bindings, name)(*arguments)
        except (AttributeError, RuntimeError) as missing:  # older bindings, or a driver that lacks the function
            raise Unsupported(f"{name}: {first_line(missing)}") from missing
        if error != self._bindings.CUresult.CUDA_SUCCESS:
            raise Unsupported(f"the driver refused {name}: {error.name}")


class Device:
    """The GPU as the supervising process sees it; ``others_bytes`` are in use before there is a process to pause."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.overwrite_free_memory()  # what that takes of the device stays with this process
        self.others_bytes = self.used_bytes()

    def used_bytes(self) -> int:
        """Bytes in use by all processes."""
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free

    def overwrite_free_memory(self) -> None:
        """Fill what the driver holds free."""
        overwrite_driver_memory(self._device)


def supervise(
    process: Child,
    driver: Driver,
    study: Study,
    device: Device,
    report: Report,
    sleep: Callable[[float], None] = time.sleep,
) -> Record:
    """The cell of ``process``, which runs :func:`session`: each sample pauses and resumes it once."""
    samples = []
    for index in _passes(study):
        sizes = process.hear("paused")
        report("samples" if index >= 0 else "warm-up")
        running_bytes = device.used_bytes()
        start = now_ms()
        driver.pause(process.pid)
        pause_ms = now_ms() - start
        paused_bytes = device.used_bytes()
        if running_bytes - paused_bytes < sizes["device_bytes"]:
            kept = f"{running_bytes - paused_bytes} of {sizes['device_bytes']} bytes"
            raise Unsupported(f"the driver called the process checkpointed and gave back {kept} of device memory")
        if index < 0:
            device.overwrite_free_memory()
        sleep(study.measurement.think_time_ms / 1000)
        start = now_ms()
        driver.resume(process.pid)
        process.tell("resume")
        process.hear("ready")
        ready_ms = now_ms() - start
        ended = process.hear("exact")
        if index >= 0:
            samples.append(
                {
                    "pause_ms": pause_ms,
                    "ready_ms": ready_ms,
                    "first_kernel_ms": ended["first_kernel"] - start,
                    "resident_ms": ready_ms,  # nothing comes back behind
                    "usable_ms": ended["usable"] - start,
                    "next_token_ms": ended["next_token"] - start if "next_token" in ended else None,
                    "floor_ms": None,
                    "device_bytes_paused": max(paused_bytes - device.others_bytes, 0),
                    "host_bytes_paused": running_bytes - paused_bytes,
                    "overwritten_bytes": 0,
                    "bit_exact": True,
                }
            )
    process.hear("done")
    return cell(
        paused_workload(study),
        frontier_bytes=sizes["frontier_bytes"],
        state_bytes=sizes["state_bytes"],
        samples=samples,
    )


def _passes(study: Study) -> range:
    """One number for each pause; those below 0 are not timed."""
    return range(-max(1, study.measurement.warmup_samples), study.peers.process_checkpoint_samples)


def session(connection: Connection, study: Study) -> int:
    """Run sessions in the paused process, each compared with an uninterrupted run; returns how many there were.

    Says ``paused`` with the bytes of the state and of its tensors on the device, waits for the word, and says
    ``ready``. When it has finished it says ``exact`` with the times of the first kernel and of the logits, by
    :func:`now_ms`.
    """
    subject = build_subject(study)
    workload, layer = paused_workload(study), len(subject.layers)
    prompt = input_tokens(subject, study, workload)
    method = Vanilla(subject, study, workload, layer=layer, input_ids=prompt)
    expected = digest(generate_greedily(subject.model, prompt, workload.kv_cache, method.decode_steps))
    clocks = Clocks(subject, layer)
    like = torch.empty((prompt.shape[0], 1, subject.model.config.vocab_size), dtype=subject.model.dtype)
    method.hand = hand = Hand(like.to(subject.device), 2 if workload.kv_cache else 1)
    count = len(_passes(study))

    def resume() -> None:
        method.resume()
        connection.send(("ready", None))

    try:
        for index in range(count):
            method.prepare()
            synchronize(subject.device)
            connection.send(("paused", _sizes(method)))
            connection.recv()  # it is here that the process is checkpointed
            start = now_ms()
            reading, logits = clocks.time_resume(
                think=lambda: None, resume=resume, wait_resident=None, aside=False, hand=hand, finish=method.finish
            )
            if not equal(digest(logits), expected):
                raise NotBitExact(
                    f"process {os.getpid()}, sample {index}: the logits differ from the uninterrupted run"
                )
            times = {"first_kernel": start + reading.first_kernel_ms, "usable": start + reading.usable_ms}
            if reading.next_token_ms is not None:
                times["next_token"] = start + reading.next_token_ms
            connection.send(("exact", times))
            del logits
    except RuntimeError as error:
        if "CUDA error" not in str(error):
            raise
        raise Unsupported(f"the process did not go on after a restore: {first_line(error)}") from error
    finally:
        clocks.remove()
    return count


def _sizes(method: Vanilla) -> dict[str, int]:
    allocated = 0
    if method.subject.device.type == "cuda":
        torch.cuda.empty_cache()  # else the driver would take free blocks along
        allocated = torch.cuda.memory_allocated(method.subject.device)
    frontier = sum(tensor.numel() * tensor.element_size() for tensor in method.frontier().values())
    return {"frontier_bytes": frontier, "state_bytes": sum(method.state_sizes()), "device_bytes": allocated}


PEER = Peer(
    package=_PACKAGE,
    configuration=(
        "lock, checkpoint, restore and unlock from a supervising process; one vanilla session per process, which has "
        "emptied torch's cache; no page-locked memory"
    ),
    workloads=lambda study: (paused_workload(study),),
    take=take,
    kill=kill,
)
