"""A node that is taken away: what can be saved before the deadline is, and of the rest it is said why not."""

import importlib
import threading
import time
from pathlib import Path

import pytest
from tests.programs import equal, greedy, parked

import djinn
from djinn.memory.placement import Residency

STEPS = 4


def durable(runtime, model, ids, layer, *, swapped=False):
    session = runtime.open(breakpoint=layer, visit=2, durable=True).start(greedy, model, ids, STEPS)
    session.wait(30)
    if swapped:
        session.io_wait()
    return session


def slowly(model, ids, steps):
    for _ in range(steps):
        time.sleep(0.1)
        logits = model(ids, use_cache=False).logits
    return [logits]


def test_all_are_saved_and_go_on(runtime, llama, input_ids, tmp_path):
    """Paused, swapped out and computing ones; each file leads to the uninterrupted result."""
    expected = greedy(llama, input_ids, STEPS)
    for layer, swapped in ((2, False), (5, True)):
        durable(runtime, llama, input_ids, layer, swapped=swapped)
    computing = runtime.open(durable=True).start(slowly, llama, input_ids, 3)
    told = runtime.save_all(tmp_path)
    assert [one.path for one in told] == [tmp_path / f"{number}.djinn" for number in (1, 2, 3)]
    assert all(one.path.stat().st_size == one.nbytes for one in told)
    assert computing.phase is djinn.Phase.PAUSED
    assert str(told[0]).startswith("session 1: 0.2 MiB in ")
    for number in (1, 2):
        with runtime.restore(tmp_path / f"{number}.djinn", greedy, llama, input_ids, STEPS) as session:
            session.resume()
            assert equal(session.result(30), expected)
    with runtime.restore(tmp_path / "3.djinn", slowly, llama, input_ids, 3) as session:
        session.resume()
        assert equal(session.result(30), slowly(llama, input_ids, 1))


def test_the_last_touched_is_saved_last(runtime, llama, input_ids, tmp_path, monkeypatch):
    order = []
    save = djinn.Session.save
    monkeypatch.setattr(
        djinn.Session, "save", lambda session, path: order.append(session.number) or save(session, path)
    )
    sessions = [durable(runtime, llama, input_ids, 2) for _ in range(3)]
    sessions[0].step(30)
    told = runtime.save_all(tmp_path)
    assert order == [2, 3, 1]
    assert [one.number for one in told] == [1, 2, 3]


def test_what_is_not_saved_is_named(runtime, llama, input_ids, tmp_path):
    """Not recorded, not started, and a disk that refuses; a session that has ended is not told of."""
    parked(runtime, 2, greedy, llama, input_ids, STEPS)
    runtime.open(durable=True)
    durable(runtime, llama, input_ids, 2)
    (tmp_path / "3.djinn").mkdir()
    runtime.open().start(greedy, llama, input_ids, STEPS).result(30)
    told = runtime.save_all(tmp_path, within=60)
    assert [one.number for one in told] == [1, 2, 3]
    assert all(one.path is None for one in told)
    assert str(told[0]).startswith("session 1 is not saved: session 1 was not recorded")
    assert told[1].reason == "created"
    assert "3.djinn" in told[2].reason


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize("refused", ["copies_from_disk", "copy_of"])
def test_refused_host_memory_costs_one_session_its_file(
    runtime, llama, input_ids, tmp_path, monkeypatch, error, refused
):
    """A limit may be lower than what is free. The others are saved, and it goes on to the same result."""
    first, second = (durable(runtime, llama, input_ids, 2, swapped=True) for _ in range(2))
    real = getattr(Residency, refused)

    def refuse(residency, *args):
        if residency.number == first.number:
            raise error
        return real(residency, *args)

    monkeypatch.setattr(Residency, refused, refuse)
    for copied in (first.fork, lambda: first.save(tmp_path / "1.djinn")):
        with pytest.raises(djinn.HostMemoryFull, match=r"session 1 cannot be .*: .* the system refused"):
            copied()
    told = runtime.save_all(tmp_path)
    assert [one.path is None for one in told] == [True, False]
    assert "the system refused host memory" in told[0].reason
    for session in (first, second):
        session.resume()
        assert equal(session.result(30), greedy(llama, input_ids, STEPS))


def test_a_name_that_no_file_can_have_costs_one_session_its_file(runtime, llama, input_ids, tmp_path):
    """The others are saved."""
    sessions = [durable(runtime, llama, input_ids, 2) for _ in range(2)]
    told = runtime.save_all(tmp_path, names={sessions[0]: "a\0b"})
    assert [one.path is None for one in told] == [True, False]
    assert "null" in told[0].reason


@pytest.mark.parametrize("names", [["one", "one"], ["2", "2"], ["2"]])
def test_two_sessions_of_one_name(runtime, llama, input_ids, tmp_path, names):
    """No file is written over: the second session is told, whether its name was given or is its number."""
    sessions = [durable(runtime, llama, input_ids, 2) for _ in range(2)]
    told = runtime.save_all(tmp_path, names=dict(zip(sessions, names, strict=False)))
    assert [one.path for one in told] == [tmp_path / f"{names[0]}.djinn", None]
    assert told[1].reason == f"its file {names[0]}.djinn is that of session 1 already: give it another name"


def test_no_time_is_left(runtime, llama, input_ids, tmp_path):
    """Who computes and comes to no layer is not waited for, and nothing is begun that would come too late."""
    goes_on = threading.Event()

    def held(model, ids):
        goes_on.wait()
        return model(ids)

    durable(runtime, llama, input_ids, 2)
    computing = runtime.open(durable=True).start(held, llama, input_ids)
    told = runtime.save_all(tmp_path, within=0.0)
    assert [one.reason for one in told] == ["no time was left", "it came to no layer in time"]
    assert list(tmp_path.iterdir()) == []
    goes_on.set()
    computing.close(30)


def test_the_rate_of_the_first_decides_about_the_next(runtime, llama, input_ids, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("djinn.save_all.time.monotonic", lambda: now[0])
    save = djinn.Session.save

    def slow(session, path):
        now[0] += 10
        return save(session, path)

    monkeypatch.setattr(djinn.Session, "save", slow)
    for _ in range(3):
        durable(runtime, llama, input_ids, 2)
    told = runtime.save_all(tmp_path, within=25)
    assert [one.path is not None for one in told] == [True, True, False]
    assert "s are left" in told[2].reason


def test_a_job_is_continued_by_the_next(llama, input_ids, tmp_path, monkeypatch):
    """The example, warned early and twice: its files end with what one uninterrupted job writes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "examples"))
    job = importlib.import_module("continued_job")
    prompts = [input_ids[:1], input_ids[1:]]
    warned = threading.Event()
    warned.set()
    assert job.run(llama, prompts, STEPS, tmp_path, warned) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.djinn", "1.djinn"]
    assert job.run(llama, prompts, STEPS, tmp_path, warned) == 2
    assert job.run(llama, prompts, STEPS, tmp_path, threading.Event()) == 0
    for number, prompt in enumerate(prompts):
        assert (tmp_path / f"{number}.txt").read_text() == f"{job.generate(llama, prompt, STEPS)}\n"


def test_a_folder_that_is_not_there(runtime, tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere"):
        runtime.save_all(tmp_path / "nowhere")
