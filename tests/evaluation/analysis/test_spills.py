"""The table of sessions beyond host memory tells each way between the tiers, and mixes none."""

from evaluation.analysis.spills import spillings
from evaluation.records.runs import load_run
from evaluation.text.numbers_of_use import Tables, numbers_of_use
from tests.evaluation.spillings import HELD, SESSIONS, STATE_BYTES, put_disk
from tests.evaluation.synthetic import Synthetic


def rows_of(folder):
    run = Synthetic(layers=(1,), samples=1).write(folder / "run")
    put_disk(run)
    return spillings(load_run(run))


def test_each_way_has_its_row(tmp_path):
    """A resume that spills another session is in none: it waits for two transfers."""
    rows = {row.metric: row for row in rows_of(tmp_path)}
    assert {name: (row.n, row.median) for name, row in rows.items()} == {
        "swap_out_ms": (HELD, 100),
        "spilling_ms": (SESSIONS - HELD, 902.5),
        "ready_ms": (HELD - 1, 5),
        "ready_spilled_ms": (SESSIONS - HELD, 603.5),
        "resident_ms": (HELD - 1, 45),
        "resident_spilled_ms": (SESSIONS - HELD, 643.5),
        "write_ms": (2, 800),
        "read_ms": (2, 500),
    }
    assert {(row.sessions, row.on_disk, row.state_bytes) for row in rows.values()} == {
        (SESSIONS, SESSIONS - HELD, STATE_BYTES)
    }


def test_a_run_without_the_record_has_none(tmp_path):
    """As every older one."""
    assert spillings(load_run(Synthetic(layers=(1,), samples=1).write(tmp_path / "run"))) == []


def test_the_numbers_say_how_many_and_how_long(tmp_path):
    """Ends stand where there is an interval."""
    tables = Tables(disk=rows_of(tmp_path))
    found = {number.name: number.value for number in numbers_of_use(tables) if number.name.startswith("Disk")}
    assert (found["DiskSessions"], found["DiskSpilledSessions"], found["DiskArenaGib"]) == (SESSIONS, 6, 4)
    assert (found["DiskReadySpilledMs"], found["DiskReadMs"], found["DiskStateMb"]) == (603.5, 500, 1000)
    assert "DiskSpillingMsLow" in found
    assert "DiskReadMsLow" not in found
