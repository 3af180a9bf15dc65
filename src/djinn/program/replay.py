"""Runs a program again up to the breakpoint at which it was saved, by its tape.

There are two ways. *Answering*: no decoder layer runs up to the breakpoint. Each returns a tensor of the right shape,
and makes the cache grow by the right number of tokens, both full of NaN. What the model returns is then overwritten by
what it returned the first time. *Computing*: every layer runs, and what the model returns is compared.

Either way the program parks where it did. Its state must have the same names and sizes as the saved one. What was
computed must have the digests of the first time; what is NaN came from layers that did not run. Then the saved bytes
are put in, edits included.

Whatever differs ends the program by :class:`NotRestored`, which names it.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from djinn.core import NotRestored
from djinn.memory.placement import raw_bytes
from djinn.program.random_states import State
from djinn.program.tape import (
    Output,
    Parked,
    Pass,
    Ran,
    Recorded,
    Shape,
    Tape,
    Words,
    caches_in,
    modes_in_words,
    named,
    sorted_out,
)
from djinn.program.values import described, give, keep
from djinn.state.compiled import ends_a_graph, never_traced
from djinn.state.digest import digest_of
from djinn.state.storages import NamedView, SessionState, StateStorage
from djinn.state.tensors import plain_torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """A program's way to where it was saved: what its :class:`Tape` has kept, and the ``state`` with edits.

    ``state`` has the bytes of each storage by name (uint8, shape [nbytes]).
    """

    model: Words
    arguments: Words
    modes: Words
    random: State
    passes: tuple[Pass, ...]
    calls: dict[int, int]
    parked: Parked
    state: Mapping[str, torch.Tensor]
    only_by_computing: str


class Replay(Tape):
    """The tape of a program that is led to its breakpoint by ``recording``; records like any other from there on."""

    def __init__(
        self,
        device: torch.device,
        print_of_model: Callable[[], Words],
        recording: Recording,
        *,
        computing: bool,
    ) -> None:
        super().__init__(device, print_of_model)
        self._recording: Recording | None = recording
        self.computed = computing
        self._ran: Iterator[Ran] = iter(())  # of the pass that is answered
        self._given: list[StorageWeakRef] = []  # storages that were given out in place of what layers return

    def begin(self, program: Recorded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check the model, the arguments and modes, and set the random generators."""
        recording = self._recording
        assert recording is not None
        self._compare(program, "the model's", recording.model, self._print_of_model())
        self._compare(program, "argument", recording.arguments, described(args, kwargs))
        self._compare(program, "setting", recording.modes, modes_in_words())
        self.model, self.random = recording.model, recording.random
        self.arguments, self.modes = recording.arguments, recording.modes
        self.only_by_computing = recording.only_by_computing
        self._put_random(program, recording.random)

    def _compare(self, program: Recorded, what: str, before: Words, now: Words) -> None:
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                was, is_now = (_short(words.get(name, "not there")) for words in (before, now))
                program.fail(NotRestored(f"{what} {name} is {is_now}; when the session was saved it was {was}"))

    def _put_random(self, program: Recorded, state: State) -> None:
        try:
            self._random.put(state)
        except ValueError as error:
            program.fail(NotRestored(str(error)))

    # -- of a pass ---------------------------------------------------------------------------------------------------

    def _enter_pass(self, program: Recorded, entered: Pass) -> None:
        recording = self._recording
        if recording is not None:
            number = len(self.passes) + 1
            if number > len(recording.passes):
                program.fail(NotRestored(f"the program calls the model a {number}th time before its breakpoint"))
            ahead = recording.passes[number - 1]
            self._compare(program, f"in pass {number}: input", ahead.inputs, entered.inputs)
            if ahead.module != entered.module:
                program.fail(NotRestored(f"pass {number} calls {entered.module}, and called {ahead.module} before"))
            self._ran = iter(ahead.ran)
            entered = dataclasses.replace(ahead, ran=list(ahead.ran))
        super()._enter_pass(program, entered)

    @ends_a_graph
    def run_layer(
        self, program: Recorded, number: int, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Answer for the decoder layer, or compute it."""
        if self._recording is None:
            return super().run_layer(program, number, forward, args, kwargs)
        self.calls[number] += 1
        if self.computed:
            return forward(*args, **kwargs)
        ran = next(self._ran, None)
        if not self._in_pass or ran is None or ran.layer != number:
            program.fail(NotRestored(f"pass {len(self.passes)} runs layer {number}, which it did not run before"))
        return self._answer(ran, args, kwargs)

    @never_traced
    def _answer(self, ran: Ran, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for index, keys, values in ran.grown:
            caches_in(args, kwargs)[0].update(self._nan(keys), self._nan(values), index)
        return self._output(ran.output)

    def _output(self, output: Output) -> Any:
        if output is None:
            return None
        if isinstance(output, Shape):
            tensor = self._nan(output)
            self._given.append(StorageWeakRef(tensor.untyped_storage()))
            return tensor
        return tuple(map(self._output, output))

    def _nan(self, shape: Shape) -> torch.Tensor:
        is_a_number = not (shape.dtype.is_floating_point or shape.dtype.is_complex)
        tensor = torch.empty_strided(shape.sizes, shape.strides, dtype=shape.dtype, device=self._device)
        whole = torch.empty(0, dtype=shape.dtype, device=self._device).set_(tensor.untyped_storage())
        whole.fill_(0 if is_a_number else torch.nan)  # by its storage: a tensor may show an element many times
        return tensor

    def _leave_pass(self, program: Recorded, output: object, *, drawn: bool) -> None:
        if self._recording is None:
            return super()._leave_pass(program, output, drawn=drawn)
        number = len(self.passes)
        ahead = self.passes[-1]
        if ahead.tensors is None:
            program.fail(NotRestored(f"pass {number} returns before the breakpoint, which was in it"))
        if not self.computed and next(self._ran, None) is not None:
            program.fail(NotRestored(f"pass {number} runs fewer layers than before"))
        with plain_torch():
            tensors, plain, _ = sorted_out(output)
            if plain != ahead.plain:
                program.fail(NotRestored(f"pass {number} returns {_short(str(plain))}, not {_short(str(ahead.plain))}"))
            if self.computed:
                now = keep(tensors)
                if not _are_equal(now, ahead):
                    program.fail(NotRestored(f"pass {number} returns other tensors than before"))
            elif not give(tensors, ahead.tensors):
                program.fail(NotRestored(f"pass {number} returns tensors of other shapes than before"))
        if ahead.random is not None and not self.computed:
            self._put_random(program, ahead.random)
        return None

    # -- at the breakpoint -------------------------------------------------------------------------------------------

    def arrive(self, program: Recorded, state: SessionState) -> None:
        """Put the saved state into ``state``, with which the program is about to park, and record from here on."""
        recording = self._recording
        if recording is None:
            return super().arrive(program, state)
        if self.calls != Counter(recording.calls):
            program.fail(NotRestored("the program parks at another layer than before"))
        found = dict(named(state))
        self._check_names(program, found, state)
        for name, storage in recording.parked.storages.items():
            raw = raw_bytes(found[name].storage)
            if digest_of(raw) != storage.digest and (self.computed or not _has_nan(found[name])):
                program.fail(NotRestored(f"{name} is not what it was when the session parked: the program has changed"))
        for name, saved in recording.state.items():
            raw_bytes(found[name].storage).copy_(saved)
        kept = {item.storage._cdata for item in found.values()}
        if any(not given.expired() and given.cdata not in kept for given in self._given):
            reason = "something outside of its state keeps what a layer returned, such as a hook"
            program.fail(NotRestored(f"the program cannot be answered from its tape: {reason}"))
        self._put_random(program, recording.parked.random)
        self.parked, self._recording, self._given = recording.parked, None, []
        return None

    def _check_names(self, program: Recorded, found: dict[str, StateStorage], state: SessionState) -> None:
        """Check that the state has the saved tensors, in the same places of the same storages.

        It may have more: what somebody else held when the session was saved is not in the file, and the program has
        made it again. But from layers that did not run it cannot come.
        """
        assert self._recording is not None
        saved = self._recording.parked.storages
        for name, storage in saved.items():
            if name not in found:
                left = next((f": {line.said}" for line in state.left if line.name == name), "")
                program.fail(NotRestored(f"the state of the program has no {name} where it parks{left}"))
            if found[name].views != storage.views or found[name].nbytes != self._recording.state[name].numel():
                program.fail(NotRestored(f"the tensors in the storage of {name} lie otherwise where the program parks"))
        for name, item in found.items():
            if name not in saved and not self.computed and (_has_nan(item) or not _may_have_nan(item)):
                program.fail(NotRestored(f"the state of the program has {name}, which was not saved"))


def _are_equal(now: Any, ahead: Pass) -> bool:
    assert ahead.tensors is not None
    return len(now) == len(ahead.tensors) and all(
        mine.views == its.views and torch.equal(mine.raw, its.raw) for mine, its in zip(now, ahead.tensors, strict=True)
    )


def _may_have_nan(item: StateStorage) -> bool:
    """Whether all tensors in a storage are of numbers among which a NaN would show where they come from."""
    return all(view.dtype.is_floating_point or view.dtype.is_complex for view in item.views)


def _has_nan(item: StateStorage) -> bool:
    """Whether one of the tensors in a storage holds a NaN, and so may come from a layer that did not run."""
    return any(_shows_nan(view, item) for view in item.views if view.dtype.is_floating_point or view.dtype.is_complex)


def _shows_nan(view: NamedView, item: StateStorage) -> bool:
    return bool(torch.isnan(view.over(raw_bytes(item.storage))).any())


def _short(words: str) -> str:
    return words if len(words) <= 80 else f"{words[:77]}..."
