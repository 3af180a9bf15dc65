"""Plot 2 prints what the records say of one workload, in LaTeX that holds whatever they hold."""

import re
from dataclasses import replace
from statistics import median

import pytest

from evaluation.analysis.durability import Kill
from evaluation.analysis.findings import Findings
from evaluation.analysis.leading import Leading
from evaluation.analysis.outcomes import Capability, Capacity
from evaluation.text import capabilities
from evaluation.text.capabilities import Sources
from tests.evaluation.layout import compiled
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, clocks, edit, probe, record_path, refused, wall

GPU = Synthetic(layers=(1, 40), samples=30)
METHODS = ("vanilla", "recompute", "manual_offload", "djinn")


def table(results, *, findings=None, workload="session", capacity=(), capability=(), kills=(), functional=False):
    """The table of a run; a test may give other rows and outcomes."""
    findings = findings or results.findings()
    sources = Sources(
        leading=Leading(findings, results.run()),
        workload=workload,
        capacity=dict(capacity),
        capability=dict(capability),
        kills=dict(kills),
    )
    return capabilities.table(sources, findings.methods, run=findings.run, functional=functional)


def rows_of(text):
    """The cells of each row by its label: median, interval, sessions, what refused, editing."""
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    lines = [line.removesuffix(" \\\\").split(" & ") for line in body.splitlines() if line.endswith("\\\\")]
    plain = [[re.sub(r"\\scriptsize |\\quad |\\emph|[{}]", "", cell).strip() for cell in line] for line in lines]
    return {name: cells for name, *cells in plain}


def wall_of(method, sessions, stopped_by, variant="default"):
    """An outcome of the memory wall."""
    about = {"run": "local", "method": method, "variant": variant, "device_bytes": 1, "host_bytes": 1}
    return Capacity(**about, sessions=sessions, stopped_by=stopped_by)


def edit_of(method, survives, exact, lines, variant="default"):
    """An outcome of the edits."""
    about = {"run": "local", "method": method, "variant": variant, "resume_ms": 1.0, "n": 1}
    return Capability(**about, edit_survives=survives, edit_exact=exact, state_lines=lines)


def killed(run):
    """What a kill leaves where the state was written to a file by hand, and nowhere else."""
    about = {"run": run, "method": "manual_offload", "saved_bytes": 1}
    return [Kill(**about, variant="default", survives="nothing"), Kill(**about, variant="saved", survives="edit")]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run on a GPU, which no test changes."""
    return Results.make(tmp_path_factory.mktemp("gpu"), GPU)


def test_every_cell_is_what_the_records_hold(tmp_path):
    """The file as the command writes it: latency, sessions and edits are worked out from the records here."""
    cells = {
        "capacity/vanilla.json": [
            wall("own_process", 2, "device_oom", headline=False),
            wall("default", 25, "device_oom", headline=True),
        ],
        "capacity/recompute.json": [wall("default", 80, "cap", headline=True)],
        "capacity/manual_offload.json": [wall("pinned", 46, "host_full", headline=True)],
        "capacity/djinn.json": [wall("default", 64, "arena", headline=True, arena_bytes=105 << 30)],
        "capabilities/vanilla.json": [probe("default", True, True, 0, [0.1], headline=True)],
        "capabilities/recompute.json": [
            probe("default", False, False, 6, [58], headline=True),
            probe("replay", True, True, 10, [58], headline=False),
        ],
        "capabilities/manual_offload.json": [
            probe("pinned", True, True, 33, [16], headline=True),
            probe("ordered", True, True, None, [16], headline=False),
        ],
        "capabilities/djinn.json": [probe("default", True, True, 1, [0.6], headline=True)],
    }
    recipe = replace(GPU, samples=7, scatter=0.2, beside=cells)
    results = Results.make(tmp_path, recipe)
    assert results.draw("capabilities") == 0
    text = results.drawn("capabilities.tex").decode()
    rows = rows_of(text)
    variants = {"Manual, bulk": ("manual_offload", "pinned"), "ordered": ("manual_offload", "ordered")}
    variants |= {"Vanilla PyTorch": ("vanilla", "default"), "Recompute": ("recompute", "default")}
    variants |= {"\\sys (Ours)": ("djinn", "default")}
    for name, (method, variant) in variants.items():
        record = next(r for r in results.run().records if (r["method"], r["layer"]) == (method, 40))
        (cell,) = [c for c in record["cells"] if (c["workload"], c["variant"]) == ("session", variant)]
        times = sorted(sample["ready_ms"] for sample in cell["samples"])
        ends = [float(end) for end in rows[name][1].split("--")]
        assert float(rows[name][0]) == pytest.approx(median(times), rel=5e-3), name
        assert ends == pytest.approx([times[0], times[-1]], rel=5e-3), name  # of seven, the extremes
    assert {name: cells[2:] for name, cells in rows.items()} == {
        "Vanilla PyTorch": ["25", "(device)", "Yes, 0 lines"],
        "Recompute": ["$\\geq$\\,80", "", "No; replay"],
        "Manual, bulk": ["46", "(host)", "Yes, 33 lines"],
        "ordered": ["--", "", "Yes"],
        "\\sys (Ours)": ["64", "(arena)", "Yes, 1 line"],
        "frontier kept": ["--", "", "--"],
    }
    assert "($\\geq$: a cap)" in text
    assert "lines beyond vanilla's (replay: 10)." in text


def test_headings_and_caption(results):
    """The memo's columns, the layer, the clock and the workload; of what nobody measured the caption says nothing."""
    text = table(results)
    for part in (
        "Resume", "Latency (ms)", "(Layer 40)", "Concurrent", "Sessions", "Supports", "Editing?", "\\toprule",
        "\\emph{Ready} in workload session, run local: median and 95\\,\\% interval.", "--: not measured.",
        "\\providecommand{\\sys}{Djinn}",
    ):  # fmt: skip
        assert part in text
    assert [cells[2:] for cells in rows_of(text).values()] == [["--", "", "--"]] * 6
    for part in ("unctional", "OOM", "brackets", "beyond", "*$"):
        assert part not in text


def test_the_workload_is_a_session(results):
    """By its properties, not by its name; without one it is the first, where there is nothing to order."""
    rows = rows_of(table(results, workload="activation"))
    assert "ordered" not in rows
    assert rows["Manual, bulk"][0] == "0.640"


def test_a_functional_run_is_marked_above_the_table(results):
    """In bold; the caption stays as short as it is."""
    head = table(results, functional=True).partition("\\toprule")[0]
    assert "\\textbf{Functional CPU run: not a performance result.}" in head


EDITS = {
    "exact": (edit_of("djinn", True, True, 8), "Yes, 8 lines"),
    "inexact": (edit_of("djinn", True, False, 8), "Inexact, 8 lines"),
    "no program": (edit_of("djinn", True, True, None), "Yes"),
    "lost": (edit_of("djinn", False, False, 8), "No"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_in_words(results, name):
    """With the lines where there is a program; one that is lost asks for none."""
    row, words = EDITS[name]
    assert rows_of(table(results, capability={"djinn": [row]}))["\\sys (Ours)"][4] == words


@pytest.mark.parametrize(("exact", "words"), [(True, "No; replay"), (False, "No")])
def test_a_replay_counts_where_it_is_exact(results, exact, words):
    """Then its lines are in the caption."""
    found = [edit_of("recompute", False, False, 6), edit_of("recompute", True, exact, 10, "replay")]
    text = table(results, capability={"recompute": found})
    assert rows_of(text)["Recompute"][4] == words
    assert ("(replay: 10)" in text) == exact


def test_a_missing_method_and_a_refused_cell(tmp_path):
    """A method that did not run prints --; one for which there was no room prints OOM."""
    recipe = replace(GPU, methods=("vanilla", "djinn"), samples=3)
    results = Results.make(tmp_path, recipe)

    def refuse(record):
        refused(record["cells"][1])

    edit(record_path(results.folder, "vanilla", 40), refuse)
    results.aggregate()
    rows = rows_of(table(results))
    assert rows["Recompute"][:2] == ["--", ""]
    assert rows["Vanilla PyTorch"][:2] == ["OOM", ""]


def test_text_from_records_is_escaped(results):
    """A workload named by LaTeX's own characters prints as it is spelled and runs nothing."""
    name = r"50%_{x}\input&#$~^"
    hostile = [replace(row, workload=name) for row in results.findings().rows if row.workload == "session"]
    text = table(results, findings=Findings(run="a_b", rows=hostile), workload=name)
    assert r"50\%\_\{x\}\textbackslash{}input\&\#\$\textasciitilde{}\textasciicircum{}" in text
    assert r"run a\_b:" in text


def test_the_page_has_the_cells_of_the_table(results):
    """The same rows in the same order, with words for what LaTeX sets."""
    assert results.draw("capabilities") == 0
    page = [line.strip("| ").split(" | ") for line in results.drawn("capabilities.md").decode().splitlines()[4:-2]]
    said = {name.replace("&emsp;", ""): " ".join(rest).replace("*", "") for name, *rest in page}
    drawn = rows_of(results.drawn("capabilities.tex").decode())
    cells = {name.replace("\\sys", "Djinn"): cells for name, cells in drawn.items()}
    assert list(said) == list(cells)
    for name, (median_, ends, sessions, refuser, editing) in cells.items():
        interval = f" ({ends.replace('--', ' to ')})" if ends else ""
        stopped = f" {refuser}" if refuser else ""
        assert said[name] == f"{median_}{interval} {sessions}{stopped} {editing}".replace("$\\geq$\\,", "≥ ")


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
        for sample in record["cells"][2]["samples"]:
            sample.update(clocks(7.0))

    edit(record_path(results.folder, "djinn", 40), slower)
    results.aggregate()
    assert rows_of(table(results))["\\sys (Ours)"][0] == "7.00"


def test_more_decimals_than_a_column_has_room_for_are_not_printed(tmp_path):
    """8.12 us is 0.0081 ms."""
    results = Results.make(tmp_path, replace(GPU, ready=lambda method, *rest: 0.00812, samples=6))
    assert rows_of(table(results))["Vanilla PyTorch"][:2] == ["0.0081", "0.0081--0.0082"]


@pytest.mark.parametrize(
    ("taken", "words"),
    [(5, "median and \\emph{range to the 95th percentile}."), (6, "median and 95\\,\\% interval.")],
)
def test_too_few_samples_are_not_called_an_interval(tmp_path, taken, words):
    """Five values have no rank interval of 95 %; six do. A range is in italics."""
    few = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=taken))
    assert words in table(few)
    assert ("\\emph{0.6" in table(few)) == (taken == 5)


def paired(which):
    """By hand 30 ms at once or 0.6 in order, Djinn 0.7; what keeps the frontier 0.1; a graph 80, else recompute 100."""
    if which.method == "recompute":
        return 80.0 if which.variant == "graphed" else 100.0
    if which.variant.startswith("async"):
        return None
    return 0.1 if which.keeps == "frontier" else {"bulk": 30.0, "default": 0.7}.get(which.variant, 0.6)


def test_pairs_lead_where_a_run_has_them(tmp_path):
    """At the last layer with a next one; every form has its row, and what no pair holds comes from its own job."""
    pairs = SyntheticPairs(rounds=6, layers=(39,), ready=paired)
    recipe = replace(GPU, layers=(39, 40), samples=3, pairs=pairs, scatter=0)
    results = Results.make(tmp_path, recipe)
    kept = edit_of("djinn", True, True, None, "kept")
    graph = wall_of("recompute", 9, "device_oom", "graphed")
    text = table(
        results, capability={"djinn": [edit_of("djinn", True, True, 8), kept]}, capacity={"recompute": [graph]}
    )
    rows = rows_of(text)
    assert {name: cells[0] for name, cells in rows.items()} == {
        "Vanilla PyTorch": "0.0100",
        "Recompute": "118",  # of its own job
        "fused, one graph": "80.0",
        "Manual, bulk": "30.0",
        "ordered": "0.600",
        "\\sys (Ours)": "0.700",
        "frontier kept": "0.100",
    }
    assert "(Layer 39)" in text
    assert "median and 95\\,\\% interval or \\emph{range to the 95th percentile}." in text
    assert (rows["\\sys (Ours)"][4], rows["frontier kept"][4]) == ("Yes, 8 lines", "Yes")
    assert rows["fused, one graph"][2:4] == ["9", "(device)"]


def test_a_job_that_lacks_the_leading_layer_says_so(tmp_path):
    """Pairs are at the last layer but one, and vanilla was measured at the last alone."""
    pairs = SyntheticPairs(rounds=2, layers=(39,), ready=paired)
    results = Results.make(tmp_path, replace(GPU, layers=(40,), samples=3, pairs=pairs))
    text = table(results)
    assert "$*$: layer 40." in text
    rows = rows_of(text)
    assert rows["Vanilla PyTorch"][0] == "0.0100$^*$"
    assert rows["\\sys (Ours)"][0] == "0.700"


@pytest.mark.tex
@pytest.mark.parametrize(
    ("small_ms", "functional", "killed_in", "most_lines"),
    [(0.127, True, "", 4), (0.0131, False, "", 4), (0.0131, False, "h200-141gb-13b-durable", 6)],
)
def test_it_fits_a_column_with_a_short_caption(tmp_path, small_ms, functional, killed_in, most_lines):
    """With times as wide as they get, every row and every word: nothing sticks out."""
    wide = SyntheticPairs(
        rounds=6, layers=(39,), ready=lambda which: 1234.5 if which.method == "recompute" else small_ms
    )
    recipe = Synthetic(layers=(39,), samples=6, pairs=wide, ready=lambda method, *rest: small_ms)
    results = Results.make(tmp_path, recipe)
    ends = zip(METHODS, ("device_oom", "cap", "host_full", "arena"), strict=True)
    sessions = {method: [wall_of(method, 128, end)] for method, end in ends}
    edits = {method: [edit_of(method, True, False, 33)] for method in METHODS}
    edits["recompute"] = [edit_of("recompute", False, False, 6), edit_of("recompute", True, True, 10, "replay")]
    text = table(
        results,
        findings=replace(results.findings(), run="h200-141gb-13b"),
        capacity=sessions,
        capability=edits,
        kills={method: killed(killed_in) for method in METHODS if killed_in},
        functional=functional,
    )
    said = compiled(tmp_path, table=text)
    assert len(rows_of(text)) == 7
    assert "Overfull" not in said
    assert int(said.partition("caption of ")[2].split()[0]) <= most_lines
