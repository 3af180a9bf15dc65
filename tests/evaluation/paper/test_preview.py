"""The preview compiles from what is published, follows the numbers, and refuses what must not be printed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from evaluation.analysis.material import Material
from evaluation.paper import preview as module
from evaluation.paper.preview import PreviewError, in_file, in_log, main, preview, source
from tests.evaluation.synthetic import edit

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"


@pytest.fixture
def figures(tmp_path):
    """The paper's set, to be changed."""
    folder = tmp_path / "figures"
    shutil.copytree(ROOT / "paper_figures", folder, ignore=shutil.ignore_patterns("local"))
    return folder


def of(figures):
    """The published run that leads, whose outputs lie in ``figures``."""
    name = json.loads((figures / "numbers.json").read_text())["run"]
    return Material(name=name, results=RESULTS, outputs=figures)


def drawn(path, text, fonttype=42):
    """A figure in PDF that shows ``text``."""
    with rc_context({"pdf.fonttype": fonttype}):
        figure = Figure(figsize=(2, 1))
        figure.text(0.1, 0.5, text)
        figure.savefig(path)


@pytest.mark.tex
def test_what_is_published_compiles_to_the_same_bytes(figures):
    """Without a defect, twice the same, with every figure and table that there is."""
    pdf = preview(of(figures))
    assert pdf.startswith(b"%PDF")
    assert preview(of(figures)) == pdf
    text = source(of(figures))
    for path in figures.glob("*.pdf"):
        assert path.name in text
    for path in figures.glob("*.tex"):
        assert rf"\input{{{path.stem}}}" in text


def test_prose_holds_no_number_of_its_own(figures):
    """Digits are in macros and in what LaTeX needs: after the preamble what is said of intervals and of R2 alone."""
    body = source(of(figures)).partition("\\begin{document}")[2]
    words = [word for word in body.split() if any(character.isdigit() for character in word)]
    captions = {word for claim in json.loads((figures / "claims.json").read_text())["claims"]
                for word in claim["remark"].split()}  # fmt: skip
    assert {word for word in words if word not in captions} <= {r"95\,\%.", "$R^2$", "(95th"}


def test_where_pairs_decide_the_ratio_to_recompute_names_its_form(figures):
    """It is of the plain form's own job, where the claim is decided by the quickest; an older run has no other."""

    def said(**asked):
        material = of(figures)
        vars(material)["study"] = {**{key: part for key, part in material.study.items() if key != "pairs"}, **asked}
        return " ".join(source(material).split())

    plain = r"Each by the median of a job of its own: recompute in its plain form is ready after"
    quickest = r"claim of both (Table~\ref{tab:claims}) is decided by recompute's quickest form, in pairs with \sys{}."
    for words in (plain, quickest):
        assert words in said(pairs={})
        assert words not in said()


def test_the_layer_that_has_a_next_one_leads(figures):
    """What is said of each workload is of that layer, where the run has it."""

    def said():
        return source(of(figures)).partition("{Many sessions}")[0]

    def leads(*numbers):
        def change(page):
            page["numbers"] = [one for one in page["numbers"] if one["name"] != "LeadingLayer"] + [*numbers]

        edit(figures / "numbers.json", change)

    leads()
    assert r"At layer \DeepestLayer{}" in said()
    leads({"name": "LeadingLayer", "value": 30})
    assert r"At layer \LeadingLayer{}" in said()
    assert "LayerThirty{}" in said()
    assert "LayerForty" not in said()


@pytest.mark.parametrize(("file", "there"), [("thinking.pdf", "fig:thinking"), ("neighbour.tex", r"\input{neighbour}")])
def test_waits_and_neighbours_have_their_place(figures, file, there):
    """Where a run has them."""
    (figures / file).unlink(missing_ok=True)
    assert there not in source(of(figures))
    (figures / file).touch()
    assert there in source(of(figures))


def test_a_study_without_edits_says_nothing_of_them(figures):
    """As one of another model, whose edits nobody measured."""
    assert "{Edits}" in source(of(figures))
    edit(
        figures / "numbers.json",
        lambda page: page.update(numbers=[one for one in page["numbers"] if "EditResumeMs" not in one["name"]]),
    )
    assert "{Edits}" not in source(of(figures))


def test_a_peer_is_said_in_one_sentence(figures):
    """Of the workloads of which there is a number; a peer without any is not named."""
    ready = r"torch_memory_saver, what was paused after layer \DeepestLayer{} is ready after "
    cells = [rf"\PeerMemorySaver{name}ReadyMs{{}}~ms ({name.lower()})" for name in ("Activation", "Session", "Decode")]

    def said():
        return " ".join(source(of(figures)).split()).replace(r"\_", "_")

    assert f"{ready}{', '.join(cells)}." in said()
    for gone, left in (("SaverSession", f"{ready}{cells[0]}, {cells[2]}."), ("Saver", "")):
        edit(
            figures / "numbers.json",
            lambda page, gone=gone: page.update(
                numbers=[one for one in page["numbers"] if gone not in one["name"]],
            ),
        )
        assert left in said()
    assert "torch_memory_saver" not in said()
    assert "process checkpoint" in said()


@pytest.mark.tex
def test_a_changed_number_changes_the_page(figures):
    """It is printed from the macro."""
    before = preview(of(figures))
    numbers = figures / "numbers.tex"
    name = re.search(r"DjinnSessionReadyMsLayer[A-Za-z]+", source(of(figures)))[0]
    old = next(line for line in numbers.read_text().splitlines() if f"{{\\{name}}}" in line)
    numbers.write_text(numbers.read_text().replace(old, rf"\newcommand{{\{name}}}{{77.7}}"))
    after = preview(of(figures))
    assert before != after


BROKEN = {
    "undefined macro": ("capabilities.tex", r"\NoSuchNumber", "! Undefined control sequence"),
    "reference": ("capabilities.tex", r"\ref{tab:nowhere}", "Reference `tab:nowhere'"),
    "two labels": ("capabilities.tex", r"\label{tab:claims}", "multiply defined"),
    "wide box": ("capabilities.tex", r"\noindent\rule{5in}{1pt}", "Overfull \\hbox"),
    "tall float": ("capabilities.tex", r"\begin{figure}[t]\rule{1in}{10in}\end{figure}", "Float too large"),
    "character": ("capabilities.tex", r"{\font\small=cmmi10 \small\char200}", "Missing character"),
    "nan": ("capabilities.tex", "nan", "capabilities.tex: nan in 'nan'"),
}


@pytest.mark.tex
@pytest.mark.parametrize(("name", "line", "message"), BROKEN.values(), ids=BROKEN)
def test_defects_are_refused(figures, name, line, message):
    """Each with a line that says what it is."""
    (figures / name).write_text((figures / name).read_text() + line + "\n")
    with pytest.raises(PreviewError, match=message.replace("\\", "\\\\")):
        preview(of(figures))


@pytest.mark.tex
def test_a_figure_with_type_3_fonts_is_refused(figures):
    """As matplotlib writes them unless told otherwise."""
    drawn(figures / "crossover.pdf", "ready", fonttype=3)
    with pytest.raises(PreviewError, match=r"crossover.pdf: a Type 3 font"):
        preview(of(figures))


def test_what_figures_say_is_read(tmp_path):
    """A nan that is drawn is found, a word that holds the letters is none."""
    drawn(tmp_path / "bad.pdf", "median nan ms")
    drawn(tmp_path / "good.pdf", "a nanosecond of the finance")
    assert in_file(tmp_path / "bad.pdf") == ["bad.pdf: nan in 'median nan ms'"]
    assert in_file(tmp_path / "good.pdf") == []


def test_an_error_is_told_with_its_place():
    """LaTeX prints the line after the error."""
    log = "! Undefined control sequence.\n<recently read> \\x\n\nl.7 a \\x\n      b\nOverfull \\hbox (3.1pt too wide)"
    assert in_log(log) == ["! Undefined control sequence. l.7 a \\x", "Overfull \\hbox (3.1pt too wide)"]
    assert in_log("Underfull \\hbox (badness 10000)\nLaTeX Font Info: nothing") == []


def test_a_number_that_the_text_needs_is_asked_for(figures):
    """By its name."""
    edit(figures / "numbers.json", lambda value: value.update(
        numbers=[number for number in value["numbers"] if number["name"] != "GpuName"]))  # fmt: skip
    with pytest.raises(PreviewError, match=r"the text needs \\GpuName"):
        source(of(figures))


def test_the_command_says_what_is_wrong(figures, tmp_path, monkeypatch, capsys):
    """One line each; without TeX what to install; and the old file stands."""
    out = tmp_path / "preview.pdf"
    out.write_text("old")
    arguments = ["x", "--figures", str(figures), "--results", str(RESULTS), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert main() == 1
    assert "error: pdflatex is not installed (Debian: texlive-" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", arguments)
    (figures / "numbers.json").unlink()
    if shutil.which("pdflatex") is None:
        return
    assert main() == 2
    assert f"error: {figures / 'numbers.json'}: missing" in capsys.readouterr().err
    assert out.read_text() == "old"


@pytest.mark.tex
def test_make_preview(tmp_path):
    """The documented command, with the environment of these tests."""
    out = tmp_path / "preview.pdf"
    command = [sys.executable, "-m", "evaluation.paper.preview", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"%PDF")
