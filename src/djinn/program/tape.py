"""The tape of a durable program: what led it to where it is parked, so that it can be led there again.

A Python stack cannot be stored. But a program that changes only by its model, its arguments and its random numbers can
be run again up to its breakpoint. A *pass* is a call of the model, or of a module in it that holds its layers. The tape
keeps what the model returned in each. Of each decoder layer it keeps the shape of its output, and by how many tokens it
made the cache grow. ``replay`` runs the program by it.

The tape also keeps digests: of the model and the arguments at the start, of what each pass was given, and of the state
where the program parks.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import torch

from djinn.core import is_ours
from djinn.memory.placement import raw_bytes
from djinn.program.random_states import RandomStates, State
from djinn.program.settings import settings_in_words
from djinn.program.values import KeptStorage, cache_layers, described, is_known, keep, leaves_of
from djinn.state.compiled import ends_a_graph, never_traced
from djinn.state.containers import is_cache
from djinn.state.digest import digest_of
from djinn.state.static import instance_dict, module_of, name_of
from djinn.state.storages import NamedView, SessionState, StateStorage
from djinn.state.tensors import is_tensor, plain_torch

Forward = Callable[..., Any]
Words = dict[str, str]  # by name


@dataclass(frozen=True)
class Shape:
    """The dtype, sizes and strides of a tensor."""

    dtype: torch.dtype
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


Output = Shape | tuple["Output", ...] | None  # what a layer returns: a tensor, or a tuple of tensors and None


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One call of decoder layer ``layer`` in a pass: its output, and the keys and values that it put into the cache.

    ``grown`` has the index of the cache's entry, and the shapes of both.
    """

    layer: int
    output: Output
    grown: tuple[tuple[int, Shape, Shape], ...] = ()


@dataclass(kw_only=True)
class Pass:
    """One call of the model: what it was given, the layers that ran, what it returned (None until it has).

    ``tensors`` are those in its output, ``plain`` describes the rest of that. ``random`` are the states of the random
    generators when it returned, if it has drawn from them.
    """

    module: str
    inputs: dict[str, str]
    ran: list[Ran] = field(default_factory=list)
    tensors: tuple[KeptStorage, ...] | None = None
    plain: list[str] = field(default_factory=list)
    random: State | None = None


@dataclass(frozen=True, kw_only=True)
class ParkedStorage:
    """A storage of the state with which the program parked: the digest of its bytes, and the tensors in it."""

    digest: str
    views: tuple[NamedView, ...]


@dataclass(frozen=True, kw_only=True)
class Parked:
    """The program where it is parked: the storages of its state by name, and its random generators' states."""

    storages: dict[str, ParkedStorage]
    random: State


class Recorded(Protocol):
    """The program that a tape belongs to, on whose thread it works."""

    def wait_for(self, value: object, kv: Iterable[int] | None = None) -> None:
        """Wait for the tensors that ``value`` leads to; of a cache for the entries ``kv``."""

    def fail(self, error: Exception) -> NoReturn:
        """Unwind the program for ``error``."""

    def read_by(self, layer: int) -> Iterable[int]:
        """The indices of a cache's entries that decoder layer ``layer`` may read, and write."""

    @property
    def layers_noticed_by(self) -> str:
        """What may notice that layers run, and not only see what the model returns; an empty string for nothing."""


class Tape:
    """Records a program on ``device``; it is the only one to use it, on its own thread, until it is parked.

    ``print_of_model`` returns what the model's contents are at the start, in words by name.
    ``only_by_computing`` says why a pass cannot be answered from the tape, once that is so; an empty string before.
    """

    computed = False  # whether its program's layers have computed again, for lack of answers

    def __init__(self, device: torch.device, print_of_model: Callable[[], Words]) -> None:
        self._device = device
        self._print_of_model = print_of_model
        self._random = RandomStates(device)
        self._in_pass = False
        self.model: Words = {}
        self.arguments: Words = {}
        self.modes: Words = {}
        self.random: State = {}
        self.passes: list[Pass] = []
        self.calls: Counter[int] = Counter()  # of each decoder layer, since the start
        self.parked: Parked | None = None
        self.only_by_computing = ""
        self.edited: list[str] = []  # storages of the state that were edited at earlier pauses, by name
        self.edited_here: list[str] = []  # at this one

    def note_edit(self, name: str) -> None:
        """Note that the tensor ``name`` of the state was edited, at this pause."""
        storages = self.parked.storages if self.parked is not None else {}
        whole = next((first for first, one in storages.items() if any(v.name == name for v in one.views)), name)
        if whole not in self.edited_here:
            self.edited_here.append(whole)

    @property
    def lost_edits(self) -> list[str]:
        """What was edited at earlier pauses, and would not be so where the program is led again.

        What edits of hidden states and KV do is in what the model returned, and in the state.
        """
        return [name for name in self.edited if self.only_by_computing or not name.startswith(("hidden_states", "kv."))]

    @property
    def storages(self) -> list[KeptStorage]:
        """The recorded outputs, in host memory; a fork shares with its origin those of before."""
        return [storage for one in list(self.passes) for storage in one.tensors or ()]

    @property
    def nbytes(self) -> int:
        """Bytes in host memory that the recorded outputs take."""
        return sum(storage.raw.numel() for storage in self.storages)

    def begin(self, program: Recorded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin when the program's own modes and random states are on, just before its first line."""
        self.model = self._print_of_model()  # in its turn, for what is around that may change the model
        self.arguments = described(args, kwargs, caches=True)
        self.modes, self.random = modes_in_words(), self._random.read()

    @ends_a_graph
    def run_model(
        self, program: Recorded, module: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run ``forward`` of the model, or of a module in it that holds its layers, and record the pass."""
        if self._in_pass:
            return forward(*args, **kwargs)
        before = self._before_pass(program, module, args, kwargs)
        self._in_pass = True
        try:
            output = forward(*args, **kwargs)
        except Exception as error:
            self._leave_by(program, error)
            raise
        finally:
            self._in_pass = False
        self._after_pass(program, output, before)
        return output

    @ends_a_graph
    def run_layer(
        self, program: Recorded, number: int, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run ``forward`` of decoder layer ``number``, and record what it did."""
        self.calls[number] += 1
        indices = program.read_by(number)
        before = _entries(args, kwargs, indices)
        output = forward(*args, **kwargs)
        self._note(number, output, before, _entries(args, kwargs, indices))
        return output

    def arrive(self, program: Recorded, state: SessionState) -> None:
        """Take the digest of the ``state`` with which the program is about to park, in its turn."""
        self.parked = Parked(
            storages={
                name: ParkedStorage(digest=digest_of(raw_bytes(item.storage)), views=item.views)
                for name, item in named(state)
            },
            random=self._random.read(),
        )
        self.edited = [*dict.fromkeys([*self.edited, *self.edited_here])]
        self.edited_here = []

    # -- of a pass ---------------------------------------------------------------------------------------------------

    @never_traced
    def _before_pass(
        self, program: Recorded, module: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[object]:
        """Begin a pass; return the marks of the random generators."""
        program.wait_for((args, kwargs), kv=())
        self._enter_pass(program, Pass(module=module, inputs=described(args, kwargs)))
        return self._random.marks()

    def _leave_by(self, program: Recorded, error: Exception) -> None:
        self._computing_only(f"pass {len(self.passes)} raised {name_of(type(error))}")

    @never_traced
    def _after_pass(self, program: Recorded, output: object, before: list[object]) -> None:
        program.wait_for(output, kv=())
        self._leave_pass(program, output, drawn=before != self._random.marks())

    def _enter_pass(self, program: Recorded, entered: Pass) -> None:
        self._computing_only(program.layers_noticed_by or _mode_of_the_program())
        self.passes.append(entered)

    def _leave_pass(self, program: Recorded, output: object, *, drawn: bool) -> None:
        with plain_torch():
            tensors, plain, unknown = sorted_out(output)
            if unknown:
                self._computing_only(f"the model returned {unknown}")
            elif any(tensor.requires_grad for tensor in tensors):
                self._computing_only("autograd records the model's computation")
            one = self.passes[-1]
            one.plain, one.tensors = plain, () if unknown else keep(tensors)
            one.random = self._random.read() if drawn else None

    @never_traced
    def _note(self, number: int, output: object, before: "_Entries", after: "_Entries") -> None:
        if not self._in_pass:
            self._computing_only(f"layer {number} was called outside of its model")
        elif after is None or before is None:
            self._computing_only("its cache is none that only grows by whole tokens")
        else:
            try:
                grown = tuple(_growth(before, after))
                self.passes[-1].ran.append(Ran(layer=number, output=_shape_of(output), grown=grown))
            except TypeError as error:
                self._computing_only(f"layer {number} {error}")

    def _computing_only(self, reason: str) -> None:
        self.only_by_computing = self.only_by_computing or reason

    def end(self, *, at_the_end: bool = False) -> None:
        """End what is done on the way to the breakpoint, there or ``at_the_end`` of the program."""


def _mode_of_the_program() -> str:
    """Name a mode of torch that the program has entered, which sees what layers compute; an empty string for none."""
    stacks = (
        (torch._C._len_torch_dispatch_stack, torch._C._get_dispatch_stack_at),
        (torch._C._len_torch_function_stack, torch._C._get_function_stack_at),
    )
    modes = [type(at(index)) for length, at in stacks for index in range(length())]
    its = [name_of(mode) for mode in modes if not is_ours(module_of(mode)) and name_of(mode) != "DeviceContext"]
    return next((f"{mode} sees what the layers compute" for mode in its), "")


def named(state: SessionState) -> Iterator[tuple[str, StateStorage]]:
    """Yield the storages of ``state`` by their first names; a name that is taken gets a number."""
    seen: Counter[str] = Counter()
    for item in state.storages:
        name = item.views[0].name
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name}~{seen[name]}"), item


def modes_in_words() -> dict[str, str]:
    """Return the modes of this thread and the settings of torch that decide which numbers a program gets, as words."""
    modes = {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default device": torch.get_default_device(),
        "threads of torch": torch.get_num_threads(),
        **{
            f"autocast on {kind}": torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
            for kind in ("cpu", "cuda")
        },
    }
    return {name: str(value) for name, value in modes.items()} | settings_in_words()


def sorted_out(output: object) -> tuple[list[torch.Tensor], list[str], str]:
    """Return the tensors in ``output``, its plain data in words, and the type of what is neither, if there is any.

    Caches are passed over: what they hold is state.
    """
    leaves = [leaf for leaf in leaves_of(output) if not is_cache(type(leaf))]
    unknown = next((name_of(type(leaf)) for leaf in leaves if not is_known(leaf)), "")
    tensors = [leaf for leaf in leaves if is_tensor(leaf)]
    return tensors, [repr(leaf) for leaf in leaves if not unknown and not is_tensor(leaf)], unknown


_Entries = dict[int, tuple[Shape, Shape]] | None  # keys and values of each entry of a cache; None for an unknown cache


def caches_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the caches of transformers among a layer's arguments."""
    return [value for value in (*args, *kwargs.values()) if is_cache(type(value))]


@never_traced
def _entries(args: tuple[Any, ...], kwargs: dict[str, Any], indices: Iterable[int]) -> _Entries:
    """Return the shapes at ``indices`` of the cache among a layer's arguments, or None if its kind is not known."""
    caches = caches_in(args, kwargs)
    if not caches:
        return {}
    known = len(caches) == 1 and name_of(type(caches[0])) == "DynamicCache"  # itself, and no kind of it
    entries, layers = {}, cache_layers(caches[0])
    for index in indices:
        if index >= len(layers):
            continue
        layer = layers[index]
        held = instance_dict(layer) or {}
        keys, values = held.get("keys"), held.get("values")
        known = known and name_of(type(layer)) == "DynamicLayer"
        if is_tensor(keys) and is_tensor(values) and keys.dim() > 1 and values.dim() > 1:
            entries[index] = _shape(keys), _shape(values)
    return entries if known else None


def _growth(
    before: dict[int, tuple[Shape, Shape]], after: dict[int, tuple[Shape, Shape]]
) -> Iterator[tuple[int, Shape, Shape]]:
    """Yield what was appended to each entry: index, and shapes of keys and values. Raises TypeError for else."""
    for index, shapes in after.items():
        earlier = before.get(index)
        if earlier != shapes:
            keys, values = (_appended(None if earlier is None else earlier[part], shapes[part]) for part in (0, 1))
            yield index, keys, values


def _appended(earlier: Shape | None, now: Shape) -> Shape:
    if earlier is None or 0 in earlier.sizes:
        return now
    *outer, old, inner = earlier.sizes
    *outer_now, tokens, inner_now = now.sizes
    if (outer, inner, earlier.dtype) != (outer_now, inner_now, now.dtype) or old >= tokens:
        raise TypeError("has changed its cache otherwise than by new tokens")
    appended = torch.empty((*outer, tokens - old, inner), device="meta")
    return Shape(now.dtype, tuple(appended.shape), appended.stride())


def _shape(tensor: torch.Tensor) -> Shape:
    return Shape(tensor.dtype, tuple(tensor.shape), tensor.stride())


def _shape_of(output: object) -> Output:
    if output is None:
        return None
    if is_tensor(output) and is_known(output):
        if output.requires_grad:
            raise TypeError("has returned what autograd records")
        return _shape(output)
    if type(output) is tuple:
        return tuple(map(_shape_of, output))
    raise TypeError(f"has returned {name_of(type(output))}")
