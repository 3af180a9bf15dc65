"""Resumes among many paused sessions, with the debugger's screen at work beside them and without it.

Random ones of Djinn's sessions are resumed by turns, as in :mod:`evaluation.experiments.load`; every one is compared
bit for bit with its uninterrupted run. In half of the windows of resumes a screen is open on the same runtime, without
a terminal. It is busier than a person: it shows the tokens, the logit lens and the norms of one session, rests for half
a second, and goes to the next. Windows come in the order ABBA. ``FILE`` gets every time, behind each window. The
medians and the 95th percentiles of ready are printed, and the ratio with an interval. The published study does not have
this experiment. It needs Textual, as ``djinn[debugger]`` installs it.
"""

import argparse
import asyncio
import functools
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import djinn
from djinn.debugger.bench import Bench
from djinn.debugger.glances import standing
from djinn.debugger.screen import Debugger
from djinn.memory.host_memory import available_bytes
from evaluation import command
from evaluation.experiments.crowd import Djinns, Prompts
from evaluation.measure.cell import Record
from evaluation.measure.job import build_subject
from evaluation.records.atomic import write_json
from evaluation.study.plan import ConfigError, Study
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve

_LEFT_FREE = 6 << 30  # bytes of host memory that are not for the arena
_LOOK_SECONDS = 1  # at most: the lens waits while a session computes
_REST_SECONDS = 0.5  # between a look at one session and the next
_RESAMPLES = 10_000


@contextmanager
def screen(runtime: djinn.Runtime, chance: random.Random) -> Iterator[dict[str, int]]:
    """Have the debugger's screen look at sessions of ``runtime``, one after another; counts its looks."""
    shown = {"looks": 0, "whole": 0}
    began, over, failed = threading.Event(), threading.Event(), []

    async def work(bench: Bench) -> None:
        app = Debugger(bench)
        async with app.run_test(size=(120, 40)) as pilot:
            began.set()
            while not over.is_set():
                waiting = [one.number for one in runtime.sessions if one.phase is djinn.Phase.IO_WAIT]
                app.begin(f"use {chance.choice(waiting)}")
                until = time.monotonic() + _LOOK_SECONDS
                while time.monotonic() < until and not (over.is_set() or _is_shown(app, bench)):
                    await pilot.pause(0.01)
                if app._look.mark == standing(bench):
                    shown["looks"] += 1
                    shown["whole"] += app._look.whole
                await pilot.pause(_REST_SECONDS)

    def run() -> None:
        bench = Bench(runtime)
        try:
            asyncio.run(work(bench))
        except BaseException as error:  # noqa: BLE001 - said by the caller's thread
            failed.append(error)
        finally:
            began.set()
            bench.close()

    thread = threading.Thread(target=run, name="screen")
    thread.start()
    began.wait()
    try:
        yield shown
    finally:
        over.set()
        thread.join()
    if failed:
        raise RuntimeError("the screen failed, so nothing was beside the resumes") from failed[0]


def _is_shown(app: Debugger, bench: Bench) -> bool:
    """Whether the screen shows all of the selected session, as it stands."""
    return app._busy is None and app._look.whole and app._look.mark == standing(bench)


def take(study: Study, sessions: int, windows: int, resumes: int, report: Callable[[str], None]) -> Iterator[Record]:
    """Yield every resume so far, behind each window: ``windows`` with the screen, as many without, of ``resumes``."""
    subject = build_subject(study)
    prompts = Prompts(subject, study, sessions)
    nbytes = int(study.load_host_arena_gib * 2**30)
    if subject.device.type == "cuda":
        nbytes = min(nbytes, available_bytes() - _LEFT_FREE)
    chance = random.Random(study.order_seed)
    kinds = ([True, False, False, True] * windows)[: 2 * windows]
    samples: list[Record] = []
    with djinn.Runtime(subject.model, host_memory_bytes=nbytes) as runtime:
        runtime.arena.wait_grown()
        djinns = Djinns(subject, prompts, runtime)
        for index in range(sessions):
            report(f"session {index + 1} of {sessions}")
            djinns.pause(index)
        djinns.turn(0, study.measurement.think_time_ms)
        for number, beside in enumerate(kinds):
            report(f"window {number + 1} of {len(kinds)}")
            samples += _window(djinns, runtime, study, resumes, number, beside, chance)
            yield {"sessions": sessions, "model": study.model.name, "samples": samples}
        for session in djinns.open.values():
            session.close()


def _window(
    djinns: Djinns, runtime: djinn.Runtime, study: Study, resumes: int, number: int, beside: bool, chance: random.Random
) -> list[Record]:
    def turns() -> list[Record]:
        chosen = [chance.choice(sorted(djinns.open)) for _ in range(resumes)]
        return [djinns.turn(index, study.measurement.think_time_ms) for index in chosen]

    if not beside:
        return [{"window": number, "screen": False, **turn} for turn in turns()]
    with screen(runtime, random.Random(number)) as shown:
        taken = turns()
    return [{"window": number, "screen": True, **shown, **turn} for turn in taken]


def compare(record: Record) -> Iterator[str]:
    """Yield what the times say: ready in ms, and the ratio at the 95th percentile, windows resampled."""
    windows: dict[bool, dict[int, list[float]]] = {True: {}, False: {}}
    for sample in record["samples"]:
        windows[sample["screen"]].setdefault(sample["window"], []).append(sample["ready_ms"])
    for beside, words in ((False, "alone"), (True, "beside the screen")):
        times = np.concatenate([*windows[beside].values()])
        median, high = np.percentile(times, [50, 95])
        yield f"ready {words}: median {median:.3f} ms, 95th percentile {high:.3f} ms, of {len(times)} resumes"
    counts = {one["window"]: (one["looks"], one["whole"]) for one in record["samples"] if one["screen"]}
    looks, whole = map(sum, zip(*counts.values(), strict=True))
    yield f"the screen showed {looks} looks, {whole} of them whole"
    ratios = [_ratio(windows, np.random.default_rng(number)) for number in range(_RESAMPLES)]
    low, high = np.percentile(ratios, [2.5, 97.5])
    yield f"beside the screen over alone, 95th percentile: {_ratio(windows):.3f} ({low:.3f} to {high:.3f})"


def _ratio(windows: dict[bool, dict[int, list[float]]], chance: np.random.Generator | None = None) -> float:
    highs = []
    for beside in (True, False):
        taken = list(windows[beside].values())
        if chance is not None:
            taken = [taken[index] for index in chance.integers(len(taken), size=len(taken))]
        highs.append(np.percentile(np.concatenate(taken), 95))
    return float(highs[0] / highs[1])


def main() -> int:
    """Command line; returns the exit status."""
    parser = command.parser("experiments.beside_debugger", __doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="what was measured, as JSON")
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    parser.add_argument("--sessions", type=int, default=64, help="paused at once (default 64)")
    parser.add_argument("--windows", type=int, default=10, help="of either kind (default 10)")
    parser.add_argument("--resumes", type=int, default=20, help="in a window (default 20)")
    given = parser.parse_args()
    return command.run(lambda: _do(given))


def _do(given: argparse.Namespace) -> None:
    for name in ("sessions", "windows", "resumes"):
        if getattr(given, name) < 1:
            raise ConfigError(f"--{name} {getattr(given, name)}: at least 1 is needed")
    study = resolve(load_config(given.config))
    with torch.no_grad():
        report = functools.partial(print, file=sys.stderr)
        for record in take(study, given.sessions, given.windows, given.resumes, report):
            write_json(given.file, record)
    print("\n".join(compare(json.loads(given.file.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    sys.exit(main())
