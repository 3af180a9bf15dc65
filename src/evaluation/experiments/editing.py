"""Times a debugger's round trip in the middle of the model: pause, edit, resume, and the logits that follow.

One process holds vanilla, recompute that replays the edit, hand-written offloads, and Djinn with all swapped and with
the frontier kept. Every block runs all forms in a random order and then in the reverse one; the seed is recorded. Every
sample is edited, finished, and compared bit for bit with the oracle, :mod:`evaluation.measure.edits`. Its times, in ms:

- ``stop_ms``: from when the device has come to the breakpoint until the caller is told. In it Djinn finds the state.
- ``pause_ms``: until the device memory is given up, as in every other experiment.
- ``edit_ms``: until the edit is made, wherever the hidden states lie. What keeps nothing is edited before its pause.
- ``ready_ms`` and ``usable_ms``: from the resume request, by :mod:`evaluation.measure.clocks`.

Djinn's forms run at a known site, where they were paused before, and at a first one. A site is what Djinn remembers
its search for other owners by: the code of the program's frames and the instructions at which they stand. So each
sample at a first site runs a function of the same instructions under a name of its own. The runtime is warm, and only
the search is new. It looks at every object of the process, of which the record has the number.

Each block also pauses every form once beside a thread that does nothing but sleep and wake. The longest time in which
it could not run is noted. That disturbs the times, which are thrown away.
"""

import gc
import sys
import time
from collections.abc import Callable
from itertools import count
from random import Random
from types import FunctionType
from typing import Any

from evaluation.experiments.forms import there_and_back
from evaluation.measure.arrival import Arrival, Sleeper
from evaluation.measure.cell import Record
from evaluation.measure.clocks import Clocks, Reading
from evaluation.measure.device_memory import overwrite_free_memory, synchronize
from evaluation.measure.edits import edited_workload, middle, steer, uninterrupted
from evaluation.measure.hand import Hand
from evaluation.measure.harness import NotBitExact, check_kept
from evaluation.measure.job import Report, run_side_job
from evaluation.measure.method import Method
from evaluation.measure.models import Subject, input_tokens, twin
from evaluation.measure.programs import Logits, equal, least_bytes_of_prefill
from evaluation.measure.stopwatch import now_ms, without_collections
from evaluation.methods.benchmark_djinn import Djinn, KeptDjinn, make_runtime
from evaluation.methods.benchmark_recompute import Replay
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.methods.offloads import OrderedOffload, PinnedOffload, form
from evaluation.study.plan import Study, Workload


def take(subject: Subject, study: Study, report: Report) -> Record:
    """All forms and blocks, and the seed of their orders."""
    with _Desk(subject, study) as desk:
        for one in desk.forms:
            report("warm-up")
            desk.round_trip(one)
        chance = Random(study.order_seed)
        blocks = [_block(desk, chance, report) for _ in range(study.editing.blocks)]
        cell = {
            "workload": desk.workload.name,
            "layer": desk.layer,
            "forms": [one.about for one in desk.forms],
            "blocks": blocks,
        }
        return {"seed": study.order_seed, "heap_objects": len(gc.get_objects()), "cells": [cell]}


def _block(desk: "_Desk", chance: Random, report: Report) -> Record:
    there, back = there_and_back(len(desk.forms), chance)
    samples, watched = [], []
    for index in (*there, *back):
        report("samples")
        samples.append({"form": index, **desk.round_trip(desk.forms[index])})
    for index in there:
        report("beside a thread")
        with Sleeper() as sleeper:
            desk.round_trip(desk.forms[index], sleeper)
        watched.append({"form": index, "longest_ms": sleeper.longest_ms})
    return {"samples": samples, "watched": watched}


class _Form:
    """A variant of a method at a site. ``first``: each of its programs is one that was never paused before."""

    def __init__(self, name: str, method: Method, *, first: bool = False) -> None:
        self.method = method
        self.about = {
            "method": name,
            "variant": method.variant,
            "keeps": method.keeps,
            "site": "first" if first else "known",
        }
        self._first = first
        self._numbers = count(1)

    def prepare(self) -> None:
        """Run the program up to the breakpoint."""
        if self._first:
            assert isinstance(self.method, Djinn)
            self.method.program = _elsewhere(type(self.method).program, f"{self.method.variant}_{next(self._numbers)}")
        self.method.prepare()


def _elsewhere(program: Callable[..., Logits], name: str) -> Callable[..., Logits]:
    """The same program as code of another name, which is another site."""
    assert isinstance(program, FunctionType)
    return FunctionType(program.__code__.replace(co_name=name), program.__globals__)


class _Desk:
    """The forms around one model and its oracle; Djinn computes on a twin, so that nobody else pays for its hooks."""

    def __init__(self, subject: Subject, study: Study) -> None:
        self.workload, self.layer = edited_workload(study), middle(subject)
        self._study = study
        self._input_ids = input_tokens(subject, study, self.workload)
        place = (subject, study, self.workload, self.layer, self._input_ids)
        self._oracle = uninterrupted(*place, steer)
        if equal(uninterrupted(*place), self._oracle):
            raise NotBitExact(f"editing: the edit after layer {self.layer} changes nothing, which decides nothing")
        layer = subject.layers[self.layer - 1]
        self._least_bytes = least_bytes_of_prefill(subject.model, layer, self._input_ids, self.workload.kv_cache)
        self._hand = Hand(self._oracle[0], 2 if self.workload.kv_cache else 1)
        ours = twin(subject)
        self._clocks = {id(one.model): Clocks(one, self.layer) for one in (subject, ours)}
        self._arrivals = {id(one.model): Arrival(one, self.layer) for one in (subject, ours)}
        self._runtime = make_runtime(ours, study)
        self.forms = [_Form(name, self._method(kind, subject)) for name, kind in _by_hand(self.workload)]
        for kind in (Djinn, KeptDjinn):
            for first in (False, True):
                method = self._method(kind, ours, runtime=self._runtime)
                self.forms.append(_Form("djinn", method, first=first))

    def _method(self, kind: type[Method], subject: Subject, **more: Any) -> Method:
        method = kind(subject, self._study, self.workload, layer=self.layer, input_ids=self._input_ids, **more)
        method.hand = self._hand
        return method

    def round_trip(self, form: _Form, sleeper: Sleeper | None = None) -> Record:
        """Pause, edit, resume and finish one session of ``form``; its times, as a record keeps them.

        ``sleeper`` is watched from the breakpoint until the session is paused.
        """
        with without_collections():
            return self._round_trip(form, sleeper)

    def _round_trip(self, form: _Form, sleeper: Sleeper | None) -> Record:
        method, device = form.method, form.method.subject.device
        arrival = self._arrivals[id(method.subject.model)]
        arrival.arm(sleeper)
        form.prepare()
        stop_ms = now_ms() - arrival.disarm()
        synchronize(device)
        freed = method.freed_sizes()
        edit_ms = 0.0 if method.keeps_state else _edit(method)
        start = now_ms()
        method.pause()
        pause_ms = now_ms() - start
        if sleeper is not None:
            sleeper.end()
        check_kept(method, self._least_bytes, f"editing: {type(method).__name__} ({method.variant})")
        overwrite_free_memory(device, freed, method.streams())
        if method.keeps_state:
            edit_ms = _edit(method)
            overwrite_free_memory(device, [], method.streams())  # an edit takes a kept frontier to host memory
        reading, logits = self._resume(method)
        self._compare(form, logits)
        times = {"stop_ms": stop_ms, "pause_ms": pause_ms, "edit_ms": edit_ms}
        return {**times, "ready_ms": reading.ready_ms, "usable_ms": reading.usable_ms, "bit_exact": True}

    def _resume(self, method: Method) -> tuple[Reading, Logits]:
        return self._clocks[id(method.subject.model)].time_resume(
            think=lambda: time.sleep(self._study.measurement.think_time_ms / 1000),
            resume=method.resume,
            wait_resident=method.wait_resident if method.restores_behind else None,
            aside=method.computes_aside,
            hand=self._hand,
            finish=method.finish,
        )

    def _compare(self, form: _Form, logits: Logits) -> None:
        where = f"{form.about['method']} ({form.about['variant']}), layer {self.layer}, workload {self.workload.name}"
        if not equal(logits, self._oracle):
            raise NotBitExact(f"{where}: the logits differ from those of a run with the same edit and no pause")
        first = self.workload.decode_step
        handed = self._oracle[first : first + self._hand.wanted]
        if not equal(self._hand.logits, [logits[:, -1:].cpu() for logits in handed]):
            raise NotBitExact(f"{where}: the caller was handed other logits than the program's last token's")

    def __enter__(self) -> "_Desk":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for one in self.forms:
            one.method.close()
        self._runtime.close()
        for clocks in self._clocks.values():
            clocks.remove()
        for arrival in self._arrivals.values():
            arrival.remove()


def _by_hand(workload: Workload) -> list[tuple[str, type[Method]]]:
    """Without a KV cache there is nothing to order. The frontier is kept here too, as Djinn keeps it."""
    ordered = [OrderedOffload] if workload.kv_cache else []
    copies = [PinnedOffload, *ordered]
    copies.append(form(copies[-1], keeps="frontier"))
    others: list[tuple[str, type[Method]]] = [("vanilla", Vanilla), ("recompute", Replay)]
    return others + [("manual_offload", kind) for kind in copies]


def _edit(method: Method) -> float:
    """Milliseconds until the edit is made."""
    start = now_ms()
    method.edit(steer)
    synchronize(method.subject.device)
    return now_ms() - start


if __name__ == "__main__":
    sys.exit(run_side_job("editing", __doc__, take))
