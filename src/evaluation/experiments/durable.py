"""Saves paused sessions, kills their process, and makes them go on in another one: time, bytes, exactness.

One process parks a session of each workload in the middle of the model and saves it several times. Then it pauses one
session of every variant of every method, with an edit, and lets each save what it can. With all of them paused it is
killed from outside. Only then does this process make its model, which has the same weights, and go on with what is on
disk. Times are in ms:

- ``save_ms``: the state is copied to host memory, digested, written, synced and named. Its floor is a plain write of
  as many bytes into the same folder, by large requests from several threads, and synced.
- ``restore_ms``: from the call until the program is parked again and the device is idle. Its floor is a plain read of
  the same file, by such requests. Before either the kernel is told to drop the pages of the file.
- ``rerun_ms``: what one does without a file: the program runs from its start until it is parked at the same place.
- ``ready_ms`` and ``usable_ms`` count from the resume request. The state is on the device by then, in either case.

The first session that is recorded, and the first that is restored, pay for the digest of the model's weights. They are
timed apart. The time in which a process starts, imports and makes its weights is no part of anything here.

Peers pause a session in a process of their own. That is killed too, and they are asked for the session from elsewhere.

Every result is compared with that of an uninterrupted run in every bit, and that with the one of the process that was
killed. What ``survives`` of a variant's edited session is told by its result: the edit, the session without it, or
nothing, if there is nothing to go on from.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from evaluation.experiments.capabilities import asked
from evaluation.experiments.disk_folder import filesystem_of, folder_on_disk, naming_a_full_disk
from evaluation.experiments.plain_disk import drop_pages, plain_read_ms, plain_write_ms
from evaluation.measure.cell import Record
from evaluation.measure.child import Ended
from evaluation.measure.device_memory import synchronize
from evaluation.measure.edits import edited_workload, middle, steer, uninterrupted
from evaluation.measure.hand import Hand
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import Report, build_subject, run_unbuilt_job
from evaluation.measure.killed import killed_when_paused
from evaluation.measure.method import Change, Method
from evaluation.measure.models import Subject, input_tokens, twin
from evaluation.measure.peer import NEEDS_GPU, Peer, Unsupported
from evaluation.measure.programs import Logits, equal
from evaluation.measure.stopwatch import now_ms, without_collections
from evaluation.methods.benchmark_djinn import Djinn, make_runtime
from evaluation.study.plan import Study, Workload


def take(study: Study, make_subject: Callable[[], Subject], report: Report) -> Record:
    """A cell of each workload, what survives under each variant, and the signal that ended the other process."""
    with folder_on_disk() as folder:
        report("pausing and saving")
        # The one that goes on computes with as many threads: with other settings a file is refused.
        threads = torch.get_num_threads()
        told, ended_by = killed_when_paused(_save_all, study, threads, str(folder), report=report)
        peers = [_of_peer(name, study, report) for name in study.peers.run]
        report("restoring")
        side = Side(make_subject(), study, folder)
        first_ms = _first_restore_ms(side)
        cells = [_restored(side, workload, told["cells"][workload.name]) for workload in study.workloads]
        side.runtime.close()
        return {
            "ended_by_signal": ended_by,
            "filesystem": filesystem_of(folder),
            "layer": side.layer,
            "first_start_ms": told["first_start_ms"],
            "first_restore_ms": first_ms,
            "cells": cells,
            "edited": edited_workload(study).name,
            "kills": _survivors(side),
            "peers": peers,
        }


def _of_peer(name: str, study: Study, report: Report) -> Record:
    """What survives under peer ``name``, which is nothing where its ``kill`` returns, and the words of the refusal."""
    survives: str | None = "nothing"
    try:
        if study.device != "cuda":
            raise Unsupported(NEEDS_GPU)
        report(f"killing, {name}")
        message = Peer.named(name).kill(study, report)
    except (Unsupported, Ended) as reason:
        survives, message = None, str(reason)
    return {"peer": name, "survives": survives, "message": message}


class Side:
    """What both processes have: the model, a twin of it under a runtime, and a folder, which alone they share."""

    def __init__(self, subject: Subject, study: Study, folder: Path) -> None:
        self.subject, self.study, self.folder = subject, study, folder
        self.layer = middle(subject)
        self._ours = twin(subject)  # nobody else pays for the runtime's hooks
        self.runtime = make_runtime(self._ours, study)

    def uninterrupted(self, workload: Workload, change: Change | None = None) -> Logits:
        """Logits of a run that never stops, with ``change`` made by a plain hook."""
        input_ids = input_tokens(self.subject, self.study, workload)
        return uninterrupted(self.subject, self.study, workload, self.layer, input_ids, change)

    def session(self, workload: Workload, like: torch.Tensor, *, durable: bool) -> Djinn:
        """One of ``workload``, whose caller takes logits like ``like`` ([batch, tokens, vocabulary])."""
        input_ids = input_tokens(self._ours, self.study, workload)
        method = Djinn(self._ours, self.study, workload, layer=self.layer, input_ids=input_ids, runtime=self.runtime)
        method.hand = Hand(like, 2 if workload.kv_cache else 1)
        method.durable = durable
        return method

    def place(self, name: str) -> Path:
        """A folder for what one session leaves."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def variants(self) -> Iterator[tuple[str, Method, Path]]:
        """A session of each variant of each method that is asked what survives, its method's name and its folder."""
        workload = edited_workload(self.study)
        input_ids = input_tokens(self.subject, self.study, workload)
        for name in self.study.methods:
            subject = twin(self.subject)
            shared: dict[str, Any] = {}
            for kind in asked(name, workload, self.subject.device, "probed_by_kill"):
                method = kind(subject, self.study, workload, layer=self.layer, input_ids=input_ids, **shared)
                method.durable = True
                shared = shared or method.shared()
                yield name, method, self.place(f"{name}.{method.variant}")


def _save_all(connection: Connection, study: Study, threads: int, folder: str) -> None:
    """In the process that is killed: pause and save everything, say what it took, and wait for the end."""
    torch.set_num_threads(threads)
    side = Side(build_subject(study), study, Path(folder))
    first_ms: float | None = None
    paused: list[Method] = []
    cells: dict[str, Record] = {}
    with naming_a_full_disk(side.folder):
        for workload in study.workloads:
            expected = side.uninterrupted(workload)
            if first_ms is None:
                first = side.session(workload, expected[0], durable=True)
                first_ms = _prepared_ms(first)
                first.resume()
                first.finish()
            session = side.session(workload, expected[0], durable=True)
            about = {"start_ms": _prepared_ms(session), "sha256": sha256_of(expected)}
            cells[workload.name] = {**_saved(session, side, workload), **about}
            paused.append(session)
        for _, method, place in side.variants():
            method.prepare()
            if not method.keeps_state:
                method.edit(steer)
            method.pause()
            if method.keeps_state:
                method.edit(steer)
            synchronize(side.subject.device)
            method.save(place)
            paused.append(method)
    connection.send(("paused", {"first_start_ms": first_ms, "cells": cells}))
    connection.recv()  # nobody says anything: it is here that the process is killed


def _prepared_ms(method: Method) -> float:
    """Milliseconds from the start of the program until it is parked and the device has come there."""
    with without_collections():
        start = now_ms()
        method.prepare()
        synchronize(method.subject.device)
        return now_ms() - start


def _saved(session: Djinn, side: Side, workload: Workload) -> Record:
    """Save the parked ``session`` several times, each time beside a plain write of as many bytes, by turns."""
    place = side.place(workload.name)
    session.save(place)  # the first one finds out how many bytes there are
    (file,) = place.iterdir()
    nbytes, saves = file.stat().st_size, []

    def save_ms() -> float:
        start = now_ms()
        session.save(place)
        return now_ms() - start

    for number in range(side.study.durable.samples):
        steps = {"save_ms": save_ms, "floor_ms": lambda: _written_ms(side.folder / "plain", nbytes)}
        with without_collections():
            saves.append({name: steps[name]() for name in sorted(steps, reverse=bool(number % 2))})
    sizes = {"file_bytes": nbytes, "state_bytes": sum(session.state_sizes())}
    return {**sizes, "recorded_bytes": session.recorded_bytes(), "saves": saves}


def _written_ms(file: Path, nbytes: int) -> float:
    """Of a plain file, which is removed."""
    try:
        return plain_write_ms(file, nbytes)
    finally:
        file.unlink(missing_ok=True)


def _first_restore_ms(side: Side) -> float:
    """Of a session of the first workload, which is then given up."""
    workload = side.study.workloads[0]
    session = side.session(workload, side.uninterrupted(workload)[0], durable=True)
    restored_ms = _restored_ms(session, side.place(workload.name))
    session.abandon()
    return restored_ms


def _restored_ms(session: Djinn, place: Path) -> float:
    """Milliseconds until ``session`` is parked again and the device has come there; its file is read from the disk."""
    for file in place.iterdir():
        drop_pages(file)
    with without_collections():
        start = now_ms()
        session.restore(place)
        synchronize(session.subject.device)
        return now_ms() - start


def _restored(side: Side, workload: Workload, told: Record) -> Record:
    """The cell of ``workload``: restore it, and run it again from the start, by turns."""
    expected, place = side.uninterrupted(workload), side.place(workload.name)
    if told.pop("sha256") != sha256_of(expected):
        raise NotBitExact(f"durable, workload {workload.name}: the uninterrupted runs of both processes differ")
    (file,) = place.iterdir()
    restores = []

    def restore() -> Record:
        floor_ms = plain_read_ms(file)
        session = side.session(workload, expected[0], durable=True)
        restored_ms = _restored_ms(session, place)
        return {"floor_ms": floor_ms, "restore_ms": restored_ms, **_went_on(session, workload, expected)}

    def rerun() -> Record:
        session = side.session(workload, expected[0], durable=False)
        rerun_ms = _prepared_ms(session)
        return {"rerun_ms": rerun_ms, "rerun_usable_ms": _went_on(session, workload, expected)["usable_ms"]}

    for number in range(side.study.durable.samples):
        parts = [step() for step in ((restore, rerun), (rerun, restore))[number % 2]]
        restores.append({**parts[0], **parts[1], "bit_exact": True})
    return {"workload": workload.name, **told, "restores": restores}


def _went_on(session: Djinn, workload: Workload, expected: Logits) -> Record:
    """Resume the parked ``session``: its clocks. Raises :class:`NotBitExact` unless it computes ``expected``."""
    hand = session.hand
    assert hand is not None, "its caller wants the logits"
    hand.open(aside=True)
    try:
        with without_collections():
            start = now_ms()
            session.resume()
            ready_ms = now_ms() - start
            for _ in hand.take():
                pass
        logits = session.finish()
    finally:
        hand.close()
    if not equal(logits, expected):
        raise NotBitExact(
            f"durable, workload {workload.name}: a session that went on differs from one that never stopped"
        )
    return {"ready_ms": ready_ms, "usable_ms": hand.times_ms[0] - start}


def _survivors(side: Side) -> list[Record]:
    """What is left of the session of each variant, which was edited while it was paused in the killed process."""
    workload = edited_workload(side.study)
    plain, oracle = side.uninterrupted(workload), side.uninterrupted(workload, steer)
    if equal(plain, oracle):
        raise NotBitExact(f"durable: the edit after layer {side.layer} changes nothing, which decides nothing")
    found, opened = [], []
    try:
        for name, method, place in side.variants():
            opened.append(method)
            saved_bytes = sum(file.stat().st_size for file in place.iterdir())
            survives = "nothing"
            if method.restore(place):
                method.resume()
                logits = method.finish()
                survives = "edit" if equal(logits, oracle) else "session" if equal(logits, plain) else ""
            if not survives:
                raise NotBitExact(f"durable: {name} ({method.variant}) went on to a result that is of no session")
            about = {"method": name, "variant": method.variant, "headline": method.headline}
            found.append({**about, "saved_bytes": saved_bytes, "survives": survives})
    finally:
        for method in reversed(opened):  # the first of a method has what the others share
            method.close()
    return found


def sha256_of(logits: Logits) -> str:
    """Of the bits of all, in order."""
    found = hashlib.sha256()
    for one in logits:
        found.update(one.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    sys.exit(run_unbuilt_job("durable", __doc__, take))
