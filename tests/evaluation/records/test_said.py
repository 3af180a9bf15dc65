"""What is printed of a record that was measured by hand."""

import json

import pytest

from evaluation.records.said import said
from tests.evaluation.synthetic import EVERY, Synthetic


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Every kind of record of a run, functional or not, by place."""

    def read(functional):
        folder = Synthetic(layers=(1, 10), samples=2, beside=EVERY, functional=functional).write(
            tmp_path_factory.mktemp("said") / "local"
        )
        places = [path for path in folder.rglob("*.json") if path.name not in ("machine.json", "study.json")]
        return {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in places}

    return read


def test_every_kind_of_record_says_a_few_lines(records):
    """What leads, with its medians; how many more there are."""
    found = {place: list(said(record)) for place, record in records(False).items()}
    assert all(found.values())
    lines = found["raw/djinn/layer_1/round_1.json"]
    assert [line.partition(": ready ")[0] for line in lines[:2]] == ["activation, default", "session, default"]
    assert lines[0].endswith("ms, medians of 2, all bit-exact")
    assert any("paused sessions, stopped by" in line for line in found["capacity/vanilla.json"])
    assert any("an edit is lost" in line for line in found["capabilities/recompute.json"])
    assert found["overhead.json"][0].startswith("prefill: ")


def test_a_functional_record_says_first_that_it_is_one(records):
    """Before any time."""
    for record in records(True).values():
        assert next(said(record)) == "A functional run on the CPU: no time says anything."
