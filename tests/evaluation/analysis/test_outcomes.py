"""How many sessions fit and whether edits survive: from the records of a run to its tables."""

import csv
from dataclasses import replace

import pytest

from evaluation.analysis.outcomes import device_bytes_each
from evaluation.records.runs import RunError, load_run
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import GIB, Synthetic, edit, probe, wall

CELLS = {
    "capacity/vanilla.json": [
        wall("own_process", 2, "device_oom", headline=False),
        wall("default", 25, "device_oom", headline=True),
    ],
    "capacity/manual_offload.json": [
        wall("pageable", 64, "cap", headline=False),
        wall("pinned", 48, "host_full", headline=True),
    ],
    "capacity/djinn.json": [wall("default", 63, "arena", headline=True, arena_bytes=105 * GIB)],
    "capabilities/vanilla.json": [probe("default", True, True, 0, [0.1, 0.3, 0.2], headline=True)],
    "capabilities/recompute.json": [
        probe("replay", True, True, 12, [57.9, 58.1, 58.0], headline=False),
        probe("default", False, False, 7, [57.0, 57.0, 57.0], headline=True),
    ],
    "capabilities/manual_offload.json": [probe("pinned", True, False, 31, [0.6], headline=True)],
    "capabilities/djinn.json": [probe("default", True, True, None, [0.6], headline=True)],
}


RECIPE = Synthetic(layers=(1, 40), samples=6, beside=CELLS)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run with what was measured besides, which no test changes."""
    return Results.make(tmp_path_factory.mktemp("outcomes"), RECIPE)


def rows(results, name):
    """The table ``name`` as it is printed."""
    with results.summary.with_name(name).open() as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def test_capacity_is_tabled_headline_first(results):
    """Bytes are those of the moment of the refusal; a method without a record has no row."""
    with results.summary.with_name("capacity.csv").open() as file:
        header = file.readline().strip()
    assert header == "run,method,variant,sessions,stopped_by,device_bytes,host_bytes,arena_bytes"
    used = str(79 * GIB)
    assert rows(results, "capacity.csv") == [
        ("local", "vanilla", "default", "25", "device_oom", used, "25", ""),
        ("local", "vanilla", "own_process", "2", "device_oom", used, "2", ""),
        ("local", "manual_offload", "pinned", "48", "host_full", used, "48", ""),
        ("local", "manual_offload", "pageable", "64", "cap", used, "64", ""),
        ("local", "djinn", "default", "63", "arena", used, "63", str(105 * GIB)),
    ]


def test_what_each_session_takes_of_the_device(tmp_path):
    """Between the first and the last that was paused, by the driver's count; None where nobody counted."""
    each = {"variant": "default", "headline": True, "sessions": 3, "stopped_by": "cap", "bit_exact": True}
    figures = [{"sessions": count, "device_bytes": GIB + (count << 26), "host_bytes": 0} for count in (1, 2, 3)]
    beside = {"capacity/djinn.json": [{**each, "figures": figures}]}
    run = load_run(replace(RECIPE, beside=beside).write(tmp_path / "local"))
    assert device_bytes_each(run, "djinn") == 64 << 20
    assert device_bytes_each(run, "vanilla") is None


def test_capabilities_are_tabled(results):
    """Verdicts, lines, and the median of the probe's resumes."""
    assert rows(results, "capabilities.csv")[:3] == [
        ("local", "vanilla", "default", "true", "true", "0", "0.2", "3"),
        ("local", "recompute", "default", "false", "false", "7", "57", "3"),
        ("local", "recompute", "replay", "true", "true", "12", "58", "3"),
    ]


def test_a_method_without_a_record_has_no_rows(tmp_path):
    """Nor has a run that was measured before there were such records."""
    results = Results.make(tmp_path, replace(RECIPE, beside={}))
    assert rows(results, "capacity.csv") == rows(results, "capabilities.csv") == []


def test_records_of_other_code_make_a_mixed_run(tmp_path):
    """As with every other record."""
    folder = RECIPE.write(tmp_path / "local")
    edit(folder / "capacity/djinn.json", lambda record: record["provenance"].update(source_sha256="0" * 64))
    with pytest.raises(RunError, match=r"capacity/djinn.json: mixed run: another source digest"):
        load_run(folder)
