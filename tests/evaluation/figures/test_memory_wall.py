"""The memory wall shows what the capacity records hold: each session's figures, and what stopped the last."""

import pytest

from evaluation.analysis.table import TableError
from evaluation.figures.memory_wall import draw, files, walls
from evaluation.figures.style import private_style
from evaluation.records.runs import load_run
from tests.evaluation.layout import flaws
from tests.evaluation.papers import Results
from tests.evaluation.side_cells import put_cells
from tests.evaluation.synthetic import Synthetic, edit

GIB = 2**30


def cell(variant, gib, stopped_by, *, headline=True):
    """A cell with one figure for each paused session, and one for a refusal."""
    figures = [{"sessions": count, "device_bytes": int(used * GIB)} for count, used in enumerate(gib, start=1)]
    refusal = [{**figures[-1], "device_bytes": 80 * GIB}] if stopped_by != "cap" else []
    end = {"sessions": len(gib), "stopped_by": stopped_by, "figures": [*figures, *refusal]}
    end |= {"arena_bytes": 105 * GIB} if stopped_by == "arena" else {}
    return {"variant": variant, "headline": headline, **end}


@pytest.fixture
def folder(tmp_path):
    """A run with four walls: two of vanilla, two of Djinn."""
    folder = Synthetic(layers=(1, 40), samples=6).write(tmp_path / "results" / "local")
    vanilla = [cell("own_process", [28, 56], "device_oom", headline=False), cell("default", [27, 29, 31], "device_oom")]
    put_cells(folder, "capacity/vanilla.json", vanilla)
    coded = cell("coded", [25.75] * 3, "arena", headline=False)
    put_cells(folder, "capacity/djinn.json", [coded, cell("default", [25.5] * 4, "cap")])
    return folder


def test_lines_are_what_was_read_after_each_pause(folder):
    """One point for each paused session; the figures of a refusal, which no session stands for, are not drawn."""
    found = {wall.label: (wall.sessions, wall.gib, wall.stopped_by) for wall in walls(load_run(folder))}
    assert found == {
        "Vanilla, own weights": ([1, 2], [28, 56], "device_oom"),
        "Vanilla": ([1, 2, 3], [27, 29, 31], "device_oom"),
        "Djinn": ([1, 2, 3, 4], [25.5] * 4, "cap"),
        "Djinn, coded": ([1, 2, 3], [25.75] * 3, "arena"),
    }


def test_every_line_is_named_with_its_end(folder):
    """Number of sessions and what stopped it, inside the figure; the device's memory is a line of its own."""
    with private_style():
        figure = draw(walls(load_run(folder)), 80.0)
        figure.canvas.draw()
        assert not flaws(figure)
        texts = {text.get_text(): text.get_window_extent().x1 for text in figure.axes[0].texts}
    ends = {"Vanilla: 3 (OOM)", "Vanilla, own weights: 2 (OOM)", "Djinn: ≥ 4 (cap)", "Djinn, coded: 3 (arena)"}
    assert texts.keys() == {*ends, "Device memory: 80 GiB"}
    assert max(texts.values()) <= figure.bbox.x1


def test_a_run_without_device_memory_has_no_wall(tmp_path):
    """A functional run has nothing to show."""
    folder = Synthetic(functional=True, layers=(1,), samples=2).write(tmp_path / "results" / "local")
    with pytest.raises(TableError, match="no capacity record holds device memory"):
        walls(load_run(folder))


def test_a_device_of_unknown_memory_is_refused(folder):
    """There is no line to draw for it."""
    edit(folder / "machine.json", lambda machine: machine["gpu"].update(memory_bytes={"unavailable": "no NVML"}))
    with pytest.raises(TableError, match="does not say how much memory the device has"):
        files(Results(root=folder.parents[1]).material(), "")


def coincident(folder):
    """The walls of a GPU on which all methods but vanilla's leave the same bytes behind."""
    vanilla = [27 + 2.05 * count for count in range(25)]
    for name, variant, gib, stopped_by in (
        ("vanilla", "default", vanilla, "device_oom"),
        ("recompute", "default", [26.3] * 80, "cap"),
        ("manual_offload", "pinned", [26.4] * 58, "host_full"),
        ("djinn", "default", [26.4] * 64, "arena"),
    ):
        cells = [cell(variant, gib, stopped_by)]
        if name == "vanilla":
            cells.append(cell("own_process", [28, 56], "device_oom", headline=False))
        put_cells(folder, f"capacity/{name}.json", cells)
    return walls(load_run(folder))


def test_lines_that_coincide_can_be_told_apart(folder):
    """Each has markers at sessions of its own, the same ones beside its name; the wider lines are below."""
    lines = coincident(folder)
    with private_style():
        figure = draw(lines, 80.0)
        assert not flaws(figure)
    axes = figure.axes[0]
    marked = [
        (line.get_marker(), set(line.get_xdata()))
        for line in axes.lines
        if line.get_transform() == axes.transData and line.get_linestyle() == "None" and len(line.get_xdata()) > 1
    ]
    same = {marker: where for marker, where in marked if marker in "^so"}
    assert set(same) == {"^", "s", "o"}
    assert not set.intersection(*same.values())
    assert len(set.union(*same.values())) == sum(len(where) for where in same.values()) >= 6
    shown = [line for line in axes.lines if line.get_transform() == axes.transData and line.get_marker() == "None"]
    flat = [line.get_linewidth() for line in shown if len(line.get_xdata()) > 50]
    assert flat == sorted(flat, reverse=True)
    assert len(set(flat)) == 3
