"""Runs a program again up to the breakpoint at which it was saved, by its tape.

There are two ways. *Answering*: no decoder layer runs up to the breakpoint. Each returns a tensor of the right shape,
and makes the cache grow by the right number of tokens, both full of NaN. What the model returns is then overwritten by
what it returned the first time. *Computing*: every layer runs, and what the model returns is compared.

Either way the program parks where it did. Its state must have the tensors of the saved one, in the same places. What
was computed must have the digests of the first time; what was made up (``made_up``) has none to have. Then the saved
bytes are put in, edits included.

Whatever differs ends the program by :class:`NotRestored`, which names it.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch

from djinn.core import NotRestored
from djinn.memory.placement import raw_bytes
from djinn.program.made_up import MadeUp
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
from djinn.program.values import described, difference, give, keep, short
from djinn.state.compiled import ends_a_graph, never_traced
from djinn.state.digest import digest_of
from djinn.state.storages import SessionState, StateStorage
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
    state: dict[str, torch.Tensor]
    only_by_computing: str
    edited: tuple[str, ...]
    edited_here: tuple[str, ...]


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
        self._made_up: MadeUp | None = None  # while it is answered

    def begin(self, program: Recorded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check the model, the arguments and modes, and set the random generators."""
        recording = self._recording
        assert recording is not None
        self._compare(program, "the model's", recording.model, self._print_of_model())
        if self.computed and recording.edited:
            program.fail(
                NotRestored(f"{recording.edited[0]} was edited at an earlier pause, which cannot be computed again")
            )
        self._compare(program, "argument", recording.arguments, described(args, kwargs, caches=True))
        self._compare(program, "setting", recording.modes, modes_in_words())
        self.model, self.random = recording.model, recording.random
        self.arguments, self.modes = recording.arguments, recording.modes
        self.only_by_computing = recording.only_by_computing
        self._put_random(program, recording.random)
        if not self.computed:
            self._made_up = MadeUp(functools.partial(self._unanswered, program))
            self._made_up.put_on()

    def end(self, *, at_the_end: bool = False) -> None:
        """End what is done on the way to the breakpoint."""
        if self._made_up is not None:
            self._made_up.take_off(at_the_end=at_the_end)
            if at_the_end:
                self._made_up = None

    def _unanswered(self, program: Recorded, what: str) -> NoReturn:
        assert self._made_up is not None
        self._made_up.follows = False  # it is in the midst of an operator, and is taken off later
        program.fail(NotRestored(f"the program needs what a layer computes in an earlier pass: {what}"))

    def _compare(self, program: Recorded, what: str, before: Words, now: Words) -> None:
        if words := difference(before, now):
            program.fail(NotRestored(f"{what} {words}"))

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
            if not self.computed and (what := program.layers_noticed_by):
                program.fail(NotRestored(f"pass {number} cannot be answered: {what} may notice that layers run"))
            self._ran = iter(ahead.ran)
            self.passes.append(dataclasses.replace(ahead, ran=list(ahead.ran)))
        else:
            super()._enter_pass(program, entered)

    @ends_a_graph
    def run_model(
        self, program: Recorded, module: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Answer for a pass, or compute it."""
        if self._made_up is None or self._recording is not None:
            return super().run_model(program, module, forward, args, kwargs)
        with self._made_up.aside():
            return super().run_model(program, module, forward, args, kwargs)

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
            return self._nan(output)
        return tuple(map(self._output, output))

    def _nan(self, shape: Shape) -> torch.Tensor:
        is_a_number = not (shape.dtype.is_floating_point or shape.dtype.is_complex)
        tensor = torch.empty_strided(shape.sizes, shape.strides, dtype=shape.dtype, device=self._device)
        whole = torch.empty(0, dtype=shape.dtype, device=self._device).set_(tensor.untyped_storage())
        whole.fill_(0 if is_a_number else torch.nan)  # by its storage: a tensor may show an element many times
        assert self._made_up is not None
        self._made_up.add(tensor)
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
                program.fail(NotRestored(f"pass {number} returns {short(str(plain))}, not {short(str(ahead.plain))}"))
            if self.computed:
                now = keep(tensors)
                if not _are_equal(now, ahead):
                    program.fail(NotRestored(f"pass {number} returns other tensors than before"))
            elif not give(tensors, ahead.tensors):
                program.fail(NotRestored(f"pass {number} returns tensors of other shapes than before"))
            elif self._made_up is not None:
                self._made_up.forget(tensors)
        if ahead.random is not None and not self.computed:
            self._put_random(program, ahead.random)
        return None

    def _leave_by(self, program: Recorded, error: Exception) -> None:
        number = len(self.passes)
        if self._recording is not None and self._recording.passes[number - 1].tensors is not None:
            program.fail(NotRestored(f"pass {number} raises {type(error).__name__}, and returned before"))
        super()._leave_by(program, error)

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
            if not self._is_made_up(found[name]) and digest_of(raw_bytes(found[name].storage)) != storage.digest:
                program.fail(NotRestored(f"{name} is not what it was when the session parked: the program has changed"))
        for name, saved in recording.state.items():
            raw_bytes(found[name].storage).copy_(saved)
        if self._made_up is not None and self._made_up.is_left_beside({item.storage._cdata for item in found.values()}):
            self._unanswered(program, "something outside of its state keeps it, such as a hook or a list")
        self._put_random(program, recording.parked.random)
        self.parked, self._recording = recording.parked, None
        self.edited, self.edited_here = list(recording.edited), list(recording.edited_here)
        return None

    def _is_made_up(self, item: StateStorage) -> bool:
        return self._made_up is not None and self._made_up.holds(item.storage)

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
            if name not in saved and self._is_made_up(item):
                program.fail(NotRestored(f"the state of the program has {name}, which was not saved"))


def _are_equal(now: Any, ahead: Pass) -> bool:
    assert ahead.tensors is not None
    return len(now) == len(ahead.tensors) and all(
        mine.views == its.views and torch.equal(mine.raw, its.raw) for mine, its in zip(now, ahead.tensors, strict=True)
    )
