"""The table of pairs prints what was compared: ratios, or differences where the frontier is kept, and with whom."""

import re
from dataclasses import replace

import pytest

from evaluation.analysis.comparisons import Comparison, comparisons
from evaluation.analysis.table import TableError
from evaluation.records.runs import load_run
from evaluation.text.numbers_of_use import Tables, numbers_of_use
from evaluation.text.pairs import files, groups, table
from tests.evaluation.layout import compiled
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic

LAYERS = (1, 10, 20, 30, 39, 40)
RECIPE = Synthetic(layers=(1,), samples=1, methods=("manual_offload", "djinn"))


def rows(folder, **about):
    """``pairs.csv`` of a run whose pairs are made so."""
    recipe = replace(RECIPE, pairs=SyntheticPairs(**{"rounds": 6, "layers": (1, 40), **about}))
    return comparisons(load_run(recipe.write(folder / "local")), resamples=100)


def ready(which):
    """Djinn takes 0.63 ms, or 0.09 where the frontier is kept; by hand 0.6 and 0.08, in bulk 0.5 at layer 40."""
    kept = which.keeps == "frontier"
    if which.method == "djinn":
        return 0.09 if kept else 0.63
    return 0.08 if kept else 0.5 if (which.variant, which.layer) == ("bulk", 40) else 0.6


def test_each_form_of_djinn_has_its_lines(tmp_path):
    """A line per workload and clock; the strongest form is named, with its layers where it changes."""
    found = groups(rows(tmp_path, ready=ready))
    swapped, kept = "ratio, everything swapped", "difference in ms, frontier kept on the device"
    assert {group.variant: group.heading for group in found} == {
        "default": swapped,
        "attended": f"{swapped}, link attended",
        "kept": kept,
        "kept_attended": f"{kept}, link attended",
        "coded": f"{swapped}, coded to 0.72 of the bytes by hand in host memory, "
        "by 65.0 MB on the device for all sessions together",
    }
    clocks = ["ready", "first kernel", "usable", "next token", "resident"]
    for group in found:
        lines = [(line.workload, line.clock) for line in group.lines]
        without_cache = [("activation", clock) for clock in clocks if clock != "next token"]
        assert lines == ([] if group.variant == "coded" else without_cache) + [("session", clock) for clock in clocks]
    swapped, kept = found[0].lines[4], found[2].lines[4]
    assert [value.middle for value in swapped.values] == ["1.050", "1.260"]
    assert (swapped.pooled.middle, swapped.by_hand) == ("1.155", "ordered (1), bulk (40)")
    assert (kept.values[0].middle, kept.pooled.ends, kept.by_hand) == ("0.010", "0.010 to 0.010", "ordered\\_kept")
    assert (swapped.device, kept.device) == ("0 / 0", "22.0 / 22.0")


@pytest.mark.parametrize(("rounds", "endings"), [(5, set()), (6, {"Low", "High"})])
def test_only_an_interval_has_ends(tmp_path, rounds, endings):
    """Prose may not call the extremes of five processes an interval."""
    names = [number.name for number in numbers_of_use(Tables(pairs=rows(tmp_path, rounds=rounds)))]
    assert {ending for ending in ("Low", "High") if any(name.endswith(ending) for name in names)} == endings
    assert any(name.startswith("DjinnActivationOver") for name in names)


def test_the_share_of_the_bytes_is_that_of_all_layers(tmp_path):
    """From the smallest to the largest; of the form that moves all, and not of one that moves less."""
    found = [
        replace(row, djinn_host_bytes=row.djinn_host_bytes * 5 // 6) if (row.codec, row.layer) == ("auto", 40) else row
        for row in rows(tmp_path)
    ]
    found = [replace(row, by_hand_host_bytes=1) if row.clock != "resident" else row for row in found]
    (heading,) = (group.heading for group in groups(found) if group.variant == "coded")
    assert "coded to 0.60 to 0.72 of the bytes by hand" in heading


def test_a_form_has_the_columns_of_its_layers(tmp_path):
    """What was measured at one layer does not print a row of gaps."""
    found = [row for row in rows(tmp_path) if row.link == "idle" or row.layer == 40]
    assert {group.variant: group.layers for group in groups(found)} == {
        "default": [1, 40],
        "attended": [40],
        "kept": [1, 40],
        "kept_attended": [40],
        "coded": [1, 40],
    }


def test_each_table_says_which_forms_stand_by_resident(tmp_path):
    """There the strongest is not the quickest of all."""
    found = rows(tmp_path)
    text = table(found, functional=False)
    assert text.count("that moves fewer bytes than") == len(groups(found)) == 5


def test_a_range_is_called_so(tmp_path):
    """Below six processes there is no interval of 95 %."""
    assert "the range over processes" in table(rows(tmp_path / "few", rounds=2), functional=False)
    assert r"the 95\,\% interval over processes" in table(rows(tmp_path / "six"), functional=False)


def test_a_difference_below_zero_has_a_minus(tmp_path):
    """Not a hyphen, and no dash between two of them."""
    text = table(rows(tmp_path, ready=lambda which: 0.05 if which.method == "djinn" else 0.06), functional=True)
    assert "$-$0.010 to $-$0.010" in text
    assert r"\textbf{Functional CPU run: not a performance result.}" in text


def test_the_output_is_written_from_the_table(tmp_path):
    """From ``pairs.csv``, in which a run without pairs has no row."""
    results = Results.make(tmp_path, replace(RECIPE, pairs=SyntheticPairs()))
    (written,) = files(results.material(), "")
    assert written == table(results.material().rows("pairs", Comparison), functional=False)
    assert re.findall(r"\\label\{(.*)\}", written) == [
        f"tab:pairs{variant}" for variant in ("", "-attended", "-kept", "-kept-attended", "-coded")
    ]
    alone = Results.make(tmp_path / "alone", RECIPE)
    assert alone.material().rows("pairs", Comparison) == []
    with pytest.raises(TableError, match="no pairs"):
        files(alone.material(), "")


def test_a_difference_of_many_milliseconds_has_no_three_decimals(tmp_path):
    """Three digits of the largest of its figures, and no more than three decimals."""
    found = [replace(row, difference_low=-23.236) for row in rows(tmp_path) if row.keeps == "frontier"]
    line = groups(found)[0].lines[0]
    assert (line.values[0].middle, line.values[0].ends) == ("0.0", "$-$23.2 to 0.0")


def test_one_layer_has_no_column_of_all_layers(tmp_path):
    """It would be empty."""
    found = rows(tmp_path)
    one = table([row for row in found if row.layer == 40 and row.link == "attended"], functional=False)
    assert "layers" in table(found, functional=False)
    assert "& --" not in one
    assert "layers" not in one


@pytest.mark.tex
def test_it_fits_the_page(tmp_path):
    """With six layers and three workloads, where the strongest form changes and where it does not.

    Milliseconds may differ much, with long intervals around zero.
    """
    found = rows(tmp_path, layers=LAYERS, ready=ready)
    found += [
        replace(row, workload="decode", difference_low=-23.236, difference_high=19.837, by_hand=by_hand)
        for row in found
        if row.workload == "session"
        for by_hand in [row.by_hand if row.layer == 1 else row.by_hand.replace("ordered", "async")]
    ]
    said = compiled(tmp_path, pairs=table(found, functional=True))
    assert not re.findall(r"Overfull.*|.*Float too large.*", said)
