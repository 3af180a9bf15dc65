"""Sessions that are paused at once, of Djinn or by hand, and the turn in which one of them is resumed and timed.

A turn is alike for both. What is free on the device is overwritten, and the session waits. It is resumed, computes to
its end, is compared bit for bit and paused anew. None computes meanwhile. Who is resumed when is the business of
:mod:`evaluation.experiments.load`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

import djinn
from evaluation.measure.cell import Record
from evaluation.measure.device_memory import overwrite_free_memory, synchronize
from evaluation.measure.harness import NotBitExact
from evaluation.measure.models import Subject
from evaluation.measure.programs import Logits, digest, equal, generate_greedily, least_bytes_of_prefill
from evaluation.measure.stopwatch import now_ms, without_collections
from evaluation.methods.benchmark_manual_offload import compared
from evaluation.study.plan import Study


class Prompts:
    """``count`` prompts, the program, and what it must compute of each."""

    def __init__(self, subject: Subject, study: Study, count: int) -> None:
        self.workload = next((one for one in study.workloads if one.kv_cache), study.workloads[0])
        self._steps = study.measurement.decode_steps
        generator = torch.Generator().manual_seed(study.model.seed)
        shape = (count, self.workload.batch, self.workload.tokens)
        self.tokens = torch.randint(subject.model.config.vocab_size, shape, generator=generator).to(subject.device)
        self._expected = [self.program(subject, index) for index in range(count)]
        self._least = least_bytes_of_prefill(subject.model, subject.layers[-1], self.tokens[0], self.workload.kv_cache)

    def program(self, subject: Subject, index: int) -> Logits:
        """The digest of the prefill and of the decode steps."""
        return digest(generate_greedily(subject.model, self.tokens[index], self.workload.kv_cache, self._steps))

    def check_kept(self, who: str, host_bytes: int, why: object = "") -> None:
        """Raise unless a pause that left ``host_bytes`` in host memory can have kept the state there."""
        if host_bytes < self._least:
            kept = f"the pause kept {host_bytes} bytes of a state of at least {self._least}"
            raise NotBitExact(f"load: {who}: {kept}: {why}")

    def check(self, who: str, index: int, found: Logits) -> None:
        """Raise unless ``found`` is what an uninterrupted run of prompt ``index`` computes."""
        if not equal(found, self._expected[index]):
            session = f"session {index} of {len(self._expected)}"
            raise NotBitExact(f"load: {who}: {session} differs from its uninterrupted run")


class Sessions(ABC):
    """Paused sessions of one kind, by the numbers of their prompts."""

    who: str
    freed: list[int]  # bytes of what the last pause took off the device

    def __init__(self, subject: Subject, prompts: Prompts) -> None:
        self.subject, self.prompts = subject, prompts

    @abstractmethod
    def pause(self, index: int) -> None:
        """Pause session ``index`` at the deepest layer."""

    @abstractmethod
    def go_on(self, index: int) -> Callable[[], Callable[[], Logits]]:
        """Resume session ``index`` up to ready; what waits until it is resident, and returns what ends it."""

    def streams(self) -> list[torch.cuda.Stream]:
        """Streams other than the current one for which state is allocated."""
        return []

    def turn(self, index: int, think_time_ms: float) -> Record:
        """Time the resume of session ``index``, let it come to its end, and pause it anew."""
        taken = self.resumed(index, think_time_ms)
        self.pause(index)
        return taken

    def resumed(self, index: int, think_time_ms: float) -> Record:
        """Time the resume of session ``index``, and let it come to its end."""
        device = self.subject.device
        overwrite_free_memory(device, self.freed, self.streams())  # nobody finds again what he does not bring
        synchronize(device)
        time.sleep(think_time_ms / 1000)
        with without_collections():
            start = now_ms()
            wait_resident = self.go_on(index)
            ready_ms = now_ms() - start
            finish = wait_resident()
            resident_ms = now_ms() - start
        self.prompts.check(self.who, index, finish())
        return {"session": index, "ready_ms": ready_ms, "resident_ms": resident_ms, "bit_exact": True}


class Djinns(Sessions):
    """Sessions of ``runtime``, whose model is ``subject``'s."""

    who = "Djinn"

    def __init__(self, subject: Subject, prompts: Prompts, runtime: djinn.Runtime) -> None:
        super().__init__(subject, prompts)
        self._runtime = runtime
        self.open: dict[int, djinn.Session] = {}

    def stopped(self, index: int) -> djinn.Session:
        """Run a new session to the deepest layer."""
        session = self._runtime.open(breakpoint=self._runtime.depth).start(self.prompts.program, self.subject, index)
        if session.wait() is not djinn.Phase.PAUSED:
            session.result()  # raises what went wrong
        self.freed = session.storage_sizes
        return session

    def pause(self, index: int) -> None:
        """Run a new session to the deepest layer and swap it out."""
        self.open[index] = session = self.stopped(index)
        session.io_wait()
        self.prompts.check_kept(self.who, session.host_bytes, session.left_behind)

    def go_on(self, index: int) -> Callable[[], Callable[[], Logits]]:
        """The program computes on a thread of its own from here."""
        session = self.open.pop(index)
        session.resume()

        def wait_resident() -> Callable[[], Logits]:
            session.wait_resident()
            return finish

        def finish() -> Logits:
            found: Logits = session.result()
            session.close()
            return found

        return wait_resident

    def host_bytes(self) -> int:
        """Bytes of the arena that the paused sessions hold."""
        return self._runtime.arena.reserved_bytes


class ByHand(Sessions):
    """``count`` sessions of the hand-written form that is quickest at ready, all of them paused from the start."""

    def __init__(self, subject: Subject, prompts: Prompts, study: Study, count: int) -> None:
        super().__init__(subject, prompts)
        kind = compared(prompts.workload, keeps="nothing", link="idle")[0]
        self.variant, self.who = kind.variant, f"by hand ({kind.variant})"
        first = kind(subject, study, prompts.workload, layer=len(subject.layers), input_ids=prompts.tokens[0])
        self._sessions = [first, *(first.beside(prompts.tokens[index]) for index in range(1, count))]
        for session in self._sessions:
            session.prepare()
            synchronize(subject.device)
            self.freed = session.freed_sizes()
            session.pause()
            prompts.check_kept(self.who, session.host_bytes())
        self.count = count
        self._left = [session.stopped for session in self._sessions]
        for index in range(count):
            self.pause(index)  # so that a resume fills a copy, and what is left stays in host memory
        self._aside = ThreadPoolExecutor(max_workers=1)  # the caller waits for resident while the program computes
        self._aside.submit(int).result()

    @property
    def described(self) -> Record:
        """What it is and holds."""
        host_bytes = sum(session.host_bytes() for session in self._sessions)
        return {"variant": self.variant, "sessions": self.count, "host_bytes": host_bytes}

    def pause(self, index: int) -> None:
        """As it was."""
        self._sessions[index].pause_again(self._left[index])

    def go_on(self, index: int) -> Callable[[], Callable[[], Logits]]:
        """The program computes on a thread of its own as soon as the caller waits."""
        session = self._sessions[index]
        session.resume()

        def wait_resident() -> Callable[[], Logits]:
            ending: Future[Logits] = self._aside.submit(torch.no_grad()(lambda: digest(session.finish())))
            session.wait_resident()
            return ending.result

        return wait_resident

    def streams(self) -> list[torch.cuda.Stream]:
        """That of the copies behind the computation."""
        return self._sessions[0].streams()

    def close(self) -> None:
        """End the threads and give the host memory back."""
        self._aside.shutdown()
        for session in self._sessions:
            session.close()
