"""What lanes on CUDA tell the driver at once, seen by stand-ins for torch's events and streams."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

from djinn.memory import copying, lanes

NOT_READY, SUCCESS, ILLEGAL_ADDRESS = 600, 0, 700


class Event:
    """As ``torch.cuda.Event``: it has a handle from its first record on."""

    made = 0

    def __init__(self):
        self.cuda_event, self.told = 0, []

    def record(self, stream):
        self.told.append(("record", stream.cuda_stream))
        if not self.cuda_event:
            Event.made += 1
            self.cuda_event = 1000 + Event.made

    def synchronize(self):
        self.told.append("synchronize")


class Stream(SimpleNamespace):
    stream_id, device_index, device_type = 0, 0, 1

    def query(self):
        return self.idle

    def wait_event(self, event):
        event.told.append(("wait", self.cuda_stream))


@pytest.fixture
def driver(monkeypatch):
    """What was called of the CUDA runtime with the interpreter kept, and the codes with which it answers."""
    told, codes = [], []

    def function(name):
        return lambda *args: (told.append((name, *args)), codes.pop(0) if codes else SUCCESS)[1]

    kept = SimpleNamespace(**{name: function(name) for name in copying._ARGUMENTS})
    monkeypatch.setattr(copying, "_runtime", {ctypes.PyDLL: kept}.__getitem__)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    cudart = SimpleNamespace(cudaError=lambda code: ("error", code), cudaGetErrorString="{0[0]} {0[1]}".format)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    return SimpleNamespace(told=told, codes=codes)


def lane(handle, *, idle=True):
    return lanes._CudaLane(Stream(cuda_stream=handle, idle=idle))


def test_an_urgent_lane_is_a_stream_of_high_priority(driver, monkeypatch):
    """Others have the one that programs have."""
    monkeypatch.setattr(copying, "prepare", lambda: None)
    monkeypatch.setattr(
        torch.cuda,
        "Stream",
        lambda device, priority=0: Stream(cuda_stream=1, idle=True, device=device, priority=priority),
    )
    link = lanes._CudaLink(torch.device("cuda", 0))
    assert [made.stream.priority for made in (link.lane(), link.lane(urgent=True))] == [0, -1]


def test_a_mark_that_is_made_is_recorded_and_waited_for_at_once(driver):
    """By its handle, which it has from the first time on; without ``at_once`` torch does it."""
    first, second, mark = lane(1), lane(2), lanes._CudaMark()
    first.record(mark, at_once=True)
    assert (mark.event.told, driver.told) == ([("record", 1)], [])
    handle = mark.event.cuda_event
    first.record(mark, at_once=True)
    second.wait(mark, at_once=True)
    assert driver.told == [("cudaEventRecord", handle, 1), ("cudaStreamWaitEvent", 2, handle, 0)]
    first.record(mark)
    second.wait(mark)
    assert mark.event.told == [("record", 1), ("record", 1), ("wait", 2)]
    assert len(driver.told) == 2


def test_a_lane_that_is_followed_at_once_keeps_its_mark(driver):
    """None is made or freed for it but the first. Who has no work is not waited for."""
    leader, follower = lane(1, idle=False), lane(2)
    for _ in range(2):
        follower.follow(leader, at_once=True)
    handle = leader._end.event.cuda_event
    waited = ("cudaStreamWaitEvent", 2, handle, 0)
    assert driver.told == [waited, ("cudaEventRecord", handle, 1), waited]
    follower.follow(lane(3), at_once=True)
    assert len(driver.told) == 3


def test_a_wait_asks_the_driver_until_the_mark_is_there(driver):
    """Then it is over: torch would let go of the interpreter. An error of the driver is raised by its name."""
    mark = lanes._CudaMark()
    lane(1).record(mark)
    driver.codes += [NOT_READY, NOT_READY, SUCCESS]
    mark.synchronize_at_once(60)
    asked = ("cudaEventQuery", mark.event.cuda_event)
    assert driver.told == [asked] * 3
    assert mark.event.told == [("record", 1)]
    driver.codes.append(ILLEGAL_ADDRESS)
    with pytest.raises(copying.CudaRuntimeError, match="cudaEventQuery failed: error 700"):
        mark.synchronize_at_once(60)


def test_a_copy_at_once_keeps_the_interpreter(driver):
    """To the device; within host memory a brief one does, by a function that keeps it."""
    lane(7).bring(10, 20, 30, at_once=True)
    assert driver.told == [("cudaMemcpyAsync", 10, 20, 30, 1, 7)]
    for nbytes in (3, copying._BRIEF_BYTES + 1):
        source, target = bytearray(b"x" * nbytes), bytearray(nbytes)
        addresses = [ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (target, source)]
        copying.within_host(*addresses, nbytes, at_once=True)
        assert target == source


def test_addresses_and_handles_are_passed_whole(monkeypatch):
    """Without types a number beyond 32 bits would be cut."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    library = SimpleNamespace(**{name: SimpleNamespace() for name in copying._ARGUMENTS})
    loaded = []
    assert copying._runtime.__wrapped__(lambda name: (loaded.append(name), library)[1]) is library
    assert loaded == ["libcudart.so.13"]
    wide = ctypes.sizeof(ctypes.c_void_p)
    counts = {"cudaMemcpyAsync": 4, "cudaStreamWaitEvent": 2, "cudaEventRecord": 2, "cudaEventQuery": 1}
    for name, count in counts.items():
        function = getattr(library, name)
        assert sum(ctypes.sizeof(one) == wide for one in function.argtypes) == count, name
        assert function.restype is ctypes.c_int


def used(lane):
    """Use ``lane`` in each way that takes its handle."""
    mark = lanes._CudaMark()
    mark.event.cuda_event = 5
    lane.launch(lambda handle: copying._runtime(ctypes.PyDLL).cudaEventQuery(handle))
    lane.bring(10, 20, 30, at_once=True)
    lane.take(10, 20, 30)
    lane.record(mark, at_once=True)
    lane.wait(mark, at_once=True)


@pytest.mark.parametrize("current", [0, 1])
def test_a_handle_is_used_with_the_lane_s_device_as_the_current_one(driver, monkeypatch, current):
    """That of a default stream names none, and the driver knows a kernel of its context alone."""
    kept = copying._runtime(ctypes.PyDLL)
    monkeypatch.setattr(copying, "_runtime", lambda loader: kept)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentStream", lambda device: (0, device, 1), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_setStream", lambda *place: driver.told.append(place), raising=False)
    used(lanes._CudaLane(SimpleNamespace(stream_id=7, device_index=1, device_type=1, cuda_stream=0)))
    calls = [told[0] for told in driver.told if isinstance(told[0], str)]
    assert calls == ["cudaEventQuery", *["cudaMemcpyAsync"] * 2, "cudaEventRecord", "cudaStreamWaitEvent"]
    places = [told if isinstance(told[0], int) else "called" for told in driver.told]
    around = ["called"] if current == 1 else [(7, 1, 1), "called", (0, 1, 1), (0, 0, 1)]
    assert places == around * 5


@pytest.mark.parametrize("model_on", [0, 1])
def test_who_is_led_back_is_on_the_same_device_too(driver, monkeypatch, model_on):
    """A stream that is set makes its device the current one: the caller's own comes last."""
    streams = {0: (3, 0, 1), 1: (4, 1, 1)}
    current = [0]

    def set_stream(stream, device, kind):
        streams[device] = (stream, device, kind)
        current[0] = device

    monkeypatch.setattr(copying, "prepare", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current[0])
    monkeypatch.setattr(torch._C, "_cuda_getCurrentStream", lambda device: streams[device], raising=False)
    monkeypatch.setattr(torch._C, "_cuda_setStream", set_stream, raising=False)
    link = lanes._CudaLink(torch.device("cuda", model_on))
    before = link.position()
    set_stream(9, model_on, 1)
    link.return_to(before)
    assert (current, streams) == ([0], {0: (3, 0, 1), 1: (4, 1, 1)})
