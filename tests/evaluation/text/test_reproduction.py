"""This machine's run beside the published one: what agrees, what differs, and what a functional run leaves open."""

import json
import shutil
from dataclasses import replace

import pytest

from evaluation.claims.decide import decide
from evaluation.claims.memo import expectations
from evaluation.records.runs import load_run
from evaluation.text.claims import as_json
from tests.evaluation.claims.decided import FEW, GOOD
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results, publish
from tests.evaluation.synthetic import edit, ready_ms

SMALL = replace(GOOD, layers=(1, 20, 40), samples=3, pairs=SyntheticPairs())


def write_claims(folder, outputs):
    """Decide the claims of the run in ``folder`` and write them to ``outputs``."""
    run = load_run(folder)
    claims = decide(run, resamples=FEW)
    outputs.mkdir(parents=True, exist_ok=True)
    (outputs / "claims.json").write_text(json.dumps(as_json(run, claims, expectations(run, claims))))


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    """The published run with its tables and claims."""
    root = tmp_path_factory.mktemp("authors")
    write_claims(publish(root, "h100", SMALL), root / "figures")
    return root


@pytest.fixture
def reproduce(tmp_path, authors):
    """The status and the page of a synthetic run beside the published one; ``change`` edits its folder first."""

    def written(local, change=None):
        shutil.copytree(authors, tmp_path, dirs_exist_ok=True)
        results = Results.make(tmp_path, local)
        if change is not None:
            change(results.folder)
        write_claims(results.folder, tmp_path / "figures" / "local")
        status = results.draw("reproduction", leading="h100")
        return status, results.drawn("reproduction.md").decode()

    return written


def rows(page, heading):
    """Cells of the table under ``heading``, without its head."""
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_same_run_agrees_throughout(reproduce):
    """No claim, ratio or time differs from itself."""
    status, page = reproduce(SMALL)
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
    pairs = replace(SMALL.pairs, ready=lambda which: 1.2 if which.method == "djinn" else 0.6)
    _, page = reproduce(replace(SMALL, ready=slower, pairs=pairs))
    assert {row[-1] for row in rows(page, "Ratios of pairs") if row[0] == "ready"} == {"differs"}
    times = {row[0]: row[-1] for row in rows(page, "Times, ready at the deepest layer")}
    assert times == {"recompute": "as expected", "manual offload": "as expected", "djinn": "differs"}


def test_what_the_frontier_is_kept_for_has_a_row_of_its_own(reproduce):
    """It does not stand in the place of what swaps everything."""
    _, page = reproduce(SMALL)
    clocks = [row[2] for row in rows(page, "Claims") if row[:2] == ["C4", "activation"]]
    assert clocks == [*(["ready", "first kernel", "usable"]), *(f"{name}, frontier kept" for name in
                      ("ready", "first kernel", "usable"))]  # fmt: skip


def test_without_pairs_no_ratio_is_compared(reproduce):
    """The study of this machine does not ask for them: what they decide is undecided here."""
    _, page = reproduce(replace(SMALL, pairs=None))
    assert not rows(page, "Ratios of pairs")
    of_ready = [row for row in rows(page, "Claims") if (row[0], row[2]) == ("C4", "ready")]
    assert {(row[3], row[5]) for row in of_ready} == {("undecided", "")}
    assert "Not compared: one of the runs has no pairs." in page


def test_times_are_expected_at_the_rates_of_this_machine(reproduce):
    """Half the matrix rate makes twice the time of recompute the expected one."""

    def halve(folder):
        edit(
            folder / "machine.json",
            lambda machine: machine["ceilings"]["matrix_tflops_bf16"].update(median=250.0, samples=[250.0] * 3),
        )

    _, page = reproduce(SMALL, change=halve)
    row = next(row for row in rows(page, "Times, ready at the deepest layer") if row[0] == "recompute")
    assert float(row[4]) == pytest.approx(2 * float(row[3]), rel=0.01)
    assert row[-1] == "differs"


def test_a_functional_run_says_what_it_leaves_open(reproduce):
    """No ratio and no time is compared; the claims that it can touch are named."""
    _, page = reproduce(replace(SMALL, functional=True))
    top = page.splitlines()[2:6]
    assert top[0] == "**Functional CPU run: not a performance result.**"
    assert top[2].startswith("- It decides C")
    assert top[3].startswith("- It cannot touch C1, C2, C3, C4, C5")
    assert "Ratios" not in page
    assert "Times" not in page
    assert {row[3] for row in rows(page, "Claims") if row[0] in ("C1", "C3", "C4", "C5")} == {"undecided"}


def test_a_file_that_holds_no_claims_is_refused(reproduce, tmp_path, capsys):
    """One message that names it; the page stays as it was."""
    status, page = reproduce(SMALL)
    assert status == 0
    results = Results(root=tmp_path)
    for folder, damaged, message in (
        ("local", "{}", "figures/local/claims.json: no claims"),
        (".", "[]", "figures/claims.json: not a JSON object"),
    ):
        path = tmp_path / "figures" / folder / "claims.json"
        whole = path.read_text()
        path.write_text(damaged)
        assert results.draw("reproduction", leading="h100") == 2
        assert message in capsys.readouterr().err
        path.write_text(whole)
    assert results.drawn("reproduction.md").decode() == page
