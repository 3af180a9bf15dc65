"""The probe and the provenance: valid with and without a GPU, and nothing private in them."""

import getpass
import json
import platform
from pathlib import Path

import pynvml
import pytest

from evaluation.records import nvml as questions
from evaluation.records import probe, provenance
from evaluation.study import devices
from evaluation.study.devices import DeviceError, Gpu, choose_device, visible_gpu


class FakeNvml:
    """NVML of a machine with one GPU that answers some questions and refuses others."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVMLError = pynvml.NVMLError
    name = "NVIDIA L4"

    def __init__(self, count=1):
        self._count = count

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetCount": self._count,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetName": self.name,
            "nvmlDeviceGetMemoryInfo": type("Memory", (), {"total": 23 << 30}),
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlSystemGetCudaDriverVersion": 13000,
            "nvmlDeviceGetPowerManagementLimit": 72_000,
            "nvmlDeviceGetEccMode": (1, 1),
            "nvmlDeviceGetComputeRunningProcesses": [type("Process", (), {"pid": 1})],
        }
        if name in ("nvmlInit", "nvmlShutdown"):
            return lambda: None
        if name in answers:
            return lambda *arguments: answers[name]

        def refuse(*arguments):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        return refuse


@pytest.fixture
def nvml(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = FakeNvml()
    monkeypatch.setattr(devices, "pynvml", fake)
    monkeypatch.setattr(probe, "pynvml", fake)
    monkeypatch.setattr(questions, "pynvml", fake)
    return fake


def test_probe_of_this_machine_is_valid():
    """On whatever runs the tests: the schema holds, and each missing field says why."""
    found = probe.probe()
    probe.check_machine(json.loads(json.dumps(found)))
    if found["functional"]:
        assert found["ceilings"]["pinned_h2d_gbps"] == {"unavailable": "no GPU on this machine"}
    assert found["ceilings"]["host_copy_gbps"]["median"] > 0


def test_probe_names_no_machine_user_or_folder():
    """The page can be published as it is."""
    text = json.dumps(probe.probe())
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert getpass.getuser() not in json.dumps(probe.probe()["host"])


def test_gpu_fields_are_values_or_reasons(nvml):
    """What NVML answers is kept with its unit; what it refuses keeps the refusal."""
    found = probe._gpu(visible_gpu())
    assert found["name"] == "NVIDIA L4"
    assert found["memory_bytes"] == 23 << 30
    assert found["cuda_driver"] == "13.0"
    assert found["power_limit_watts"] == 72
    assert found["ecc"] is True
    assert found["other_processes"] == 1
    assert found["mig"] == {"unavailable": "Not Supported"}


@pytest.mark.parametrize(("name", "found"), [("NVIDIA\x1b L4\n", "NVIDIA L4"), (b"NVIDIA \xff L4", "NVIDIA \ufffd L4")])
def test_names_have_no_control_characters(nvml, name, found):
    """Whatever a driver says."""
    gpu = visible_gpu()
    nvml.name = name
    assert probe._gpu(gpu)["name"] == found


def test_a_name_of_nothing_is_no_name(nvml):
    """And not a name that prints as nothing."""
    gpu = visible_gpu()
    nvml.name = "\x00\n"
    assert probe._gpu(gpu)["name"] == {"unavailable": "it has no name"}


def test_a_field_that_is_neither_is_refused():
    """The schema has no room for a bare null."""
    found = probe.probe()
    found["gpu"]["mig"] = None
    with pytest.raises(ValueError, match=r"^gpu\.mig"):
        probe.check_machine(found)


def test_hidden_gpus_are_not_seen(nvml, monkeypatch):
    """CUDA_VISIBLE_DEVICES counts: by index, by UUID, and empty for none."""
    assert visible_gpu() == Gpu(index=0, name="NVIDIA L4", memory_bytes=23 << 30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert visible_gpu() is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpu() is None


def test_a_gpu_that_torch_cannot_use_is_an_error(monkeypatch):
    """Not a functional run, which would hide it; asking for the CPU is allowed."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    gpu = Gpu(index=0, name="NVIDIA L4", memory_bytes=23 << 30)
    with pytest.raises(DeviceError, match="NVML finds a NVIDIA L4, but torch .* cannot use it"):
        choose_device("auto", gpu)
    assert choose_device("cpu", gpu) == "cpu"
    assert choose_device("auto", None) == "cpu"
    with pytest.raises(DeviceError, match="allowed here: auto, cpu"):
        choose_device("cuda", None)


def test_source_digest_follows_measuring_code_only(tmp_path, monkeypatch):
    """A change of the system or the harness changes the digest; one of the paper's tools does not."""
    for name in ("djinn/core.py", "evaluation/measure/harness.py", "evaluation/figures/crossover.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)
    before = provenance.source_sha256()
    (tmp_path / "evaluation/figures/crossover.py").write_text("x = 2\n")
    assert provenance.source_sha256() == before
    (tmp_path / "djinn/core.py").write_text("x = 2\n")
    assert provenance.source_sha256() != before


def test_git_state_without_a_repository(tmp_path, monkeypatch):
    """A reason instead of a commit."""
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)
    assert provenance.git_state() == {"unavailable": "the sources are not tracked by git"}
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state() == {"unavailable": "git is not installed"}
