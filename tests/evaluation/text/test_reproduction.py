"""This machine's run beside the published one: what agrees, what differs, and what a functional run leaves open."""

import json
import sys
from dataclasses import replace

import pytest

from evaluation.analysis.aggregate import summarise
from evaluation.analysis.summary import write_summary
from evaluation.claims.memo import expectations
from evaluation.claims.of_time import decide
from evaluation.records.runs import load_run
from evaluation.text.claims import as_json
from evaluation.text.reproduction import main
from tests.evaluation.claims.test_claims import GOOD
from tests.evaluation.synthetic import edit, ready_ms


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """The page for two synthetic runs; ``change`` edits a file of the local one first."""

    def written(local, published=GOOD, change=None):
        folders = {"local": local.write(tmp_path / "local"), "h100": published.write(tmp_path / "h100")}
        if change is not None:
            change(folders["local"])
        runs = [load_run(folder) for folder in folders.values()]
        write_summary(tmp_path / "summary.csv", summarise(runs))
        for run, folder in zip(runs, folders.values(), strict=True):
            claims = decide(run)
            (folder / "claims.json").write_text(json.dumps(as_json(run, claims, expectations(run, claims))))
        command = ["x", "--summary", tmp_path / "summary.csv", "--published", "h100", "--out", tmp_path / "out"]
        for side, folder in zip(("local", "published"), folders.values(), strict=True):
            command += [f"--{side}-claims", folder / "claims.json", f"--{side}-machine", folder / "machine.json"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        return main(), (tmp_path / "out").read_text() if (tmp_path / "out").exists() else ""

    return written


def rows(page, heading):
    """Cells of the table under ``heading``, without its head."""
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_same_run_agrees_throughout(reproduce):
    """No claim, ratio or time differs from itself."""
    status, page = reproduce(GOOD)
    assert status == 0
    for heading in ("Claims", "Ratios of pairs", "Times, ready at the deepest layer"):
        found = rows(page, heading)
        assert found, heading
        assert not [row for row in found if row[-1] == "differs"], heading
    assert {row[-1] for row in rows(page, "Times, ready at the deepest layer")} == {"as expected"}


def slower(method, variant, workload, layer, functional):
    """Djinn takes twice as long."""
    return ready_ms(method, variant, workload, layer, functional) * (2 if method == "djinn" else 1)


def test_a_slower_runtime_differs(reproduce):
    """A ratio that is not the authors' is said to differ, and so is the time."""
    _, page = reproduce(replace(GOOD, ready=slower))
    assert {row[-1] for row in rows(page, "Ratios of pairs") if row[0] == "ready"} == {"differs"}
    times = {row[0]: row[-1] for row in rows(page, "Times, ready at the deepest layer")}
    assert times == {"recompute": "as expected", "manual offload": "as expected", "djinn": "differs"}


def test_times_are_expected_at_the_rates_of_this_machine(reproduce):
    """Half the matrix rate makes twice the time of recompute the expected one."""

    def halve(folder):
        edit(folder / "machine.json", lambda machine: machine["ceilings"]["matrix_tflops_bf16"].update(median=250.0))

    _, page = reproduce(GOOD, change=halve)
    row = next(row for row in rows(page, "Times, ready at the deepest layer") if row[0] == "recompute")
    assert float(row[4]) == pytest.approx(2 * float(row[3]), rel=0.01)
    assert row[-1] == "differs"


def test_a_functional_run_says_what_it_leaves_open(reproduce):
    """No ratio and no time is compared; the claims that it can touch are named."""
    _, page = reproduce(replace(GOOD, functional=True))
    assert "**Functional CPU run: not a performance result.**" in page
    assert "Ratios" not in page
    assert "Times" not in page
    assert {row[3] for row in rows(page, "Claims") if row[0] in ("C1", "C3", "C4", "C5")} == {"undecided"}


def test_a_file_that_holds_no_claims_is_refused(reproduce, tmp_path, capsys, monkeypatch):
    """One message that names it; no page."""
    reproduce(GOOD)
    (tmp_path / "out").unlink()
    (tmp_path / "local" / "claims.json").write_text("[]")
    assert main() == 2
    assert "claims.json: no claims" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
