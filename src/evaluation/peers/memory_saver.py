"""A peer: ``torch_memory_saver``, which unmaps the memory behind tensors and maps other memory at the same addresses.

How it works: what is allocated inside ``region(tag)`` comes from the driver's virtual-memory calls. ``pause(tag)``
copies each allocation to page-locked host memory and gives its device memory back to the driver. ``resume(tag)`` maps
new memory at the same addresses and copies the contents back. Both wait for their copies. Tensors stay valid.

Its best configuration for one session's state, which is what is measured:

- ``enable_cpu_backup``, page-locked, and ``retain_cpu_backup``: without it the host memory is allocated anew at each
  pause, which costs many times the copy.
- The state moves into the region at the pause, in copies inside the device that take a small part of the time that the
  link takes. To run the program inside the region instead would spare them. But then every temporary of the forward
  pass would lie in the region too, and torch's cache of them would go to the host and back with the state.
- All tensors of the state lie in one allocation, made once: one unmapping, one mapping and one large copy instead of
  one for each of the KV cache's tensors.
- ``hook_mode = "torch"``: the library is the allocator of the region's pool only. The other mode, its preloaded
  library, does the same by the same code, but is silently left out by a loader that does not find CUDA's runtime.

The library calls ``exit`` where the driver refuses it anything, so it is run in a process of its own.
"""

import importlib
from multiprocessing.connection import Connection
from typing import Any

import torch

from evaluation.measure.cell import Record, first_line
from evaluation.measure.child import Child
from evaluation.measure.device_memory import allocated_bytes, overwrite_driver_memory, synchronize
from evaluation.measure.edits import edited
from evaluation.measure.job import Report, build_subject
from evaluation.measure.killed import killed_when_paused
from evaluation.measure.method import ByHand
from evaluation.measure.models import Subject
from evaluation.measure.peer import Peer, Unread, Unsupported
from evaluation.measure.workloads import measure
from evaluation.study.plan import Study, Workload

_PACKAGE = "torch_memory_saver"
_GRANULE = 2 << 20  # bytes: the driver maps memory in pieces of this size, and torch asks for it so
_ALIGNMENT = 512  # bytes: as torch's allocator aligns tensors, so that the same kernels run


def take(study: Study, report: Report) -> list[Record]:
    """One cell for each workload, from a process of its own; raises as :meth:`Child.hear` does."""
    with Child(_program, study, report=report) as process:
        cells: list[Record] = process.hear("done")
    return cells


def _program(connection: Connection, study: Study) -> list[Record]:
    saver = open_saver(torch.device(study.device, 0))
    return measured(build_subject(study), study, saver, lambda line: connection.send(("report", line)))


def kill(study: Study, report: Report) -> str:
    """The library in another process is asked for what the killed one had paused, by the same tag.

    Its copy lay in that process's memory, and ``resume`` of a tag that it does not know maps nothing and says nothing.
    """
    tag, _ = killed_when_paused(_pause_edited, study, report=report)
    with Child(_ask_elsewhere, study, tag, report=report) as process:
        mapped: int = process.hear("done")
    if mapped:
        raise Unread(f"{_PACKAGE} in another process mapped {mapped} bytes for what the killed one had paused")
    return f"{_PACKAGE} in another process mapped 0 bytes for the tag that the killed one had paused"


def _pause_edited(connection: Connection, study: Study) -> None:
    """In the process that is killed: pause an edited session, and wait for the end."""
    saver = open_saver(torch.device(study.device, 0))
    method = edited(MemorySaver.over(saver), build_subject(study), study)
    method.pause()
    connection.send(("paused", method.tag))
    connection.recv()  # nobody says anything: it is here that the process is killed


def _ask_elsewhere(connection: Connection, study: Study, tag: str) -> int:
    """In another process: how many bytes of the device are taken when ``tag`` is resumed."""
    device = torch.device(study.device, 0)
    saver = open_saver(device)
    before = _driver_free(device)
    saver.resume(tag)
    return before - _driver_free(device)


def measured(subject: Subject, study: Study, saver: Any, report: Report) -> list[Record]:
    """The cells of all workloads at the deepest layer; ``saver`` is the package's object of that name."""
    kind = MemorySaver.over(saver)
    count = study.peers.memory_saver_samples
    small = study.measurement.but(samples=count, other_samples=count)
    return measure(
        subject,
        study.but(measurement=small),
        len(subject.layers),
        variants=lambda workload: [kind],
        report=report,
    )


class MemorySaver(ByHand):
    """Copy the state into a region, pause the region, resume it."""

    variant = "default"
    headline = True

    saver: Any

    def __init__(self, subject: Subject, study: Study, workload: Workload, **kwargs: Any) -> None:
        super().__init__(subject, study, workload, **kwargs)
        self.tag = f"{workload.name}.{id(self):x}"  # a session's own: what is paused is told by its tag
        self._region = torch.empty(0, dtype=torch.uint8)

    @classmethod
    def over(cls, saver: Any) -> "type[MemorySaver]":
        """The method by ``saver``, the package's object of that name."""
        return type(cls.__name__, (cls,), {"saver": saver})

    def pause(self) -> None:
        """Move the state into the region, let go of the program's tensors, and pause the region."""
        tensors = {**self.stopped.frontier(), **self.stopped.history()}
        places, nbytes = _places(tensors)
        if self._region.numel() < nbytes:
            self._region = self._allocate(nbytes)
        inside = {}
        for name, tensor in tensors.items():
            inside[name] = _view(self._region, places[name], tensor).copy_(tensor, non_blocking=True)
        self.stopped.put(inside)
        self.floor_bytes = self.host_bytes()
        synchronize(self.subject.device)  # the library copies on another stream
        self.saver.pause(self.tag)

    def _allocate(self, nbytes: int) -> torch.Tensor:
        with self.saver.region(tag=self.tag, enable_cpu_backup=True):
            whole = -(-nbytes // _GRANULE) * _GRANULE
            return torch.empty(whole, dtype=torch.uint8, device=self.subject.device)

    def resume(self) -> None:
        """Resume the region and wait."""
        self.saver.resume(self.tag)
        synchronize(self.subject.device)

    def device_bytes(self) -> int | None:
        """By the driver's count, less what torch only keeps in reserve: torch takes a paused region for allocated."""
        device = self.subject.device
        allocated = allocated_bytes(device)
        if allocated is None:
            return None
        free, total = torch.cuda.mem_get_info(device)
        return int(total - free - (torch.cuda.memory_reserved(device) - allocated))

    def overwrite_given_back(self) -> None:
        """All that the driver holds free, for it may map the same memory again."""
        overwrite_driver_memory(self.subject.device)

    def host_bytes(self) -> int:
        """Bytes of the retained backup: the whole region."""
        return self._region.numel()


def _places(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, int], int]:
    """Where each of ``tensors`` begins in a region that holds all of them, and the region's size, in bytes."""
    places, end = {}, 0
    for name, tensor in tensors.items():
        places[name] = end
        end += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
    return places, end


def _view(region: torch.Tensor, start: int, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like ``tensor``, strides included, in ``region`` from byte ``start`` on."""
    strides = torch.empty_like(tensor, device="meta").stride()
    flat = region[start : start + tensor.numel() * tensor.element_size()].view(tensor.dtype)
    return flat.as_strided(tensor.shape, strides, flat.storage_offset())


def open_saver(device: torch.device) -> Any:
    """The package's object, configured, after it has shown that it gives memory back and restores it.

    Raises :class:`Unsupported` if the package is missing, too old, or cannot load its library, and if it does not do
    what it says.
    """
    try:
        saver = importlib.import_module(_PACKAGE).torch_memory_saver
    except ImportError as error:
        raise Unsupported(
            f"{_PACKAGE} cannot be imported ({first_line(error)}): pip install -r envs/peers.txt"
        ) from error
    if not hasattr(type(saver), "retain_cpu_backup"):
        raise Unsupported(f"this {_PACKAGE} does not retain its backup between pauses: pip install -r envs/peers.txt")
    try:
        saver.hook_mode = "torch"
        saver.retain_cpu_backup = True  # which loads the library
    except (OSError, RuntimeError, AttributeError) as error:
        raise Unsupported(f"{_PACKAGE}'s library cannot be loaded: {first_line(error)}") from error
    _try_out(saver, device)
    return saver


def _try_out(saver: Any, device: torch.device) -> None:
    with saver.region(tag="trial", enable_cpu_backup=True):
        trial = torch.full((16 * _GRANULE,), 7, dtype=torch.uint8, device=device)
    synchronize(device)
    before = _driver_free(device)
    saver.pause("trial")
    given_back = _driver_free(device) - before
    saver.resume("trial")
    synchronize(device)
    if device.type == "cuda" and given_back < trial.numel():
        raise Unsupported(f"{_PACKAGE} paused {trial.numel()} bytes, and the driver got {given_back} of them back")
    if not bool((trial == 7).all()):
        raise Unsupported(f"{_PACKAGE} did not restore what it paused")


def _driver_free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


PEER = Peer(
    package=_PACKAGE,
    configuration=(
        "hook mode torch; page-locked backup, retained between pauses; the whole state in one region allocation, made "
        "once, into which it is copied at the pause"
    ),
    workloads=lambda study: study.workloads,
    take=take,
    kill=kill,
)
