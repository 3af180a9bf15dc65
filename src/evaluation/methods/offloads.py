"""The hand-written offloads: what each copies when, through host memory that they share. Knows nothing of Djinn.

``pinned`` brings all back and waits. ``ordered`` waits for what layer L+1 needs alone: nothing else is allocated or
copied before that layer is launched. Then a helper thread brings it, in the order of need. ``async`` waits for nothing:
the streams order the computation behind the copies, and the helper begins at once. ``bulk`` brings, at one time,
all the bytes that Djinn moves.
:func:`form` makes those that keep the frontier on the device, or attend the link while a session is paused.
"""

import copy
import functools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch

from evaluation.measure.method import ByHand, Keeps, Link
from evaluation.measure.programs import Logits, Stopped
from evaluation.methods.copies import CopiesBehind, LinkBeat, Tensors, by_layer, to_device
from evaluation.methods.host_arena import HostArena, Room, SharedArena, nbytes, total


class Lane:
    """Between device and host: host memory, and a stream for copies behind the computation.

    Forms whose sessions are never paused at once may share one; then memory that was allocated for its stream serves
    them all. Each of those that are has one :meth:`beside` the others', with the same stream.
    """

    def __init__(self, device: torch.device, *, pinned: bool = True) -> None:
        self._own = functools.partial(HostArena, device, pinned=pinned)
        self._shared: SharedArena | None = None
        self._device = device
        self.arena: Room = self._own()
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def share(self, nbytes: int) -> None:
        """Take host memory from an arena of ``nbytes``, here and :meth:`beside`; raises :class:`HostFull`."""
        self._shared = SharedArena(self._device, nbytes)
        self.arena = self._shared.part()

    def beside(self) -> "Lane":
        """A lane for a session that is paused at the same time: other host memory, the same stream."""
        other = copy.copy(self)
        other.arena = self._own() if self._shared is None else self._shared.part()
        return other

    def close(self) -> None:
        """Unlock the host memory, but for what is shared."""
        self.arena.close()

    def close_shared(self) -> None:
        """Unlock what is shared, when nobody is paused in it any more."""
        if self._shared is not None:
            self._shared.close()


class PinnedOffload(ByHand):
    """Moves all state to page-locked host memory and back; ``lane`` is its own unless given."""

    variant = "pinned"
    headline = True
    pinned = True

    _host: Tensors

    def __init__(self, *args: Any, lane: Lane | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lane = lane or Lane(self.subject.device, pinned=self.pinned)
        self._owns_lane = lane is None
        self._beat = LinkBeat(self.subject.device) if self.link == "attended" else None
        self._kept_bytes = 0

    def pause(self) -> None:
        """Copy what is not kept to the host, wait, and let go of the device's tensors."""
        frontier, history = self.stopped.frontier(), self.stopped.history()
        kept = self.keeps == "frontier"
        tensors = history if kept else {**frontier, **history}
        self._kept_bytes = total(frontier.values()) if kept else 0
        views = self._lane.arena.views(tensors)
        self._host = {name: views[name].copy_(tensor, non_blocking=True) for name, tensor in tensors.items()}
        self._drain()
        self.stopped.put(self._host)
        self._divide([] if kept else list(frontier))
        if self._beat is not None:
            self._beat.start()

    def pause_again(self, left: Stopped) -> None:
        """Be paused as ``left``, which is what ``stopped`` was after a pause of this session that kept nothing.

        No resume alters its host copies, so nothing is computed or copied; ``left`` serves any number of times.
        """
        shared = {id(tensor): tensor for tensor in self._host.values()}
        self.stopped = copy.deepcopy(left, shared)  # a cache of its own, which the decode steps extend
        self._divide(list(self.stopped.frontier()))

    def _divide(self, frontier: Sequence[str]) -> None:
        """Note what ``ready`` waits for, given the names of what of the frontier has left the device: everything."""
        self.floor_bytes = self.host_bytes()

    def resume(self) -> None:
        """Copy everything back and wait for it."""
        self._submit(self._host)
        self._wait()

    def _submit(self, tensors: Tensors) -> None:
        """Copy ``tensors`` back on the compute stream; from then on the link needs nobody's care."""
        self.stopped.put(to_device(tensors, self.subject.device))
        if self._beat is not None:
            self._beat.stop()

    def _wait(self) -> None:
        """Wait for what the compute stream copies, if anything."""
        if self.floor_bytes:
            self._drain()

    def _drain(self) -> None:
        """Wait for the compute stream, and for no other's."""
        if self.subject.device.type == "cuda":
            torch.cuda.current_stream(self.subject.device).synchronize()

    def finish(self) -> Logits:
        """Run the remaining layers and the decode steps."""
        logits = super().finish()
        if self._beat is not None:
            self._beat.join()
        return logits

    def freed_sizes(self) -> list[int]:
        """What leaves the device: all but the frontier, if that is kept."""
        kept = self.keeps == "frontier"
        return [nbytes(tensor) for tensor in self.stopped.history().values()] if kept else self.state_sizes()

    def host_bytes(self) -> int:
        """Bytes of the host copies."""
        return total(self._host.values())

    def device_bytes_by_policy(self) -> int:
        """Bytes of the frontier, if it is kept."""
        return self._kept_bytes

    def share_arena(self) -> int | None:
        """For page-locked memory; ordinary memory is the host's to give."""
        if not self.pinned:
            return None
        nbytes = int(self.study.host_arena_gib * 2**30)
        self._lane.share(nbytes)
        return nbytes

    def beside(self, input_ids: torch.Tensor) -> "PinnedOffload":
        """One more session, with host memory of its own, or of what is shared."""
        lane = self._lane.beside()
        return type(self)(self.subject, self.study, self.workload, layer=self.layer, input_ids=input_ids, lane=lane)

    def close(self) -> None:
        """Stop attending the link, and unlock the memory if it is its own."""
        if self._beat is not None:
            self._beat.join()
        if self._owns_lane:
            self._lane.close()
            self._lane.close_shared()


class OrderedOffload(PinnedOffload):
    """Brings back the frontier first, and the rest by a helper thread in the order of need, behind the computation.

    The helper begins when layer L+1 is launched: before, it would take the interpreter from that launch.
    """

    variant = "ordered"
    headline = False
    drawn = True
    restores_behind = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._copies = CopiesBehind(self.subject.device, self._lane.stream)
        self._waits = ExitStack()  # the layers', in the decode step after the pass that was stopped
        self._helper = ThreadPoolExecutor(max_workers=1)
        self._helper.submit(int).result()  # its thread is there when it is needed
        self._bringing: Future[None] | None = None

    def _divide(self, frontier: Sequence[str]) -> None:
        """``ready`` waits for the frontier; the rest is expected by layers."""
        self._first = {name: self._host[name] for name in frontier}
        rest = [name for name in self._host if name not in self._first]
        self._layers = {number: {name: self._host[name] for name in names} for number, names in by_layer(rest).items()}
        self._copies.expect(self._layers)
        self.floor_bytes = total(self._first.values())

    def resume(self) -> None:
        """Bring the frontier back and wait for it; nothing else is allocated."""
        self._submit(self._first)
        self._wait()

    def _bring_rest(self, stopped: Stopped) -> None:
        self._copies.bring(self._layers, stopped.put)

    def _begin(self) -> None:
        """Let the helper bring the rest, unless it does already or nothing is left to bring."""
        if self._bringing is None and self._layers:
            self._bringing = self._helper.submit(self._bring_rest, self.stopped)

    def _end(self) -> None:
        """Return when the rest is on its way; raises what went wrong with it."""
        bringing, self._bringing = self._bringing, None
        if bringing is not None:
            bringing.result()

    def finish(self) -> Logits:
        """Compute on while the rest is brought back."""
        try:
            with self._waits:
                return super().finish()
        finally:
            self._begin()  # for whoever waits for all state, where a layer failed before
            self._end()

    def streams(self) -> list[torch.cuda.Stream]:
        """That of the copies behind."""
        return [] if self._lane.stream is None else [self._lane.stream]

    def wait_resident(self) -> None:
        """Wait until the last copy is there."""
        self._copies.synchronize()

    def before_layer(self, number: int) -> None:
        """Wait for the KV that the layer reads in a decode step."""
        if number > self.layer + 1:
            self._begin()
        self._copies.wait(number)

    def give(self, logits: torch.Tensor) -> None:
        """Hand them over; where layer L+1 is the last, or none, it is launched now."""
        self._begin()
        super().give(logits)

    def before_decode(self) -> None:
        """Each of the layers up to the breakpoint waits for its own KV, when the next step comes to it."""
        if self._layers:
            self._waits.push(self._copies.wait_in(self.subject.layers[: self.layer]))

    def close(self) -> None:
        """End the helper thread."""
        self._helper.shutdown()
        super().close()


class AsyncOffload(OrderedOffload):
    """Waits for nothing: the compute stream copies the frontier and then computes, so there is no clock ready."""

    variant = "async"
    waits_ready = False

    def _divide(self, frontier: Sequence[str]) -> None:
        super()._divide(frontier)
        self._frontier_back: Future[torch.cuda.Event | None] = Future()

    def resume(self) -> None:
        """Submit the frontier's copies."""
        self._submit(self._first)

    def finish(self) -> Logits:
        """Compute on behind them, while the rest is brought back."""
        self._begin()
        if self._bringing is None:
            self._bring_rest(self.stopped)  # to wake a thread for nothing takes time from the computation
        return super().finish()

    def _bring_rest(self, stopped: Stopped) -> None:
        cuda = self.subject.device.type == "cuda"
        event = torch.cuda.current_stream(self.subject.device).record_event() if cuda else None
        self._frontier_back.set_result(event)
        super()._bring_rest(stopped)

    def wait_resident(self) -> None:
        """Wait until the frontier and the last copy behind it are there."""
        if (event := self._frontier_back.result()) is not None:
            event.synchronize()
        super().wait_resident()


class BulkOffload(PinnedOffload):
    """Moves as many storages of the same sizes as another method, which may hold more than frontier and KV cache."""

    variant = "bulk"
    headline = False

    _sizes: Sequence[int] = ()

    def match(self, sizes: Sequence[int]) -> None:
        """Move as many bytes as storages of ``sizes`` (bytes) have."""
        self._sizes = sizes

    def prepare(self) -> None:
        """Run the program up to the breakpoint, and make what the other method holds besides."""
        super().prepare()
        others = Counter(self._sizes) - Counter(self.state_sizes())
        for index, size in enumerate(others.elements()):
            name = f"other.{index}"
            self.stopped.others[name] = torch.zeros(size, dtype=torch.uint8, device=self.subject.device)


def form(base: type[PinnedOffload], *, keeps: Keeps = "nothing", link: Link = "idle") -> type[PinnedOffload]:
    """``base``, but that it keeps the frontier or attends the link: ``ordered_kept_attended`` does both."""
    parts = [name for name, has in (("kept", keeps == "frontier"), ("attended", link == "attended")) if has]
    name = "".join(part.title() for part in parts) + base.__name__
    about = {"variant": "_".join([base.variant, *parts]), "headline": False, "keeps": keeps, "link": link}
    return type(name, (base,), {"__doc__": base.__doc__, **about})
