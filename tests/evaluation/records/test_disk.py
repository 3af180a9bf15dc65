"""The record of sessions beyond host memory is refused where it is not what it says, or not what its study asks for."""

import pytest

from evaluation.records.runs import RunError, load_run, side_records
from tests.evaluation.spillings import put_disk
from tests.evaluation.synthetic import Synthetic, edit


@pytest.fixture
def run(tmp_path):
    """A run with the record."""
    folder = Synthetic(layers=(1,), samples=1).write(tmp_path / "run")
    put_disk(folder)
    return folder


def test_a_whole_record_is_read(run):
    """With one cell."""
    assert len(load_run(run).beside["disk.json"]["cells"]) == 1


def cell(record):
    """The only one."""
    return record["cells"][0]


LIES = {
    "a session that did not come back": ("not every session was resumed", lambda record: cell(record)["resumes"].pop()),
    "one that came back twice": (
        "not every session was resumed",
        lambda record: cell(record)["resumes"][0].update(session=1),
    ),
    "a sample that is not bit-exact": ("bit_exact", lambda record: cell(record)["resumes"][0].update(bit_exact=False)),
    "resident before ready": ("nothing is ready", lambda record: cell(record)["resumes"][0].update(resident_ms=1)),
    "a swap-out too few": ("not every session has its", lambda record: cell(record)["swap_outs"].pop()),
    "bytes that nobody spilled": ("what was spilled", lambda record: cell(record).update(on_disk_bytes=1)),
    "nothing on the disk": (
        "on_disk_bytes",
        lambda record: (
            cell(record).update(on_disk_bytes=0),
            [one.update(spilled_bytes=0) for one in cell(record)["swap_outs"]],
        ),
    ),
    "a session on the disk that came from host memory": (
        "what came back",
        lambda record: cell(record)["resumes"][1].update(on_disk_bytes=0),
    ),
    "more on the disk than there is": (
        "more on the disk than its state",
        lambda record: [
            one.update(on_disk_bytes=one["on_disk_bytes"] + more)
            for one, more in zip(cell(record)["resumes"][1:3], (7, -7), strict=True)
        ],
    ),
    "a plain transfer of less": (
        "as many bytes as a session",
        lambda record: cell(record)["plain"][1].update(nbytes=1),
    ),
    "a refusal without words": ("a refusal has a message", lambda record: cell(record).update(stopped_by="disk")),
    "fewer sessions than asked for": (
        "of 10 that are asked for",
        lambda record: (
            cell(record).update(sessions=9),
            cell(record)["swap_outs"].pop(0),
            cell(record)["resumes"].pop(),
        ),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_name(run, lie):
    """With the file, and what is wrong in it."""
    says, tell = LIES[lie]
    edit(run / "disk.json", tell)
    with pytest.raises(RunError, match=f"disk.json.*{says}"):
        load_run(run)


def test_a_study_of_before_asks_for_no_such_record(run):
    """So its run is whole without, and is read as ever."""
    for path in run.rglob("*.json"):
        edit(path, lambda found: found.get("study", found).pop("disk", None))
    found = load_run(run)
    assert "disk.json" not in found.beside
    assert "disk.json" not in side_records(found.study)
