"""A stand-in for ``pynvml`` over cards that a test describes."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml


@dataclass(frozen=True, kw_only=True)
class Card:
    """What NVML says of one GPU, or of a MIG device, which knows its ``parent``."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    memory_bytes: int = 80 << 30
    parent: "Card | None" = None


@dataclass(kw_only=True)
class FakeNvml:
    """The functions that the evaluation calls. Unknown ones say NotSupported, as NVML does on many cards."""

    cards: list[Card] = field(default_factory=list)
    mig_devices: list[Card] = field(default_factory=list)
    library: bool = True
    driver: str = ""  # refused
    running: tuple[int, ...] = (1, 2)  # processes on any card
    answers: dict = field(default_factory=dict)  # of further functions, by name
    sessions: int = 0  # nvmlInit less nvmlShutdown

    NVMLError = pynvml.NVMLError
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM
    NVML_CLOCK_MEM = pynvml.NVML_CLOCK_MEM
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def nvmlInit(self):  # noqa: N802
        if not self.library:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.sessions += 1

    def nvmlShutdown(self):  # noqa: N802
        self.sessions -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        for card in self.cards + self.mig_devices:
            if card.uuid == uuid:
                return card
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, card):  # noqa: N802
        return card.parent

    def nvmlDeviceGetIndex(self, card):  # noqa: N802
        return self.cards.index(card)

    def nvmlDeviceGetUUID(self, card):  # noqa: N802
        return card.uuid

    def nvmlDeviceGetName(self, card):  # noqa: N802
        return card.name

    def nvmlDeviceGetMemoryInfo(self, card):  # noqa: N802
        return SimpleNamespace(total=card.memory_bytes)

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        if not self.driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.driver

    def nvmlSystemGetCudaDriverVersion(self):  # noqa: N802
        return 13010

    def nvmlDeviceGetComputeRunningProcesses(self, card):  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.running]

    def __getattr__(self, name):
        if name in self.answers:
            return lambda *arguments: self.answers[name]

        def refuse(*arguments):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        return refuse
