"""Plot 2 prints what the summary says, in LaTeX that holds whatever the records hold."""

import re
from dataclasses import replace

import pytest

from evaluation.analysis.findings import Findings
from evaluation.analysis.leading import Leading
from evaluation.analysis.outcomes import Capability, Capacity
from evaluation.text import capabilities
from tests.evaluation.layout import compiled
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, clocks, edit, record_path, refused

GPU = Synthetic(layers=(1, 40), samples=30)


def table(findings, run, capacity, capability, *, functional):
    """The table of ``findings``, which a test may have changed, and of the pairs of ``run``."""
    workloads = {name: name != "activation" for name in findings.workloads}
    found = {"run": findings.run, "functional": functional}
    return capabilities.table(Leading(findings, run), findings.methods, workloads, capacity, capability, **found)


def rows_of(text):
    """The table's cells by method; interval rows belong to the method above them."""
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    lines = [re.sub(r"\\\\(\[\d+pt\])?$", "", line).split("&") for line in body.strip().splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines]
    rows = zip(cells[::2], cells[1::2], strict=True)
    return {f"{name[0]} {below[0]}".strip(): (name[1:], below[1:3]) for name, below in rows}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run on a GPU, which no test changes."""
    return Results.make(tmp_path_factory.mktemp("gpu"), GPU)


def test_rows_and_cells(results):
    """The memo's rows; ready at the deepest layer; what is not measured is --."""
    rows = rows_of(table(results.findings(), results.run(), {}, {}, functional=False))
    dash = ["--", "--"]
    assert list(rows) == ["Vanilla PyTorch", "Recompute", "Manual Offload", "Manual, ordered", "\\sys{} (Ours)"]
    assert rows["Vanilla PyTorch"][0] == ["0.0100", "0.0100", *dash]
    assert rows["Recompute"][0] == ["121", "121", *dash]
    assert rows["Manual Offload"][0] == ["0.640", "31.0", *dash]
    assert rows["Manual, ordered"][0] == ["\\emph{same}", "0.640", *dash]
    assert rows["\\sys{} (Ours)"][0] == ["0.630", "0.630", *dash]
    assert rows["\\sys{} (Ours)"][1] == ["{\\scriptsize 0.629--0.631}"] * 2
    assert rows["Recompute"][1] == ["{\\scriptsize 120.8--121.2}"] * 2


def test_headings_and_caption(results):
    """The memo's columns, the workloads, the deepest layer, the clock, the count and the best manual form."""
    text = table(results.findings(), results.run(), {}, {}, functional=False)
    for part in (
        "Resume Latency", "Layer 40", "activation & session", "Concurrent", "Sessions", "Supports", "Editing",
        "\\emph{ready}", "30 samples", "without a KV cache there is nothing to order", "--: not measured", "\\toprule",
        "\\providecommand{\\sys}{Djinn}",
    ):  # fmt: skip
        assert part in text
    assert "unctional" not in text
    assert "OOM" not in text


def test_a_functional_run_is_marked_in_the_caption(results):
    """In bold, before anything else is explained."""
    caption = table(results.findings(), results.run(), {}, {}, functional=True).partition("\\caption")[2]
    assert "\\textbf{Functional CPU run: not a performance result.}" in caption


def test_a_missing_method_and_a_refused_cell(tmp_path):
    """A method that did not run prints --; one for which there was no room prints OOM, explained in the caption."""
    recipe = replace(GPU, methods=("vanilla", "djinn"), samples=3)
    results = Results.make(tmp_path, recipe)

    def refuse(record):
        refused(record["cells"][1])

    edit(record_path(results.folder, "vanilla", 40), refuse)
    results.aggregate()
    text = table(results.findings(), results.run(), {}, {}, functional=False)
    rows = rows_of(text)
    assert rows["Recompute"] == (["--"] * 4, ["{\\scriptsize }"] * 2)
    assert rows["Vanilla PyTorch"][0][:2] == ["0.0100", "OOM"]
    assert "OOM: the device had no room" in text


def test_text_from_records_is_escaped(results):
    """A workload named by LaTeX's own characters prints as it is spelled and runs nothing."""
    findings = results.findings()
    hostile = [replace(row, workload=row.workload.replace("session", r"50%_{x}\input&#$~^")) for row in findings.rows]
    text = table(Findings(run="a_b", rows=hostile), results.run(), {}, {}, functional=False)
    assert r"50\%\_\{x\}\textbackslash{}input\&\#\$\textasciitilde{}\textasciicircum{}" in text
    assert r"run a\_b." in text


def test_the_command_marks_a_functional_run(tmp_path, capsys):
    """By what its probe says; without the probe there is no table, and not an unmarked one."""
    results = Results.make(tmp_path, Synthetic(functional=True, layers=(1,), samples=2))
    assert results.draw("capabilities") == 0
    first = results.drawn("capabilities.tex")
    assert b"Functional CPU run" in first
    assert results.draw("capabilities") == 0
    assert results.drawn("capabilities.tex") == first
    edit(results.machine, lambda machine: machine.pop("functional"))
    assert results.draw("capabilities") == 2
    assert "machine.json: not a valid probe: functional" in capsys.readouterr().err
    results.machine.unlink()
    assert results.draw("capabilities") == 2
    assert "machine.json: missing" in capsys.readouterr().err
    assert results.drawn("capabilities.tex") == first


def test_a_changed_record_changes_the_cell(tmp_path):
    """From record through summary to table."""
    results = Results.make(tmp_path, replace(GPU, samples=3))

    def slower(record):
        for sample in record["cells"][0]["samples"]:
            sample.update(clocks(7.0))

    edit(record_path(results.folder, "djinn", 40), slower)
    results.aggregate()
    cells = rows_of(table(results.findings(), results.run(), {}, {}, functional=False))["\\sys{} (Ours)"][0]
    assert cells == ["7.00", "0.630", "--", "--"]


@pytest.mark.tex
@pytest.mark.parametrize(
    ("names", "small_ms"),
    [
        (["activation"], 0.0131),
        *((["activation", "session", "decode"], small_ms) for small_ms in (0.127, 0.0131, 0.00812)),
        (["activation", "session", "decode", "longer"], 0.0131),
    ],
)
def test_it_fits_where_it_stands(tmp_path, names, small_ms):
    """As wide as the times of a functional run make it: no overfull box in a column of USENIX, or across its page."""
    times = {"vanilla": small_ms, "recompute": 1234.5, "manual_offload": 113.1, "djinn": small_ms}
    recipe = Synthetic(layers=(1, 40), samples=6, ready=lambda method, *rest: times[method])
    results = Results.make(tmp_path, recipe)
    found, run = results.findings(), results.run()
    rows = [replace(row, workload=name) for name in names for row in found.rows if row.workload == "session"]
    capacity = Capacity(
        run="local", method="djinn", variant="default", sessions=64, stopped_by="cap", device_bytes=1, host_bytes=1
    )
    capability = Capability(
        run="local", method="manual_offload", variant="pinned", edit_survives=True, edit_exact=False, state_lines=33,
        resume_ms=1.0, n=1,
    )  # fmt: skip
    found = Findings(run="local", rows=rows)
    text = table(found, run, {"djinn": [capacity]}, {"manual_offload": [capability]}, functional=True)
    assert "Overfull" not in compiled(tmp_path, table=text)
    assert ("table*" in text) == (len(names) > 3)


def test_more_decimals_than_a_column_has_room_for_are_not_printed(tmp_path):
    """8.12 us is 0.0081 ms; a name of one word leaves the row below it free."""
    recipe = replace(GPU, ready=lambda method, *rest: 0.00812)
    results = Results.make(tmp_path, recipe)
    text = table(results.findings(), results.run(), {}, {}, functional=False)
    rows = rows_of(text)
    assert rows["Vanilla PyTorch"] == (["0.0081"] * 2 + ["--"] * 2, ["{\\scriptsize 0.0081--0.0081}"] * 2)
    assert "\nPyTorch & {" in text
    assert "\nRecompute & 0.0081 & 0.0081 & -- & -- \\\\\n & {" in text


@pytest.mark.parametrize(
    ("taken", "words"),
    [(5, "median and range (least to 95th percentile) of 5"), (6, "median and 95\\,\\% interval of 6")],
)
def test_too_few_samples_are_not_called_an_interval(tmp_path, taken, words):
    """Five values have no rank interval of 95 %; six do."""
    few = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=taken))
    assert words in table(few.findings(), few.run(), {}, {}, functional=False)


def paired(which):
    """By hand 30 ms at once and 0.6 in order, Djinn 0.7; what keeps the frontier 0.1, and recompute 100."""
    if which.method == "recompute":
        return 100.0
    if which.variant.startswith("async"):
        return None
    return 0.1 if which.keeps == "frontier" else {"bulk": 30.0, "default": 0.7}.get(which.variant, 0.6)


def test_pairs_lead_where_a_run_has_them(tmp_path):
    """At the last layer with a next one; every form has its row, and what no pair holds comes from its own job."""
    pairs = SyntheticPairs(rounds=6, layers=(39,), ready=paired)
    recipe = replace(GPU, layers=(39, 40), samples=3, pairs=pairs, scatter=0)
    results = Results.make(tmp_path, recipe)
    text = table(results.findings(), results.run(), {}, {}, functional=False)
    rows = {name: cells[:2] for name, (cells, _) in rows_of(text).items()}
    assert rows == {
        "Vanilla PyTorch": ["0.0100", "0.0100"],
        "Recompute": ["100", "100"],
        "Manual Offload": ["0.600", "30.0"],
        "Manual, ordered": ["\\emph{same}", "0.600"],
        "\\sys{} (Ours)": ["0.700", "0.700"],
        "\\sys{}, kept": ["0.100", "0.100"],
    }
    assert "(Layer 39)" in text
    assert "interval over 6 processes that run the forms side by side; where these lack a form, range" in text
    assert "95th percentile) of 3 samples" in text
    assert "leaves the frontier on the device:\n22.0~MB (activation), 22.0~MB (session)." in text


def test_what_is_quickest_of_recompute_is_named(tmp_path):
    """A graph keeps memory, and nobody counted sessions or edits with one: the caption says of which form each is."""
    pairs = SyntheticPairs(rounds=6, layers=(39,))
    recipe = replace(GPU, layers=(39,), samples=3, pairs=pairs)
    results = Results.make(tmp_path, recipe)
    text = table(results.findings(), results.run(), {}, {}, functional=False)
    assert "quickest form:\nfused, one graph (activation, session), which keeps" in text
    assert "sessions and editing are of the plain form" in text


def test_the_plain_form_of_recompute_needs_no_word(results):
    """Of a run whose jobs alone have it."""
    text = table(results.findings(), results.run(), {}, {}, functional=False)
    assert "quickest form" not in text


@pytest.mark.parametrize("ended", ["arena", "cap", "host_full"])
def test_a_full_arena_is_explained(results, ended):
    """Where one ended a count, and only there."""
    row = Capacity(
        run="local", method="djinn", variant="default", sessions=64, stopped_by=ended, device_bytes=1, host_bytes=1
    )
    text = table(results.findings(), results.run(), {"djinn": [row]}, {}, functional=False)
    assert ("arena: the host arena was full" in text) == (ended == "arena")


def test_a_job_that_lacks_the_leading_layer_says_so(tmp_path):
    """Pairs are at the last layer but one, and vanilla was measured at the last alone."""
    pairs = SyntheticPairs(rounds=2, layers=(39,), ready=paired)
    results = Results.make(tmp_path, replace(GPU, layers=(40,), samples=3, pairs=pairs))
    text = table(results.findings(), results.run(), {}, {}, functional=False)
    assert "What was not measured after layer 39 is that of layer 40." in text
    assert rows_of(text)["Vanilla PyTorch"][0][0] == "0.0100"
