"""The size sweep: what is measured of each size, and the depth at which recompute and a copy cross."""

import csv
import json
import sys

import pytest

from evaluation.analysis.crossings import crossings, orders, quickest
from evaluation.experiments import sweep
from evaluation.measure.job import run_side_job
from evaluation.records.runs import load_run
from evaluation.study.plan import ConfigError
from evaluation.study.resolve import resolve
from tests.evaluation.papers import Results
from tests.evaluation.side_cells import put_cells
from tests.evaluation.synthetic import Synthetic

SMALL = {
    "device": "cpu",
    "functional": {
        "think_time_ms": 0,
        "warmup_samples": 0,
        "sweep": {"layers": [1, 3], "samples": 2, "sizes": [{"batch": 1, "tokens": 8}, {"batch": 2, "tokens": 16}]},
    },
}


def test_every_size_layer_and_variant_is_measured(monkeypatch, tmp_path):
    """Each with its samples, all of them bit-exact, and its bytes, which follow the size."""
    (tmp_path / "study.json").write_text(json.dumps(resolve(SMALL).to_json()))
    out = tmp_path / "sweep.json"
    monkeypatch.setattr(sys, "argv", ["sweep", "--study", str(tmp_path / "study.json"), "--out", str(out)])
    assert run_side_job("sweep", "", sweep.take) == 0
    cells = json.loads(out.read_text())["cells"]
    variants = [
        ("recompute", "graphed"),  # unsupported here
        *[("recompute", "default"), ("recompute", "compiled")],
        *[("manual_offload", "pinned"), ("manual_offload", "pageable")],
    ]
    assert [(c["batch"], c["tokens"], c["layer"], c["method"], c["variant"]) for c in cells] == [
        (batch, tokens, layer, *variant)
        for batch, tokens in ((1, 8), (2, 16))
        for layer in (1, 3)
        for variant in variants
    ]
    for cell in cells:
        if cell["variant"] == "graphed":
            assert (cell["outcome"], cell["message"]) == ("unsupported", "a CUDA graph needs a GPU")
            continue
        assert [sample["bit_exact"] for sample in cell["samples"]] == [True, True]
        assert cell["frontier_bytes"] == cell["batch"] * cell["tokens"] * 64 * 2 + cell["tokens"] * (2 * 16 * 2 + 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [1, 41]}, "config: sweep.layers: 41 is beyond llama-2-tiny"),
        ({"sizes": [{"batch": 1, "tokens": 4096}]}, "config: workloads: sweep 1x4096: 4096 tokens"),
        ({"layers": [1]}, "config: functional.sweep.layers: "),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    """Before anything runs, by name."""
    rows = {**SMALL["functional"]["sweep"], **change}
    with pytest.raises(ConfigError) as caught:
        resolve({"device": "cpu", "functional": {"sweep": rows}})
    assert str(caught.value).startswith(message)


def cell(variant, layer, ready, *, tokens=128):
    """A cell whose samples lie around ``ready`` ms; none where that is None."""
    samples = [] if ready is None else [{"ready_ms": ready + shift} for shift in (-0.1, 0, 0.1)]
    method = "recompute" if variant in ("default", "graphed") else "manual_offload"
    return {"batch": 1, "tokens": tokens, "layer": layer, "method": method, "variant": variant, "samples": samples}


def test_where_they_cross(tmp_path):
    """Recompute at 1 + 2 L ms meets 5 ms at layer 2, and 0.5 ms before the first; a refused cell has no numbers."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    cells = [cell("default", 1, 3.0), cell("default", 11, 23.0), cell("pageable", 1, 4.9), cell("pageable", 11, 5.1)]
    cells += [cell("pinned", 1, 0.5), cell("pinned", 11, 0.5)]
    cells += [
        cell("default", 1, 3.0, tokens=512),
        cell("default", 11, None, tokens=512),
        cell("pageable", 1, None, tokens=512),
        cell("pageable", 11, None, tokens=512),
        cell("pinned", 1, 1.0, tokens=512),
        cell("pinned", 11, None, tokens=512),
    ]
    put_cells(results.folder, "sweep.json", cells)
    results.aggregate()
    with results.summary.with_name("sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("run", "batch", "tokens", "method", "variant", "layer"),
        *("ready_ms", "ci_low", "ci_high", "n", "crossover_layer"),
    ]
    found = {(row["tokens"], row["variant"], row["layer"]): (row["ready_ms"], row["crossover_layer"]) for row in rows}
    assert found == {
        ("128", "default", "1"): ("3", ""),
        ("128", "default", "11"): ("23", ""),
        ("128", "pageable", "1"): ("4.9", "2"),
        ("128", "pageable", "11"): ("5.1", "2"),
        ("128", "pinned", "1"): ("0.5", "-0.25"),
        ("128", "pinned", "11"): ("0.5", "-0.25"),
        ("512", "default", "1"): ("3", ""),
        ("512", "default", "11"): ("", ""),
        ("512", "pageable", "1"): ("", ""),
        ("512", "pageable", "11"): ("", ""),
        ("512", "pinned", "1"): ("1", ""),
        ("512", "pinned", "11"): ("", ""),
    }


def test_recompute_is_its_quickest_variant_at_each_size_and_layer(tmp_path):
    """Whichever that is: the line through 2 ms at layer 1 and 12 at layer 11 meets 5 ms at layer 4."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    cells = [cell("default", 1, 3.0), cell("graphed", 1, 2.0), cell("default", 11, 12.0), cell("graphed", 11, 14.0)]
    cells += [cell("pinned", 1, 5.0), cell("pinned", 11, 5.0)]
    put_cells(results.folder, "sweep.json", cells)
    rows = crossings(load_run(results.folder))
    assert [row.crossover_layer for row in rows if row.variant == "pinned"] == pytest.approx([4, 4])
    drawn = [(row.variant, row.layer) for row in quickest(rows) if row.method == "recompute"]
    assert drawn == [("graphed", 1), ("default", 11)]
    assert orders([row for row in rows if row.layer == 1]) == "recompute ~ pinned at every size"
