"""The record of round trips is refused where it is not what it says, or not what its study asks for."""

import pytest

from evaluation.records.runs import RunError, load_run
from tests.evaluation.round_trips import put_round_trips
from tests.evaluation.synthetic import Synthetic, edit


@pytest.fixture
def run(tmp_path):
    """A run with the record."""
    folder = Synthetic(layers=(1,), samples=1).write(tmp_path / "run")
    put_round_trips(folder, blocks=1)
    return folder


def test_a_whole_record_is_read(run):
    """With its one cell."""
    assert len(load_run(run).beside["editing.json"]["cells"]) == 1


def first(cell):
    """The first sample."""
    return cell["blocks"][0]["samples"][0]


def swap(samples):
    """The first two change places."""
    samples[:2] = samples[1::-1]


LIES = {
    "a sample that is not bit-exact": ("bit_exact", lambda cell: first(cell).update(bit_exact=False)),
    "usable before ready": ("cannot be usable", lambda cell: first(cell).update(usable_ms=0.1)),
    "a form that ran once": ("each form once and then back", lambda cell: cell["blocks"][0]["samples"].pop()),
    "an order that is not mirrored": ("each form once and then back", lambda cell: swap(cell["blocks"][0]["samples"])),
    "a form that nobody ran beside": ("beside a thread", lambda cell: cell["blocks"][0]["watched"].pop()),
    "a first site by hand": ("only Djinn looks", lambda cell: cell["forms"][0].update(site="first")),
    "a form twice": ("two cells of form", lambda cell: cell["forms"][1].update(cell["forms"][0])),
    "another layer": ("not what is edited", lambda cell: cell.update(layer=3)),
    "another workload": ("not what is edited", lambda cell: cell.update(workload="activation")),
    "a block too many": ("2 blocks of the 1", lambda cell: cell["blocks"].append(cell["blocks"][0])),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_name(run, lie):
    """With the file, and what is wrong in it."""
    says, tell = LIES[lie]
    edit(run / "editing.json", lambda record: tell(record["cells"][0]))
    with pytest.raises(RunError, match=f"editing.json.*{says}"):
        load_run(run)


def test_a_record_that_its_study_does_not_ask_for_is_not_read(run):
    """As one that an earlier study left in the folder."""
    for path in run.rglob("*.json"):
        edit(path, lambda found: found.get("study", found).pop("editing", None))
    assert "editing.json" not in load_run(run).beside
