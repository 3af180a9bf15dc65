"""Every macro can be traced to its rows, and none is printed where a value is missing."""

import json
import re
from dataclasses import replace

import pytest

from evaluation.analysis.findings import Findings
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.statistics import linear_fit
from evaluation.analysis.table import TableError
from evaluation.text.macro import Number, as_json, as_latex, camel, in_words
from evaluation.text.numbers import numbers
from evaluation.text.numbers_of_use import Tables
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, clocks, edit, probe, record_path, refused, wall

PAIRS = [
    {"passes": {"djinn_ms": [9.0, 20.0 + index // 2 / 10, 99.0], "bare_ms": [18.0, 19.0, 20.0]}} for index in range(14)
]
PEER = {
    "workload": "session",
    "outcome": "ok",
    "message": "",
    "state_bytes": 1,
    "samples": [{**clocks(40.0 + index), "floor_ms": 30.0, "device_bytes_paused": 0, "host_bytes_paused": 1}
                for index in range(5)],
}  # fmt: skip
BESIDE = {
    "capacity/djinn.json": [wall("default", 64, "cap", headline=True)],
    "capacity/vanilla.json": [
        wall("own_process", 2, "device_oom", headline=False),
        wall("default", 34, "device_oom", headline=True),
    ],
    "capabilities/djinn.json": [probe("default", True, True, 8, [1.0, 2.0, 3.0], headline=True)],
    "overhead.json": [{"name": name, "pairs": PAIRS} for name in ("prefill", "decode")],
    "peers/memory_saver.json": [PEER],
}
GPU = Synthetic(samples=6, pairs=SyntheticPairs(rounds=6, layers=(40,)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run on a GPU that no test changes."""
    return Results.make(tmp_path_factory.mktemp("shared"), GPU)


@pytest.fixture
def results(tmp_path):
    """A run on a GPU that a test may change."""
    return Results.make(tmp_path, replace(GPU, samples=2, pairs=None))


def found(results):
    material = results.material()
    return {number.name: number for number in numbers(material.findings, material.machine, material.study)}


def test_where_the_last_layer_with_a_next_one_was_measured_it_leads(tmp_path):
    """It has a macro, and so has the ratio to recompute there; elsewhere the deepest alone."""
    results = Results.make(tmp_path, replace(GPU, layers=(1, 39, 40), samples=2, pairs=None))
    text = {name: number.text for name, number in found(results).items()}
    assert (text["LeadingLayer"], text["DeepestLayer"]) == ("39", "40")
    assert text["RecomputeOverDjinnActivationReadyRatioLayerThirtyNine"] == "187"
    assert text["RecomputeOverDjinnActivationReadyRatioLayerForty"] == "192"
    assert "RecomputeOverDjinnActivationReadyRatioLayerOne" not in text


def test_values_by_hand(shared):
    """Medians, ratios, the fit of 1 + 3 L and what describes the run."""
    text = {name: number.text for name, number in found(shared).items()}
    assert text["DjinnActivationReadyMsLayerForty"] == "0.630"
    assert text["VanillaSessionFirstKernelMsLayerOne"] == "0.110"
    assert text["ManualOffloadSessionReadyMsLayerThirty"] == "23.4"
    assert text["ManualOffloadOrderedSessionReadyMsLayerThirty"] == "0.640"
    assert text["DjinnSessionPairedReadyRatioLayerForty"] == "1.00"
    assert text["RecomputeOverDjinnActivationReadyRatioLayerForty"] == "192"
    assert text["RecomputeActivationReadyMsPerLayer"] == "3.00"
    assert text["RecomputeActivationReadyRSquared"] == "1.0000"
    assert text["GpuName"] == "NVIDIA H100 80GB HBM3"
    assert (text["ModelName"], text["ModelDtype"]) == ("llama-2-13b", "bfloat16")
    assert (text["DeepestLayer"], text["SamplesPerCell"]) == ("40", "6")
    assert "LeadingLayer" not in text


def test_every_headline_median_is_there(shared):
    """4 methods, 2 workloads, 5 layers, 5 clocks; and 3 numbers of each paired ratio and difference of a form.

    Of Djinn's five forms one is of the workload with a KV cache alone, as the fifth clock is.
    """
    names = found(shared)
    for row in shared.findings().rows:
        if row.headline and row.metric.removesuffix("_ms") in CLOCK:
            name = camel(row.method) + camel(row.workload) + camel(row.metric) + "Layer" + in_words(row.layer)
            assert names[name].value == row.median
    assert sum("Paired" in name for name in names) == (4 * 4 + 5 * 5) * 2 * 3


def test_ratios_of_all_layers_are_pooled(tmp_path):
    """Of two processes there is a range, which has no macros of its ends."""
    pairs = SyntheticPairs(rounds=2, layers=(1, 40))
    recipe = Synthetic(layers=(1,), samples=1, methods=("manual_offload", "djinn"), pairs=pairs)
    names = found(Results.make(tmp_path, recipe))
    assert names["DjinnSessionPairedReadyRatioPooled"].value == pytest.approx(1)
    assert names["DjinnKeptSessionPairedReadyDifferenceMsPooled"].value == pytest.approx(0)
    assert not any(name.endswith(("PooledLow", "PooledHigh")) for name in names)


def test_every_number_follows_from_its_source(shared):
    """Re-derived from the rows that it names, by column."""
    rows = {
        (row.run, row.workload, row.method, row.variant, row.layer, row.metric): row for row in shared.findings().rows
    }
    checked = 0
    for name, number in found(shared).items():
        if "file" in number.source[0] or name == "DeepestLayer":
            continue
        keys = [tuple(source[k] for k in ("run", "workload", "method", "variant", "layer", "metric"))
                for source in number.source]  # fmt: skip
        values = [getattr(rows[key], source["column"]) for key, source in zip(keys, number.source, strict=True)]
        if name.startswith("RecomputeOverDjinn"):
            expected = values[0] / values[1]
        elif name.endswith(("PerLayer", "RSquared")):
            fit = linear_fit([key[4] for key in keys], values)
            expected = fit.slope if name.endswith("PerLayer") else fit.r2
        else:
            (expected,) = values
            if "StateMb" in name:
                expected /= 1e6
        assert number.value == pytest.approx(expected, rel=1e-12), name
        checked += 1
    assert checked > 200


def test_what_was_measured_besides(tmp_path):
    """Sessions, lines, overhead and peers, each as its table or record has it, and where from."""
    results = Results.make(tmp_path, replace(GPU, layers=(40,), pairs=None, beside=BESIDE, peers=("memory_saver",)))
    material = results.material()
    written = numbers(material.findings, material.machine, material.study, Tables.of(material))
    mine = {number.name: number for number in written}
    assert (mine["DjinnSessions"].value, mine["DjinnSessions"].text) == (64, r"$\geq$\,64")
    assert (mine["VanillaSessions"].text, mine["VanillaOwnProcessSessions"].text) == ("34", "2")
    assert (mine["DjinnProgramLines"].value, mine["DjinnEditResumeMs"].value) == (8, 2.0)
    assert mine["DjinnOverheadDecodeRatio"].value == pytest.approx(20.3 / 19)
    assert mine["DjinnOverheadDecodeRatioLow"].value < 20.3 / 19 < mine["DjinnOverheadDecodeRatioHigh"].value
    assert mine["DjinnOverheadDecodeDifferenceMs"].value == pytest.approx(1.3)
    assert mine["DjinnOverheadDecodeDifferenceMsLow"].value < 1.3 < mine["DjinnOverheadDecodeDifferenceMsHigh"].value
    assert mine["DjinnOverheadDecodeDjinnFirstRatio"].value == pytest.approx(20.3 / 19)
    assert (mine["PeerMemorySaverSessionReadyMs"].value, mine["PeerMemorySaverSessionPauseMs"].value) == (42.0, 84.0)
    assert mine["DjinnSessions"].source == [
        {"file": "capacity.csv", "run": "local", "method": "djinn", "variant": "default", "column": "sessions"}
    ]
    (source,) = mine["PeerMemorySaverSessionReadyMs"].source
    assert (source["file"], source["metric"], source["column"]) == ("peers.csv", "ready_ms", "median")


def test_a_variant_that_lacks_a_clock_has_no_macro_of_it(results):
    """A cache that is offloaded all the time never is on the device as a whole; a primary variant must be."""

    def never_resident(record):
        for sample in record["cells"][1]["samples"]:
            sample["resident_ms"] = None

    for layer in (1, 10, 20, 30, 40):
        edit(record_path(results.folder, "manual_offload", layer), never_resident)
    results.aggregate()
    names = found(results)
    assert "ManualOffloadPageableActivationReadyMsLayerForty" in names
    assert not [name for name in names if name.startswith("ManualOffloadPageableActivationResident")]


def test_a_changed_record_changes_its_numbers_and_no_others(results):
    """Djinn's ready at layer 40: its median and the ratio to recompute follow."""
    before = found(results)

    def sooner(record):
        for sample in record["cells"][0]["samples"]:
            sample["ready_ms"] /= 2

    edit(record_path(results.folder, "djinn", 40), sooner)
    results.aggregate()
    after = found(results)
    assert {name for name in before if before[name].value != after[name].value} == {
        "DjinnActivationReadyMsLayerForty",
        "RecomputeOverDjinnActivationReadyRatioLayerForty",
    }


def test_macros_are_letters_and_defined_once(shared):
    """Each line is a \\newcommand that LaTeX can read."""
    lines = as_latex(list(found(shared).values()), "local").splitlines()
    assert lines[0].startswith("% ")
    names = [re.fullmatch(r"\\newcommand\{\\([A-Za-z]+)\}\{.+\}", line)[1] for line in lines[1:]]
    assert len(set(names)) == len(names) == len(found(shared))


def test_text_from_the_machine_is_escaped(tmp_path):
    """A GPU whose name has LaTeX's characters."""
    results = Results.make(tmp_path, Synthetic(samples=2, layers=(1,), gpu_name="A_100 50% {x}"))
    assert found(results)["GpuName"].text == r"A\_100 50\% \{x\}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("djinn,default,20,usable_ms,true", "djinn,default,20,gone_ms,true", "no usable_ms of djinn.* layer 20"),
        ("recompute,default,30,ready_ms,true,91", "recompute,default,30,ready_ms,true,", "no value"),
    ],
)
def test_a_gap_stops_the_build(results, old, new, message):
    """A row or a number that is missing among those measured raises and names it."""
    text = results.summary.read_text()
    assert old in text
    results.summary.write_text(re.sub(rf"(?m){re.escape(old)}[^,]*", new, text))
    with pytest.raises(TableError, match=message):
        found(results)


def test_a_missing_gpu_name_stops_the_build(shared):
    """A GPU run must say on what it ran; so must every run say which model."""
    run = shared.material()
    with pytest.raises(TableError, match="GpuName"):
        numbers(shared.findings(), {**run.machine, "gpu": {"name": {"unavailable": "NVML failed"}}}, run.study)
    with pytest.raises(TableError, match="ModelName"):
        numbers(shared.findings(), run.machine, {})


def test_a_functional_run_names_no_gpu(tmp_path):
    """Its numbers exist, for the local page, and say that there was no GPU."""
    results = Results.make(tmp_path, Synthetic(functional=True, layers=(1,), samples=2))
    assert found(results)["GpuName"].text == "none (functional CPU run)"


def test_a_method_or_cell_without_measurement_has_no_macro(tmp_path):
    """A study without recompute, and a vanilla session for which there was no room."""
    results = Results.make(
        tmp_path, Synthetic(layers=(30, 40), samples=2, methods=("vanilla", "manual_offload", "djinn"))
    )

    def refuse(record):
        refused(record["cells"][1])

    edit(record_path(results.folder, "vanilla", 40), refuse)
    results.aggregate()
    names = found(results)
    assert not [name for name in names if "Recompute" in name]
    assert "VanillaSessionReadyMsLayerForty" not in names
    assert "VanillaSessionReadyMsLayerThirty" in names


def test_two_numbers_of_one_name_are_refused(shared):
    """Workloads a-1 and a1 would share their macros."""
    run = shared.material()
    names = {"activation": "a-1", "session": "a1"}
    rows = [replace(row, workload=names[row.workload]) for row in run.findings.rows]
    with pytest.raises(TableError, match="two numbers of one name"):
        numbers(Findings(run="local", rows=rows), run.machine, run.study)


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "Zero"), (1, "One"), (10, "Ten"), (19, "Nineteen"), (21, "TwentyOne"), (40, "Forty"), (80, "Eighty"),
     (100, "OneHundred"), (128, "OneHundredTwentyEight"), (2048, "TwoThousandFortyEight"), (8000, "EightThousand")],
)  # fmt: skip
def test_numbers_in_words(number, words):
    """Letters only, as macro names need."""
    assert in_words(number) == words


def test_camel():
    """Digits become words and everything else but letters goes."""
    assert camel("first_kernel_ms") == "FirstKernelMs"
    assert camel("long-8k") == "LongEightK"


def test_the_command_writes_both_files_the_same_twice(tmp_path, capsys):
    """Values, units and sources in JSON; a missing study.json or a damaged record is an error and changes no file."""
    results = Results.make(tmp_path, replace(GPU, layers=(10,), samples=2, pairs=None, beside=BESIDE))
    names = ("numbers.tex", "numbers.json")
    assert results.draw("numbers") == 0
    first = [results.drawn(name) for name in names]
    written = {number["name"]: number for number in json.loads(first[1])["numbers"]}
    entry = written["DjinnSessionReadyMsLayerTen"]
    source = {"run": "local", "workload": "session", "method": "djinn", "variant": "default", "layer": 10}
    assert entry["source"] == [{**source, "metric": "ready_ms", "column": "median"}]
    assert (entry["value"], entry["unit"]) == (pytest.approx(0.63), "ms")
    assert {"DjinnSessions", "DjinnEditResumeMs", "DjinnOverheadDecodeRatio"} <= written.keys()
    assert results.draw("numbers") == 0
    assert [results.drawn(name) for name in names] == first
    results.summary.with_name("overhead.csv").unlink()
    assert results.draw("numbers") == 2
    assert "overhead.csv: missing" in capsys.readouterr().err
    (results.folder / "study.json").unlink()
    assert results.draw("numbers") == 2
    assert "study.json: missing" in capsys.readouterr().err
    assert [results.drawn(name) for name in names] == first


def test_the_last_digits_of_a_fit_are_not_printed():
    """They differ from processor to processor; the bytes of numbers.json do not."""
    values = [2.779719146544546, 2.7797191465445463, 3, "sdpa"]
    found = [Number(name="A", value=value, text="", unit="ms", source=[]) for value in values]
    printed = [number["value"] for number in as_json(found, "h100")["numbers"]]
    assert printed == [2.77971914654, 2.77971914654, 3, "sdpa"]
