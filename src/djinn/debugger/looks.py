"""What the bench reads from one session: its tokens, what its layer would say next, and numbers of its state.

A look never moves a session's state unless it is asked to (``moving``). State on a disk would be read back by it, and
state that may wait on the device in IO_WAIT would go to host memory.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from djinn.core import PARKED, Phase
from djinn.debugger import lens as logit_lens
from djinn.debugger import tokens as program_tokens
from djinn.debugger.edits import Change
from djinn.debugger.looking import Looker
from djinn.debugger.measures import Measured, measure
from djinn.debugger.values import Guess, Lens, Refused, StateRow, Tokens
from djinn.runtime import Runtime
from djinn.session import Session
from djinn.wording import phase_word

T = TypeVar("T")
Mark = tuple[int, int]  # which pause of a session, and how often it was edited


class Looks:
    """Reads sessions of ``runtime`` by turns of ``looker``. What waits for the device raises :class:`looking.Busy`."""

    def __init__(self, runtime: Runtime, looker: Looker, tokenizer: Any) -> None:
        self._runtime = runtime
        self._looker = looker
        self._tokenizer = tokenizer
        self._measured: dict[int, tuple[Mark, dict[str, Measured]]] = {}  # by session

    def tokens(self, session: Session | None, *, moving: bool) -> Tokens:
        """The tokens that the program has so far."""
        if session is None:
            return Tokens(note="there is no session")
        if session.phase is Phase.RUNNING:
            return Tokens(note="the program computes: pause shows its tokens")
        if not moving and (why := _would_move(session)):
            return Tokens(note=f"{why}: tokens reads them")
        has_encoder = bool(getattr(getattr(self._runtime._model, "config", None), "is_encoder_decoder", False))
        found = program_tokens.ids_of(session, has_encoder=has_encoder)
        if found is None:
            return Tokens(note=f"no tokens are known of session {session.number}, which is {phase_of(session)}")
        source, ids = found
        return program_tokens.in_words(self._read(ids, lambda: ids.detach().clone().cpu()), source, self._tokenizer)

    def lens(self, session: Session | None, count: int, sequence: int, *, moving: bool) -> Lens:
        """The ``count`` likeliest tokens behind the last one of ``sequence``, from 0."""
        if session is None or session.phase not in PARKED:
            return Lens(layer=None, label="logit lens", note="there is no paused session to look into")
        layer = session.layer
        label = f"logit lens, layer {layer}"
        if not moving and (why := _would_move(session)):
            return Lens(layer=layer, label=label, note=f"{why}: lens reads it")
        try:
            tail = self._tail
            sequences, scores = self._logits(session, tail, sequence)
        except (logit_lens.NoLens, Refused) as error:
            return Lens(layer=layer, label=label, note=str(error))
        label += f": {tail.norm_name} and {tail.head_name}"
        label += f", sequence {sequence + 1} of {sequences}" if sequences > 1 else ""
        label += f", without {tail.beyond}" if tail.beyond else ""
        chances = scores.softmax(-1)
        best = scores.topk(min(max(count, 1), len(scores))).indices
        if chances.isnan().any():
            return Lens(layer=layer, label=label, note="the logits are not finite: no token is likelier than another")
        tokens = program_tokens.in_words(best[None], label, self._tokenizer)
        label += f", {tokens.note}" if tokens.note else ""
        guesses = tuple(
            Guess(token=token, logit=float(scores[token.id]), probability=float(chances[token.id]))
            for token in tokens.sequences[0]
        )
        return Lens(layer=layer, label=label, guesses=guesses)

    @functools.cached_property
    def _tail(self) -> logit_lens.Tail:
        model: nn.Module = self._runtime._model
        return logit_lens.find_tail(model, self._runtime.layers)

    def _logits(self, session: Session, tail: logit_lens.Tail, sequence: int) -> tuple[int, torch.Tensor]:
        """Return how many sequences there are, and the logits behind the last token of one."""
        hidden = session.state["hidden_states"]
        if hidden.dim() not in (2, 3):
            raise Refused(f"the hidden states have {hidden.dim()} dimensions: the lens reads 2 or 3")
        sequences = 1 if hidden.dim() == 2 else hidden.shape[0]
        if not 0 <= sequence < sequences:
            raise Refused(f"there is no sequence {sequence + 1}: 1 to {sequences}")
        row = self._read(hidden, lambda: _row(hidden, sequence))
        return sequences, logit_lens.logits(tail, row, self._runtime._device, self._looker.piece)

    def state(self, session: Session | None) -> tuple[StateRow, ...]:
        """The tensors of the state, with the numbers that :meth:`measure` has computed; reads no byte."""
        if session is None or session.phase not in PARKED:
            return ()
        known = self._known(session)
        rows = []
        for entry in session.state.entries:
            found = known.get(entry.name)
            rows.append(
                StateRow(
                    name=entry.name,
                    shape=entry.shape,
                    dtype=entry.dtype,
                    layer=entry.layer,
                    measured=found is not None,
                    norm=None if found is None else found.norm,
                    spread=None if found is None else found.spread,
                )
            )
        return tuple(rows)

    def measure(self, session: Session, name: str, *, moving: bool) -> None:
        """Compute the numbers of one tensor. Unless ``moving`` :class:`Refused` is raised if that moves the state."""
        if not moving and (why := _would_move(session)):
            raise Refused(f"{why}: state reads it")
        known = self._known(session)
        if name not in known:
            tensor = session.state[name]
            known[name] = measure(tensor, functools.partial(self._read, tensor))

    def _known(self, session: Session) -> dict[str, Measured]:
        mark, known = self._measured.get(session.number, ((-1, -1), {}))
        if mark != mark_of(session):
            mark, known = mark_of(session), {}
            self._measured[session.number] = mark, known
        return known

    def copied(self, session: Session, name: str = "hidden_states") -> torch.Tensor:
        """A copy of one tensor of the state, in host memory and contiguous."""
        tensor = session.state[name]
        return self._read(tensor, lambda: tensor.detach().to("cpu", copy=True).contiguous())

    def write(self, session: Session, value: torch.Tensor) -> None:
        """Write the hidden states, all in one copy."""
        view = session.state
        self._read(view["hidden_states"], lambda: view.__setitem__("hidden_states", value))

    def _read(self, tensor: torch.Tensor, function: Callable[[], T]) -> T:
        """Call ``function``, which reads or writes ``tensor``: in a turn if that is on the runtime's device."""
        if tensor.device.type == self._runtime._device.type:
            return self._looker.piece(function)
        with torch.no_grad():
            return function()


def changed(before: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
    """Return what ``changes`` make of ``before``, one after the other, in host memory. Raises :class:`Refused`."""
    after = before
    with torch.no_grad():
        for change in changes:
            after = change.apply(after.clone()).to(before.dtype)
    return after


def phase_of(session: Session) -> str:
    """Return the phase of ``session`` in a word: ``cancelled`` where it has failed by that, and by no error."""
    return phase_word(session.phase, was_cancelled=session._was_cancelled)


def mark_of(session: Session) -> Mark:
    """Return what changes when ``session`` goes on or is edited."""
    return session._arrivals, session._residency.edits


def _row(hidden: torch.Tensor, sequence: int) -> torch.Tensor:
    """Return a copy in host memory of the last token's hidden states, shape [1, features]."""
    rows = hidden if hidden.dim() == 2 else hidden[sequence]
    return rows[-1:].detach().clone().cpu()


def _would_move(session: Session) -> str:
    """Why a look would move the state of ``session``; an empty string if it would not."""
    if session.disk_bytes:
        return "the state is on the disk"
    if session.phase is Phase.IO_WAIT and session._residency.may_leave:
        return "the state waits on the device, and would go to host memory"
    return ""
