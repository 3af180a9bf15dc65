"""What tests of the debugger share: a bench on a small model, and a tokenizer that needs no file."""

import pytest
from tests.programs import without_climb

from djinn.debugger.bench import Bench


class Letters:
    """Decodes id 3 as ``<3>``; as much of a tokenizer as the bench needs."""

    def decode(self, ids):
        return "".join(f"<{one}>" for one in ids)


@pytest.fixture(autouse=True)
def _without_climb(monkeypatch):
    without_climb(monkeypatch)


@pytest.fixture
def bench(runtime):
    """A bench with a tokenizer, on the runtime of the small Llama."""
    bench = Bench(runtime, tokenizer=Letters())
    yield bench
    bench.close()


@pytest.fixture
def started(runtime, llama, input_ids):
    """Starts ``generate`` of some tokens, parked after a layer; returns the session."""

    def start(layer=2, *, visit=1, durable=False, new=4):
        session = runtime.open(breakpoint=layer, visit=visit, durable=durable)
        session.start(llama.generate, input_ids, max_new_tokens=new, do_sample=False, eos_token_id=None)
        session.wait(30)
        return session

    return start


@pytest.fixture
def does(bench):
    """Does a line on the bench; returns its lines as one text, and fails if the command has."""

    def do(line, *, confirmed=False):
        outcome = bench.do(line, confirmed=confirmed)
        assert not outcome.failed, outcome.lines
        return "\n".join(outcome.lines)

    return do


@pytest.fixture
def refuses(bench):
    """Does a line on the bench, which must fail in one line; returns that."""

    def do(line):
        outcome = bench.do(line)
        assert outcome.failed
        (said,) = outcome.lines
        assert "\n" not in said
        return said

    return do
