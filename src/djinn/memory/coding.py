"""Carries coded storages between host memory and the device, chunk by chunk, through a buffer of fixed size there.

The buffer has two slots for each way. While one chunk is coded, another is on the wire: a slot's two marks order the
two lanes. What codes is a :class:`djinn.memory.codec.Coder`: kernels on a GPU, plain torch on the CPU.

Only a storage of bfloat16 numbers that becomes smaller is coded, and never one of the frontier: ready must not wait for
a decoder. The choice is made at the pause, by counting exponents.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from importlib import import_module

import torch

from djinn.interrupts import holding
from djinn.memory import codec
from djinn.memory.codec import Chunk, Coded, Coder, Reference
from djinn.memory.lanes import Lane, Link, Mark
from djinn.state.storages import REST, StateStorage
from djinn.state.tensors import plain_torch
from djinn.wording import mebibytes

_SLOTS = 2  # for each way
_MULTIPLE = 16  # of bytes of addresses, and of numbers: what the kernels load at once

Step = Callable[[int], None]  # submits work with the slot at an address


class _Slot:
    def __init__(self, address: int, link: Link) -> None:
        self.address = address
        self.full = link.mark()
        self.free = link.mark()


class _Way:
    """The slots of one way, used in turn."""

    def __init__(self, addresses: Sequence[int], link: Link) -> None:
        self._slots = itertools.cycle([_Slot(address, link) for address in addresses])
        self._lock = threading.Lock()  # what is submitted to one slot is submitted in one step

    def through(self, first: Lane, fill: Step, second: Lane, empty: Step) -> None:
        """Submit to ``first`` what fills the next slot, and to ``second`` what empties it."""
        holding(self._lock, lambda: _through(next(self._slots), first, fill, second, empty))


def _through(slot: _Slot, first: Lane, fill: Step, second: Lane, empty: Step) -> None:
    first.wait(slot.free)
    fill(slot.address)
    first.record(slot.full)
    second.wait(slot.full)
    empty(slot.address)
    second.record(slot.free)


class Coding:
    """Codes what goes over ``link``, and decodes what comes back; ``coder`` is that of ``device``.

    The buffer is allocated here: 60 MiB of device memory. Raises what torch raises without room for it.
    """

    def __init__(self, device: torch.device, link: Link, coder: Coder) -> None:
        self._coder = coder
        size = codec.largest_chunk()
        self._buffer = torch.empty(2 * _SLOTS * size, dtype=torch.uint8, device=device)
        begin = self._buffer.data_ptr()
        addresses = [begin + place * size for place in range(2 * _SLOTS)]
        self._outwards, self._inwards = _Way(addresses[:_SLOTS], link), _Way(addresses[_SLOTS:], link)
        self._encoding, self._decoding = link.lane(), link.lane()

    @property
    def device_bytes(self) -> int:
        """Bytes of the buffer."""
        return self._buffer.numel()

    def plans(self, items: Sequence[StateStorage], compute: Lane) -> list[Coded | None]:
        """Say how each of ``items``, which the lane ``compute`` has made, is to be coded; None for those that are not.

        Waits for that lane. Without device memory to count in none is coded: it is often full just then.
        """
        chosen = [item for item in items if _may_be_coded(item)]
        try:
            found = dict(zip(map(id, chosen), self._counted(chosen, compute), strict=True))
        except torch.OutOfMemoryError:
            return [None] * len(items)
        plans = (found.get(id(item)) for item in items)
        return [coded if coded is not None and codec.is_worth_it(coded) else None for coded in plans]

    def _counted(self, items: Sequence[StateStorage], compute: Lane) -> list[Coded]:
        """Choose the windows of ``items``."""
        ranges = [codec.ranges_of(item.nbytes) for item in items]
        places = [
            (item.storage.data_ptr() + 2 * first, count)
            for item, parts in zip(items, ranges, strict=True)
            for first, count in parts
        ]
        if not places:
            return []
        self._encoding.follow(compute)
        with self._encoding.here():
            counted = self._coder.histograms(places)
        chunks = iter(codec.windows(list(itertools.chain(*ranges)), counted))  # of all at once: it is in the pause
        return [Coded(chunks=tuple(itertools.islice(chunks, len(parts)))) for parts in ranges]

    def pack(self, item: StateStorage, coded: Coded, target: int, wire: Lane) -> None:
        """Code ``item`` into host memory from address ``target`` on, by the lane ``wire``, which then has it all."""
        for chunk, offset in coded.places():
            numbers = item.storage.data_ptr() + 2 * chunk.first
            encode = functools.partial(self._encode, chunk, numbers)
            self._outwards.through(self._encoding, encode, wire, functools.partial(_take, wire, target + offset, chunk))

    def _encode(self, chunk: Chunk, numbers: int, slot: int) -> None:
        self._encoding.launch(functools.partial(self._coder.encode, numbers, chunk, slot))

    def unpack(self, item: StateStorage, coded: Coded, source: int, wire: Lane, decoding: Lane | None = None) -> None:
        """Decode ``item`` from host memory from address ``source`` on; ``wire`` carries it.

        The lane ``decoding``, by default one for all, then has it all.
        """
        lane = decoding or self._decoding
        for chunk, offset in coded.places():
            numbers = item.storage.data_ptr() + 2 * chunk.first
            bring = functools.partial(_bring, wire, source + offset, chunk)
            self._inwards.through(wire, bring, lane, functools.partial(self._decode, lane, chunk, numbers))

    def _decode(self, lane: Lane, chunk: Chunk, numbers: int, slot: int) -> None:
        lane.launch(functools.partial(self._coder.decode, slot, chunk, numbers))

    def there_and_back(self, numbers: torch.Tensor, device: torch.device, compute: Lane) -> torch.Tensor:
        """Code and decode ``numbers`` (int16, shape [n]) on ``device``; return what comes back.

        ``compute`` is the current thread's lane.
        """
        tensor, back = numbers.to(device), torch.zeros_like(numbers, device=device)
        (coded,) = self._counted([_whole(tensor)], compute)
        packed = torch.empty(coded.nbytes, dtype=torch.uint8, device="cpu")
        self.pack(_whole(tensor), coded, packed.data_ptr(), self._encoding)
        self._encoding.synchronize()
        self.unpack(_whole(back), coded, packed.data_ptr(), self._decoding)
        self._decoding.synchronize()
        return back.cpu()

    def record(self, mark: Mark, wire: Lane) -> None:
        """Put ``mark`` behind all that ``wire`` has carried, and all that was decoded of it."""
        self._decoding.follow(wire)
        self._decoding.record(mark)

    def synchronize(self) -> None:
        """Block until nothing is being decoded."""
        self._decoding.synchronize()


def coding_of(device: torch.device, link: Link) -> tuple[Coding | None, str]:
    """Return what codes the state on ``device``, and what to say of it; None and why not, if it cannot be had."""
    try:
        return _checked(device, link)
    except Exception as error:  # noqa: BLE001 - whatever a builder of kernels lacks, sessions are swapped without them
        line = str(error).strip().partition("\n")[0]
        return None, f"codec: raw, for no kernel could be had ({type(error).__name__}: {line})"


def _checked(device: torch.device, link: Link) -> tuple[Coding, str]:
    """Make a coding, which builds its kernels, and have it code and decode every pattern of 16 bits."""
    if device.type == "cuda":
        coder: Coder = import_module("djinn.memory.codec_kernels").Kernels(device)
    else:
        coder = Reference()
    coding = Coding(device, link, coder)
    with plain_torch():
        patterns = torch.arange(65536, dtype=torch.int32, device="cpu").to(torch.int16)
        if not torch.equal(coding.there_and_back(patterns, device, link.current()), patterns):
            raise RuntimeError("what was coded is not what is decoded")
    return coding, f"codec: bfloat16 state is coded, by {mebibytes(coding.device_bytes)} of device memory"


def _whole(tensor: torch.Tensor) -> StateStorage:
    return StateStorage(storage=tensor.untyped_storage(), nbytes=tensor.nbytes, rank=REST, views=())


def _take(wire: Lane, target: int, chunk: Chunk, slot: int) -> None:
    wire.take(target, slot, chunk.nbytes)


def _bring(wire: Lane, source: int, chunk: Chunk, slot: int) -> None:
    wire.bring(slot, source, chunk.nbytes)


def _may_be_coded(item: StateStorage) -> bool:
    numbers = all(view.dtype is torch.bfloat16 for view in item.views)
    whole = not item.nbytes % (2 * _MULTIPLE) and not item.storage.data_ptr() % _MULTIPLE
    return numbers and whole and not item.in_frontier
