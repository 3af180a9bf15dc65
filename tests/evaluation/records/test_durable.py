"""The record of what a kill leaves is refused where it is not what it says, or not what its study asks for."""

import pytest

from evaluation.records.publish import publish
from evaluation.records.runs import RunError, load_run, side_records
from tests.evaluation.killings import leave_durable_alone, put_durable
from tests.evaluation.synthetic import Synthetic, edit


@pytest.fixture
def run(tmp_path):
    """A run with the record."""
    folder = Synthetic(layers=(1,), samples=1, peers=("memory_saver", "process_checkpoint")).write(tmp_path / "run")
    put_durable(folder)
    return folder


def test_a_whole_record_is_read(run):
    """With a cell of each workload."""
    found = load_run(run)
    assert len(found.beside["durable.json"]["cells"]) == len(found.study["workloads"])


def first(record):
    """The cell of the first workload."""
    return record["cells"][0]


LIES = {
    "a process that ended by itself": ("signal", lambda record: record.update(ended_by_signal=0)),
    "one that was asked to end": ("signal", lambda record: record.update(ended_by_signal=15)),
    "a sample that is not bit-exact": (
        "bit_exact",
        lambda record: first(record)["restores"][0].update(bit_exact=False),
    ),
    "usable before ready": ("cannot be usable", lambda record: first(record)["restores"][0].update(usable_ms=0.01)),
    "an edit of which nothing was saved": ("cannot survive", lambda record: record["kills"][-1].update(saved_bytes=0)),
    "a file that holds too little": ("fewer bytes", lambda record: first(record).update(file_bytes=1)),
    "a save too few": ("not the 3 saves", lambda record: first(record)["saves"].pop()),
    "a restore too few": ("not the 3 saves", lambda record: first(record)["restores"].pop()),
    "a workload that was left out": ("not every workload", lambda record: record["cells"].pop()),
    "a method that was not asked": ("nobody asked .* of vanilla", lambda record: record["kills"].pop(0)),
    "a variant twice": ("two cells of method", lambda record: record["kills"].append(record["kills"][0])),
    "a peer that was not asked": ("not every peer", lambda record: record["peers"].pop()),
    "a peer under which a session survives": ("survives", lambda record: record["peers"][0].update(survives="edit")),
    "another layer": ("not what is edited", lambda record: record.update(layer=3)),
    "another workload": ("not what is edited", lambda record: record.update(edited="activation")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_name(run, lie):
    """With the file, and what is wrong in it."""
    says, tell = LIES[lie]
    edit(run / "durable.json", tell)
    with pytest.raises(RunError, match=f"durable.json.*{says}"):
        load_run(run)


def test_a_study_of_before_asks_for_no_such_record(run):
    """So its run is whole without, and is read and published as ever."""
    for path in run.rglob("*.json"):
        edit(path, lambda found: found.get("study", found).pop("durable", None))
    found = load_run(run)
    assert "durable.json" not in found.beside
    assert "durable.json" not in side_records(found.study)


def test_the_record_alone_is_a_run_that_can_be_published(run, tmp_path):
    """With the probe and the study; nothing else is asked for, and nothing else goes along."""
    leave_durable_alone(run)
    target = publish(run, tmp_path / "published", "h200-durable")
    assert {path.name for path in target.iterdir()} == {"machine.json", "study.json", "durable.json", "SHA256SUMS"}
    found = load_run(target)
    assert (found.records, found.pairs, found.functional) == ([], [], False)


def test_such_a_run_without_its_record_is_none(run, tmp_path):
    """Neither read nor published."""
    leave_durable_alone(run)
    edit(run / "study.json", lambda study: study["experiments"].append("overhead"))
    with pytest.raises(RunError, match=r"overhead.json: missing; the run asks for nothing but such records"):
        publish(run, tmp_path / "published", "h200-durable")
    (run / "durable.json").unlink()
    with pytest.raises(RunError, match=r"holds no record that study.json asks for"):
        load_run(run)
