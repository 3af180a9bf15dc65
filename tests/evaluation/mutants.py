"""Resumes, by hand and the runtime's, that restore too little or too late: each must fail whatever job it is in."""

import time

import torch

from djinn.memory import transfer
from djinn.memory.lanes import Lane
from djinn.memory.transfer import TransferEngine
from evaluation.methods.benchmark_recompute import KvOffload
from evaluation.methods.offloads import AsyncOffload, OrderedOffload, PinnedOffload
from evaluation.methods.reruns import Recompute


def lost(tensors, device):
    """What was allocated for ``tensors`` on ``device``, and never filled."""
    return {name: torch.empty_like(tensor, device=device) for name, tensor in tensors.items()}


class NothingBack(PinnedOffload):
    """Mutant: allocates, copies nothing."""

    def _submit(self, tensors):
        self.stopped.put(lost(tensors, self.subject.device))


class KvLost(OrderedOffload):
    """Mutant: forgets the KV cache."""

    def _bring_rest(self, stopped):
        self._copies.bring(self._layers, lambda tensors: stopped.put({n: t.zero_() for n, t in tensors.items()}))


class LayersDoNotWait(OrderedOffload):
    """Mutant: computes on while the KV cache is still to come."""

    def resume(self):
        super().resume()
        for tensors in self._layers.values():
            self.stopped.put({name: tensor.zero_() for name, tensor in lost(tensors, self.subject.device).items()})

    def _bring_rest(self, stopped):
        time.sleep(0.05)
        super()._bring_rest(stopped)

    def before_layer(self, number):
        return None

    def before_decode(self):
        return None


class SignalsEarly(OrderedOffload):
    """Mutant: signals ready before the frontier is there."""

    def resume(self):
        self.stopped.put(lost(self._first, self.subject.device))

    def finish(self):
        self._submit(self._first)
        return super().finish()


class NothingSubmitted(AsyncOffload):
    """Mutant: waits for nothing, and copies nothing."""

    def _submit(self, tensors):
        self.stopped.put(lost(tensors, self.subject.device))


class Unhanded(PinnedOffload):
    """Mutant: hands the caller logits that were there before the layers have computed."""

    def give(self, logits):
        super().give(torch.zeros_like(logits))


class LeftOnTheDevice(PinnedOffload):
    """Mutant: keeps the state on the device, and does not say so."""

    def pause(self):
        super().pause()
        self._host = {name: tensor for name, tensor in self._host.items() if name == "hidden_states"}


class FoundAgain(OrderedOffload):
    """Mutant: brings nothing of the rest, and hopes that its memory still holds it from the last time."""

    def _bring_rest(self, stopped):
        streams = self.streams()
        with torch.cuda.stream(streams[0] if streams else None):
            for number, tensors in self._layers.items():
                stopped.put(lost(tensors, self.subject.device))
                self._copies._submitted[number].set_result(None)


class TokenWithoutItsPast(KvOffload):
    """Mutant: runs the token again without the KV cache of the tokens before it."""

    def _put(self, tensors):
        super()._put({name: tensor.zero_() for name, tensor in tensors.items()})


class RecomputeTooLittle(Recompute):
    """Mutant: runs one layer too few and passes its output off as the right one."""

    def resume(self):
        self.layer -= 1
        self.prepare()
        self.layer += 1
        self.stopped.layer = self.layer


def take_little(ownership, walk, by_storage, **kwargs):
    """Mutant: leaves all but the position ids on the device, as if somebody else held it."""
    return {
        address: "somebody holds it"
        for address, nodes in by_storage.items()
        if not any("position_ids" in node.name for node in nodes)
    }


def copy_nothing(*args, **kwargs):
    """Mutant: allocates, copies nothing."""


def skip_history(engine, state):
    """Mutant: brings back the frontier, and never the rest."""
    for batch in state.history:
        state.submitted(batch)
    state.finish()
    engine.release(state.copy.entries)
    state.settle()


def signal_early(engine, state, *, busy, let_go):
    """Mutant: signals ready before the copies, which arrive in time for the computation."""
    transfer._allocate(state.copy.entries)
    state.allocated = len(state.history)
    state.open_latch()

    def late():
        time.sleep(0.05)
        transfer._copy_frontier(state.frontier, state.compute)
        engine._bring_back(state)

    state.follow_up = engine._behind.posting(late)
    let_go()


BY_HAND = [
    *(NothingBack, KvLost, LayersDoNotWait, SignalsEarly, NothingSubmitted, Unhanded, LeftOnTheDevice, FoundAgain),
    *(TokenWithoutItsPast, RecomputeTooLittle),
]
OF_THE_RUNTIME = [  # what a mutant takes the place of, and the mutant
    (Lane, "bring", copy_nothing),
    (TransferEngine, "_bring_back", skip_history),
    (TransferEngine, "swap_in", signal_early),
]
