"""Forms of a resume side by side in one process: what they share, and how each is validated, warmed up and sampled.

The hand-written forms run on the model itself, and none pays for Djinn's hooks. Each runtime has a twin of the model,
with modules of its own around the same weights. In which order forms run is the experiment's business.
"""

from random import Random

import djinn
from evaluation.measure.cell import Record
from evaluation.measure.harness import Harness, Seen
from evaluation.measure.job import Report
from evaluation.measure.method import Method
from evaluation.measure.models import Subject, twin
from evaluation.methods import benchmark_djinn
from evaluation.methods.benchmark_djinn import make_runtime
from evaluation.methods.offloads import Lane, PinnedOffload
from evaluation.study.plan import Study, Workload

_OF_A_FORM = ("host_bytes_paused", "device_bytes_paused")  # the same in each of its samples, but for what torch rounds
_CLOCKS = ("pause_ms", "ready_ms", "first_kernel_ms", "usable_ms", "next_token_ms", "resident_ms")


class Shared:
    """What the forms of a process share: host memory by hand, and a runtime for each state of the link and codec."""

    def __init__(self, subject: Subject, study: Study) -> None:
        self.subject, self.study = subject, study
        self._unhooked = twin(subject)  # the subject itself has the clocks' hooks, once a form by hand is made
        self._lane = Lane(subject.device)
        self._runtimes: dict[tuple[str, str], tuple[Subject, djinn.Runtime]] = {}

    def method(self, harness: Harness, kind: type[Method]) -> Method:
        """``kind`` as it is measured here."""
        if issubclass(kind, PinnedOffload):
            return harness.method(kind, lane=self._lane)
        if not issubclass(kind, benchmark_djinn.Djinn):
            return harness.method(kind)
        form = kind.link, kind.codec
        if form not in self._runtimes:
            subject = twin(self._unhooked)
            self._runtimes[form] = subject, make_runtime(subject, self.study, link=kind.link, codec=kind.codec)
        subject, runtime = self._runtimes[form]
        return harness.method(kind, subject, runtime=runtime)

    def __enter__(self) -> "Shared":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _, runtime in self._runtimes.values():
            runtime.close()
        self._lane.close()


class Forms:
    """``kinds`` at one workload and layer, by their numbers; raises ``torch.OutOfMemoryError`` where there is no room.

    Whoever moves everything comes first: the others match what it moves.
    """

    def __init__(
        self, shared: Shared, workload: Workload, layer: int, kinds: list[type[Method]], report: Report
    ) -> None:
        self.harness = Harness(shared.subject, shared.study, workload, layer)
        self._methods: list[Method] = []
        self._counts = shared.study.measurement
        self._report = report
        self._seen: list[Seen] = []
        try:
            self._methods += (shared.method(self.harness, kind) for kind in kinds)
            self._prove()
        except BaseException:
            self.close()
            raise
        self._sizes: list[Record] = [{} for _ in kinds]

    def _prove(self) -> None:
        """Validate every form, and warm it up."""
        for method in self._methods:
            self._report(f"{self.harness.where}: validation")
            if self._seen:
                method.match(self._seen[0].sizes)
            self._seen.append(self.harness.validate(method))
        for method in self._methods * (self._counts.validation_samples - 1):
            self.harness.validate(method)
        for method in self._methods * self._counts.warmup_samples:
            self._report(f"{self.harness.where}: warm-up")
            self.harness.sample(method)

    @property
    def frontier_bytes(self) -> int:
        """Bytes of what layer L+1 needs."""
        return self._seen[0].frontier_bytes

    def floor_ms(self) -> float:
        """Time of one raw copy of them, after the same wait."""
        return self.harness.floor_ms(self.frontier_bytes)

    def sample(self, number: int) -> Record:
        """One sample of form ``number``, as a record keeps it."""
        self._report(f"{self.harness.where}: samples")
        taken = self.harness.sample(self._methods[number])
        self._sizes[number] = {name: taken[name] for name in _OF_A_FORM}
        return {"form": number, **{name: taken[name] for name in _CLOCKS}, "bit_exact": taken["bit_exact"]}

    def described(self) -> list[Record]:
        """Each form that was sampled, as a record keeps it."""
        return [
            {
                "method": _name(method),
                "variant": method.variant,
                "keeps": method.keeps,
                "link": method.link,
                "codec": method.codec,
                "state_bytes": sum(found.sizes),
                "kept_bytes": method.device_bytes_by_policy(),
                "reserved_bytes": method.reserved_bytes(),
                "buffer_bytes": method.buffer_bytes(),
                **size,
            }
            for method, found, size in zip(self._methods, self._seen, self._sizes, strict=True)
        ]

    def close(self) -> None:
        """Take the clocks' hooks off the models, and give back what outlives a sample."""
        self.harness.close()
        for method in self._methods:
            method.close()

    def __enter__(self) -> "Forms":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _name(method: Method) -> str:
    if isinstance(method, benchmark_djinn.Djinn):
        return "djinn"
    return "manual_offload" if method.keeps_state else "recompute"


def there_and_back(count: int, chance: Random) -> tuple[list[int], list[int]]:
    """The numbers below ``count`` in a random order, and in the reverse one: whatever drifts falls on all alike."""
    order = chance.sample(range(count), count)
    return order, order[::-1]
