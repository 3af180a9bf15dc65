"""Lines show their bars, their names and where samples are few."""

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from evaluation.figures.lines import HOLLOW, Curve, logarithmic, name_ends, name_layers, plot
from evaluation.figures.style import private_style
from tests.evaluation.layout import flaws

LAYERS = (1, 10, 20, 30, 39, 40)


def curve(name, height=1.0, layers=LAYERS):
    medians = [height] * len(layers)
    ends = {"lows": [0.9 * height] * len(layers), "highs": [1.1 * height] * len(layers)}
    style = {"color": "#111111", "marker": "o", "linestyle": "-"}
    return Curve(label=name, style=style, layers=layers, medians=medians, **ends, ranged=[False] * len(layers))


def axes_of(lines):
    axes = Figure(figsize=(3, 2)).add_axes((0.1, 0.15, 0.55, 0.8))
    plot(axes, lines)
    name_layers(axes, lines)
    return axes


def test_what_has_a_range_is_hollow():
    """The marker of each such point, and no other; every bar has the ends that the point has."""
    axes = axes_of([replace(curve("Djinn"), ranged=[index == 2 for index in range(6)])])
    line, hollow = axes.lines
    assert (list(line.get_xdata()), list(hollow.get_xdata())) == (list(LAYERS), [20])
    assert (line.get_markerfacecolor(), hollow.get_markerfacecolor()) == ("#111111", HOLLOW)
    ends = [tuple(path[:, 1]) for bars in axes.collections for path in bars.get_segments()]
    assert ends == [(pytest.approx(0.9), pytest.approx(1.1))] * 6


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (LAYERS, ["1", "10", "20", "30", "39, 40"]),
        ((1, 20, 40, 60, 79, 80), ["1", "20", "40", "60", "79, 80"]),
        ((1, 20, 39), ["1", "20", "39"]),
    ],
)
def test_the_last_two_layers_share_a_name_on_the_axis(layers, names):
    """Each has a tick, and their numbers do not lie on each other."""
    with private_style():
        axes = axes_of([curve("Djinn", layers=layers)])
        assert not flaws(axes.figure)
        assert list(axes.get_xticks()) == list(layers)
        shown = [text for text in axes.get_xticklabels(which="both") if text.get_text()]
        assert [text.get_text() for text in sorted(shown, key=lambda text: text.get_position()[0])] == names
        assert len({round(text.get_window_extent().y1, 1) for text in shown}) == 1


def test_a_logarithmic_axis_has_numbers_and_none_for_zero():
    """At 1, 2 and 5 within two decades, and at the decades in more; a time of 0 has no place on one."""
    for heights, scale, tick in (((0.3, 1), "log", 0.5), ((0.001, 10), "log", 0.1), ((0, 1), "linear", 0.0)):
        lines = [curve("line", height) for height in heights]
        axes = axes_of(lines)
        logarithmic(axes, lines)
        assert axes.get_yscale() == scale
        assert any(abs(tick - at) < 1e-9 for at in axes.get_yticks())
        assert (0.2 in axes.get_yticks()) == (heights[0] == 0.3)


@pytest.mark.parametrize(("heights", "leaders"), [((1, 2), 2), ((1, 1.0001), 1), ((1, 1.0001, 2), 2)])
def test_no_two_leaders_start_at_one_point(heights, leaders):
    """Names whose ends coincide are in one bracket; all are apart, the highest line's above."""
    lines = [curve(f"line {index}", height) for index, height in enumerate(heights)]
    with private_style():
        axes = axes_of(lines)
        name_ends(axes, lines)
        assert not flaws(axes.figure)
    thin = [line for line in axes.lines if line.get_color() == "0.55"]
    starts = [line.get_xydata()[0] for line in thin if line.get_xdata()[0] != line.get_xdata()[-1]]
    assert len(starts) == len({tuple(start) for start in starts}) == leaders
    assert len(thin) - leaders == (leaders < len(lines))
    names = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert sorted(names, key=names.__getitem__) == [line.label for line in lines]
