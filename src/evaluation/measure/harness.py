"""Takes the samples of one workload at one breakpoint, each finished and compared bit for bit.

A sample is: run to the breakpoint; pause; overwrite the memory that was freed; wait for the think time; time the
resume; finish; compare with an uninterrupted run. Before it a raw copy of the same bytes is timed, after the same wait.
What a pause gave back to the driver is overwritten in validations alone, where nobody is timed.
Nothing of a sample that differs is kept: the job fails.
"""

import itertools
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from evaluation.command import Refusal
from evaluation.measure.cell import Record
from evaluation.measure.clocks import Clocks
from evaluation.measure.device_memory import overwrite_free_memory, overwrite_tensors, synchronize
from evaluation.measure.hand import Hand
from evaluation.measure.method import Method
from evaluation.measure.models import Subject, input_tokens
from evaluation.measure.programs import Logits, argument_tensors, equal, generate_greedily, kv_tensors, least_bytes
from evaluation.measure.stopwatch import now_ms, without_collections
from evaluation.study.plan import Study, Workload

# Of logits from the program's, for arithmetic in another order: 0.09 on a 13B model in bfloat16, whether one layer is
# fused or all 40. It grows with width and depth, to about twice that at 70B; other weights give more than 1.
_DEVIATION = 0.5


class NotBitExact(Refusal):
    """A resumed session computed something else than the uninterrupted run, or was not ready when it said so."""

    status = 1

    def __str__(self) -> str:
        return f"not bit-exact: {super().__str__()}; no record is written"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The sizes of a session's state, as a validation saw them: of the frontier, and of each piece of the whole."""

    frontier_bytes: int
    sizes: list[int]


class Harness:
    """Takes the samples of one ``workload`` at breakpoint ``layer``.

    ``think_time_ms`` is the wait between pause and resume; whoever compares waits changes it between samples.
    """

    def __init__(self, subject: Subject, study: Study, workload: Workload, layer: int) -> None:
        self._subject = subject
        self._study = study
        self._workload = workload
        self._layer = layer
        self.think_time_ms = study.measurement.think_time_ms
        self.input_ids = input_tokens(subject, study, workload)
        self._least_bytes = 0  # that a pause must keep, if it keeps the state
        self._reference, self._frontier = self._uninterrupted()
        self._own_references: dict[type[Method], tuple[Logits, dict[str, torch.Tensor]]] = {}
        self._clocks: dict[int, Clocks] = {}  # by the model's identity: a form may compute on a twin of it
        self._hand = Hand(self._reference[0], 2 if workload.kv_cache else 1)
        self._floor_source = torch.empty(0, dtype=torch.uint8)

    def _uninterrupted(self) -> tuple[Logits, dict[str, torch.Tensor]]:
        """Logits of the program run without a pause, and a copy of the frontier taken by a plain hook on the way."""
        frontier: dict[str, torch.Tensor] = {}
        measurement, workload, layer = self._study.measurement, self._workload, self._layer
        passes = itertools.count()

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            if next(passes) == workload.decode_step:
                self._least_bytes = least_bytes(output, kwargs)
                kv = kv_tensors(kwargs.get("past_key_values"), layer + 1)
                for name, tensor in {"hidden_states": output, **argument_tensors(kwargs), **kv}.items():
                    frontier[name] = tensor.clone()

        handle = self._subject.layers[layer - 1].register_forward_hook(note, with_kwargs=True)
        try:
            logits = generate_greedily(
                self._subject.model,
                self.input_ids,
                workload.kv_cache,
                workload.decode_step + measurement.decode_steps,
                whole_prefill=not workload.decode_step,
            )
        finally:
            handle.remove()
        return logits, frontier

    def method(self, kind: type[Method], subject: Subject | None = None, **more: Any) -> Method:
        """``kind`` for this workload and breakpoint; on ``subject``, a twin of the model, with ``more``, if given."""
        subject = subject or self._subject
        method = kind(subject, self._study, self._workload, layer=self._layer, input_ids=self.input_ids, **more)
        method.hand = self._hand
        if id(subject.model) not in self._clocks:
            self._clocks[id(subject.model)] = Clocks(subject, self._layer)
        return method

    @property
    def where(self) -> str:
        """What is being measured, in words."""
        return f"{self._workload.name}, layer {self._layer}"

    def close(self) -> None:
        """Take the clocks' hooks off the models."""
        for clocks in self._clocks.values():
            clocks.remove()

    def sample(self, method: Method) -> Record:
        """Take one timed sample of a validated method, as a record keeps it, but for its floor."""
        paused, _ = self._pause(method)
        with without_collections():
            reading, logits = self._clocks[id(method.subject.model)].time_resume(
                think=self._think,
                resume=method.resume,
                wait_resident=method.wait_resident if method.restores_behind else None,
                aside=method.computes_aside,
                hand=self._hand,
                finish=method.finish,
            )
        self._compare(method, logits)
        self._compare_taken(method)
        if not method.becomes_resident:
            reading = replace(reading, resident_ms=None)
        if not method.waits_ready:
            reading = replace(reading, ready_ms=None)
        return {**paused, **asdict(reading), "bit_exact": True}

    def sample_beside_floor(self, method: Method) -> Record:
        """Take the floor of ``method`` and then a sample of it."""
        floor_ms = self.floor_ms(method.floor_bytes) if method.floor_bytes else None
        return {**self.sample(method), "floor_ms": floor_ms}

    def validate(self, method: Method) -> Seen:
        """Take an untimed sample, and compare the frontier as the device holds it when ``ready`` is signalled."""
        frontier = self._expected(method)[1]
        _, sizes = self._pause(method)
        method.overwrite_given_back()
        held = {name: torch.empty_like(tensor) for name, tensor in frontier.items()}
        synchronize(self._subject.device)
        self._think()
        method.resume()
        own = method.frontier()
        seen = Seen(frontier_bytes=sum(tensor.numel() * tensor.element_size() for tensor in own.values()), sizes=sizes)
        self._copy_aside(held, own, behind=not method.waits_ready)
        del own
        logits = method.finish()
        for name, expected in frontier.items():
            if not torch.equal(held[name], expected):
                raise NotBitExact(f"{self._where(method)}: {name} was not on the device when ready was signalled")
        self._compare(method, logits)
        return seen

    def _copy_aside(self, targets: dict[str, torch.Tensor], sources: dict[str, torch.Tensor], *, behind: bool) -> None:
        """Copy ``sources`` as they are now, on a stream that waits for no other; or ``behind`` the current stream."""
        if missing := targets.keys() - sources.keys():
            raise NotBitExact(f"the frontier lacks {', '.join(sorted(missing))}")
        aside = torch.cuda.Stream(self._subject.device) if self._subject.device.type == "cuda" else None
        if aside is not None and behind:
            aside.wait_stream(torch.cuda.current_stream(self._subject.device))
        with torch.cuda.stream(aside):
            for name, target in targets.items():
                target.copy_(sources[name], non_blocking=True)
        if aside is not None:
            aside.synchronize()

    def _pause(self, method: Method) -> tuple[Record, list[int]]:
        """Run to the breakpoint and pause; what that took and left, as a record keeps it, and the state's sizes."""
        device = self._subject.device
        before = method.device_bytes()
        method.prepare()
        synchronize(device)
        sizes = method.state_sizes()
        freed = method.freed_sizes()
        with without_collections():
            start = now_ms()
            method.pause()
            pause_ms = now_ms() - start
        check_kept(method, self._least_bytes, self._where(method))
        after = method.device_bytes()
        reserved = method.reserved_bytes()
        kept = None if before is None or after is None else max(after - before, 0) + reserved
        own = overwrite_tensors(method.rewritten())
        if reserved and own < sum(sizes):
            raise NotBitExact(
                f"{self._where(method)}: it keeps {reserved} bytes of its own on the device, of which {own} were "
                f"overwritten, and has a state of {sum(sizes)}"
            )
        record = {
            "pause_ms": pause_ms,
            "device_bytes_paused": kept,
            "host_bytes_paused": method.host_bytes(),
            "overwritten_bytes": own + overwrite_free_memory(device, freed, method.streams()),
        }
        return record, sizes

    def _think(self) -> None:
        time.sleep(self.think_time_ms / 1000)

    def floor_ms(self, nbytes: int) -> float:
        """Time of one raw pinned copy of ``nbytes`` to the device, after the same wait."""
        device = self._subject.device
        if self._floor_source.numel() < nbytes:
            self._floor_source = torch.zeros(nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        source = self._floor_source[:nbytes]
        target = torch.empty(nbytes, dtype=torch.uint8, device=device)
        synchronize(device)
        self._think()
        start = now_ms()
        target.copy_(source, non_blocking=True)
        synchronize(device)
        return now_ms() - start

    def _expected(self, method: Method) -> tuple[Logits, dict[str, torch.Tensor]]:
        """Logits and frontier of an uninterrupted run: the user's program, or the method's own if its bits differ."""
        if not method.own_reference:
            return self._reference, self._frontier
        kind = type(method)
        if kind not in self._own_references:
            method.prepare()
            frontier = {name: tensor.clone() for name, tensor in method.frontier().items()}
            logits = method.finish()
            deviation = _deviation(logits[0], self._reference[0])
            if not deviation <= _DEVIATION:
                raise NotBitExact(f"{self._where(method)}: it computes something else: {deviation:.2g} off the program")
            self._own_references[kind] = logits, frontier
        return self._own_references[kind]

    def _compare(self, method: Method, logits: Logits) -> None:
        reference, _ = self._expected(method)
        if len(logits) != len(reference):
            raise NotBitExact(f"{self._where(method)}: {len(logits)} outputs instead of {len(reference)}")
        for step, (found, expected) in enumerate(zip(logits, reference, strict=True)):
            if not torch.equal(found, expected):
                what = "the prefill" if step == 0 else f"decode step {step}"
                raise NotBitExact(f"{self._where(method)}: the logits of {what} differ from the uninterrupted run")

    def _compare_taken(self, method: Method) -> None:
        """Compare what was handed to the caller on the way."""
        reference, _ = self._expected(method)
        first = self._workload.decode_step
        expected = [logits[:, -1:].cpu() for logits in reference[first : first + self._hand.wanted]]
        if not equal(self._hand.logits, expected):
            raise NotBitExact(
                f"{self._where(method)}: the caller was handed other logits than the program's last token's"
            )

    def _where(self, method: Method) -> str:
        return f"{type(method).__name__} ({method.variant}), layer {self._layer}, workload {self._workload.name}"


def _deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Euclidean distance over the norm of ``expected``."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def check_kept(method: Method, least_bytes: int, where: str) -> None:
    """Raise :class:`NotBitExact` if the paused ``method`` left state on the device without saying so.

    A pause that took next to nothing would resume in no time. So it must keep the frontier and the KV cache, in host
    memory or, by its own word, on the device. An uninterrupted run counted ``least_bytes`` of them.
    """
    kept = method.host_bytes() + method.device_bytes_by_policy()
    if method.frees_memory and method.keeps_state and kept < least_bytes * method.least_share:
        raise NotBitExact(f"{where}: the pause kept {kept} bytes of a state of at least {least_bytes}")
