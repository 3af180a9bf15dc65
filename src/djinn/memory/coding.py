"""Carries coded storages between host memory and the device, chunk by chunk, through a buffer of fixed size there.

The buffer has two slots for each way, and each slot has a lane of its own. There a chunk is brought and decoded, or
coded and taken away, and then comes the next. A lane keeps its order, so no chunk meets another in a slot, and no lane
waits for another. While one lane codes, the link works for the other. What codes is a
:class:`djinn.memory.codec.Coder`: kernels on a GPU, plain torch on the CPU.

Each call that submits work takes the interpreter from the program's thread. So there are few: of a layer of 40 MiB two
copies, two kernels, one wait and one mark.

Only a storage of bfloat16 numbers that becomes smaller is coded, by exponents that are counted at the pause. One of the
frontier never is: ready must not wait for a decoder. Nor is what follows the frontier at once. RESUME and the engine's
thread submit it before the program's first kernel, which comes at 2 ms. A plain layer takes them 22 us, a coded one 73
(H200), and the program lacks the interpreter meanwhile.
"""

import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module

import torch

from djinn.interrupts import holding
from djinn.memory import codec
from djinn.memory.codec import Chunk, Coded, Coder, Reference
from djinn.memory.host_copy import Packed
from djinn.memory.lanes import Lane, Link, Mark
from djinn.state.storages import REST, StateStorage
from djinn.state.tensors import plain_torch
from djinn.wording import mebibytes

_SLOTS = 2  # for each way
_MULTIPLE = 16  # of bytes of addresses, and of numbers: what the kernels load at once
_PLAIN_BYTES = 200 << 20  # at the beginning of the history, but no more than
_PLAIN_SHARE = 1 / 8  # of it


class _Slot:
    """The buffer from ``address`` on, scratch memory behind it, and the ``lane`` that alone uses them."""

    def __init__(self, address: int, lane: Lane) -> None:
        self.address = address
        self.scratch = address + codec.slot_bytes()
        self.lane = lane
        self.lock = threading.Lock()  # a chunk is submitted in one step


class Coding:
    """Codes what goes over ``link``, and decodes what comes back; ``coder`` is that of ``device``.

    The buffer is allocated here: 62 MiB of device memory. Raises what torch raises without room for it.
    """

    def __init__(self, device: torch.device, link: Link, coder: Coder) -> None:
        self._coder = coder
        size = codec.slot_bytes() + 4 * -(-codec.largest_chunk() // codec.BLOCK)
        self._buffer = torch.empty(2 * _SLOTS * size, dtype=torch.uint8, device=device)
        begin = self._buffer.data_ptr()
        # A kernel that decodes is short. Behind a program's long ones it would keep its slot, and the link would idle.
        lanes = [link.lane(urgent=place >= _SLOTS) for place in range(2 * _SLOTS)]
        slots = [_Slot(begin + place * size, lane) for place, lane in enumerate(lanes)]
        self._out, self._in = slots[:_SLOTS], slots[_SLOTS:]
        self._next_out, self._next_in = itertools.cycle(self._out), itertools.cycle(self._in)
        self._counting = link.lane()

    @property
    def device_bytes(self) -> int:
        """Bytes of the buffer."""
        return self._buffer.numel()

    def plans(self, items: Sequence[StateStorage], compute: Lane) -> list[Coded | None]:
        """Say how each of ``items``, which the lane ``compute`` has made, is to be coded; None for those that are not.

        Waits for that lane. Without device memory to count in none is coded: it is often full just then.
        """
        chosen = [item for item in _not_at_once(items) if _may_be_coded(item)]
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
        self._counting.follow(compute)
        with self._counting.here():
            counted = self._coder.histograms(places)
        chunks = iter(codec.windows(list(itertools.chain(*ranges)), counted))  # of all at once: it is in the pause
        return [Coded(chunks=tuple(itertools.islice(chunks, len(parts)))) for parts in ranges]

    def pack(self, item: StateStorage, coded: Coded, target: int, copied: Mark) -> None:
        """Code ``item`` into host memory from address ``target`` on; ``copied`` comes behind that."""
        slot = next(self._next_out)
        for chunk, offset in coded.places:
            numbers = item.storage.data_ptr() + 2 * chunk.first
            holding(slot.lock, functools.partial(self._pack_chunk, slot, chunk, numbers, target + offset))
        slot.lane.record(copied)

    def _pack_chunk(self, slot: _Slot, chunk: Chunk, numbers: int, target: int) -> None:
        slot.lane.launch(functools.partial(self._coder.encode, numbers, chunk, slot.address, slot.scratch))
        slot.lane.take(target, slot.address, chunk.nbytes)

    def bring(
        self,
        parts: Iterable[tuple[Packed, int]],
        mark: Mark,
        *,
        behind: Mark | None = None,
        at_once: bool = False,
    ) -> None:
        """Fill the storages of ``parts``, coded or not, each from its address in host memory.

        ``mark`` comes when that is done, and not before the mark ``behind``. ``at_once``: without letting go of the
        interpreter. That is for page-locked memory, as other copies take long.
        """
        slot = next(self._next_in)
        try:
            self._fill(slot, parts, at_once)
            if behind is not None:
                slot.lane.wait(behind, at_once=at_once)
            slot.lane.record(mark, at_once=at_once)
        except BaseException:
            for lane in self.lanes_in:  # whoever tries again may get another slot: that comes behind what is under way
                if lane is not slot.lane:
                    lane.follow(slot.lane)
            raise

    def _fill(self, slot: _Slot, parts: Iterable[tuple[Packed, int]], at_once: bool) -> None:
        for part, source in parts:
            if part.coded is None:
                slot.lane.fill(part.item.storage, source, at_once=at_once)
            else:
                self._decode(slot, part.item, part.coded, source, at_once)

    def _decode(self, slot: _Slot, item: StateStorage, coded: Coded, source: int, at_once: bool) -> None:
        for chunk, offset in coded.places:
            numbers = item.storage.data_ptr() + 2 * chunk.first
            holding(slot.lock, functools.partial(self._bring_chunk, slot, chunk, source + offset, numbers, at_once))

    def _bring_chunk(self, slot: _Slot, chunk: Chunk, source: int, numbers: int, at_once: bool) -> None:
        slot.lane.bring(slot.address, source, chunk.nbytes, at_once=at_once)
        slot.lane.launch(functools.partial(self._coder.decode, slot.address, chunk, numbers))

    @property
    def lanes_in(self) -> list[Lane]:
        """The lanes on which storages are filled."""
        return [slot.lane for slot in self._in]

    def synchronize_out(self) -> None:
        """Block until nothing is written to host memory."""
        for slot in self._out:
            slot.lane.synchronize()

    def there_and_back(self, numbers: torch.Tensor, device: torch.device, link: Link) -> torch.Tensor:
        """Code and decode ``numbers`` (int16, shape [n]) on ``device``; return what comes back."""
        tensor, back = numbers.to(device), torch.zeros_like(numbers, device=device)
        (coded,) = self._counted([_whole(tensor)], link.current())
        packed = torch.empty(coded.nbytes, dtype=torch.uint8, device="cpu")
        copied, there = link.mark(), link.mark()
        self.pack(_whole(tensor), coded, packed.data_ptr(), copied)
        copied.synchronize()
        self.bring([(Packed(item=_whole(back), coded=coded), packed.data_ptr())], there)
        there.synchronize()
        return back.cpu()


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
        for _ in range(2):  # a kernel is built at its first call, and only launched at the next
            if not torch.equal(coding.there_and_back(patterns, device, link), patterns):
                raise RuntimeError("what was coded is not what is decoded")
    return coding, f"codec: bfloat16 state is coded, by {mebibytes(coding.device_bytes)} of device memory"


def _whole(tensor: torch.Tensor) -> StateStorage:
    return StateStorage(storage=tensor.untyped_storage(), nbytes=tensor.nbytes, rank=REST, views=())


def _not_at_once(items: Sequence[StateStorage]) -> Iterator[StateStorage]:
    """Yield those of the history, in the order of need, that do not follow the frontier at once."""
    history = sorted((item for item in items if not item.in_frontier), key=lambda item: item.rank)
    ends = list(itertools.accumulate(item.nbytes for item in history))
    first = min(_PLAIN_BYTES, _PLAIN_SHARE * sum(item.nbytes for item in history))
    return (item for item, end in zip(history, ends, strict=True) if end > first)


def _may_be_coded(item: StateStorage) -> bool:
    numbers = all(view.dtype is torch.bfloat16 for view in item.views)
    whole = not item.nbytes % (2 * _MULTIPLE) and not item.storage.data_ptr() % _MULTIPLE
    return numbers and whole
