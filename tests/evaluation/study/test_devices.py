"""Which GPU the study takes, over a stand-in for NVML."""

import pytest
import torch

from evaluation.study import devices
from evaluation.study.devices import DeviceError, Gpu, choose_device, visible_gpu
from tests.evaluation.nvml import Card, FakeNvml

BIG = Card(uuid="GPU-aaaa-1111")
SMALL = Card(uuid="GPU-bbbb-2222", name="NVIDIA L4", memory_bytes=24 << 30)
SLICE = Card(uuid="MIG-cccc-3333", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory_bytes=10 << 30, parent=BIG)
GPU = Gpu(index=0, name=BIG.name, memory_bytes=BIG.memory_bytes)


@pytest.fixture
def nvml(monkeypatch):
    """Two cards, and nothing in the environment."""
    fake = FakeNvml(cards=[BIG, SMALL], mig_devices=[SLICE])
    monkeypatch.setattr(devices, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield fake
    assert fake.sessions == 0, "NVML was not shut down"


@pytest.mark.parametrize(
    ("visible", "card"),
    [
        (None, BIG),
        ("0", BIG),
        ("1,0", SMALL),
        (" 1 ", SMALL),
        ("GPU-bbbb-2222", SMALL),
        ("GPU-bb", SMALL),
        ("MIG-cccc-3333", SLICE),
        ("", None),
        ("-1", None),
        ("7", None),
        ("NoDevFiles", None),
        ("MIG-gone", None),
    ],
)
def test_the_environment_chooses_as_it_does_for_cuda(nvml, monkeypatch, visible, card):
    """The first entry of CUDA_VISIBLE_DEVICES is the GPU; an entry that names none hides them all."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = visible_gpu()
    if card is None:
        assert found is None
    else:
        assert (found.name, found.memory_bytes) == (card.name, card.memory_bytes)
        assert nvml.cards[found.index] is (card.parent or card)


def test_no_nvml_and_no_card_are_no_gpu(nvml):
    """A machine without the driver's library, or with the library and no card, has no GPU."""
    nvml.cards = []
    assert visible_gpu() is None
    nvml.library = False
    assert visible_gpu() is None


def test_a_machine_without_gpu_makes_a_functional_run_unless_one_was_asked_for():
    """``auto`` and ``cpu`` give the CPU; ``cuda`` is refused with what is allowed."""
    assert choose_device("auto", None) == "cpu"
    assert choose_device("cpu", None) == "cpu"
    with pytest.raises(DeviceError, match="device: cuda.*allowed here: auto, cpu"):
        choose_device("cuda", None)


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_that_torch_cannot_use_is_an_error(monkeypatch, wanted):
    """A GPU that NVML sees and torch does not never leads to a functional run, unless the CPU was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"NVIDIA H100 80GB HBM3.*cannot use it.*device: cpu"):
        choose_device(wanted, GPU)
    assert choose_device("cpu", GPU) == "cpu"


def test_a_gpu_that_torch_can_use_is_taken(monkeypatch):
    """Where both see it, ``auto`` and ``cuda`` give the GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert {choose_device("auto", GPU), choose_device("cuda", GPU)} == {"cuda"}


@pytest.mark.gpu
def test_nvml_and_torch_mean_the_same_card():
    """What NVML is asked for is what CUDA calls device 0."""
    gpu = visible_gpu()
    properties = torch.cuda.get_device_properties(0)
    assert gpu.name == properties.name
    assert 0 <= gpu.memory_bytes - properties.total_memory < 2 << 30
