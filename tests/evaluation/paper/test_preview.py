"""The preview compiles from what is published, follows the numbers, and refuses what must not be printed."""

import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from evaluation.analysis.material import Material
from evaluation.paper import preview as module
from evaluation.paper.preview import PreviewError, in_file, in_log, main, preview, source

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
    found = preview(of(figures))
    assert found.pdf.startswith(b"%PDF")
    assert preview(of(figures)) == found
    text = source(of(figures)) + "".join((figures / name).read_text() for name in ("section.tex", "appendix.tex"))
    for path in figures.glob("*.pdf"):
        assert path.name in text
    for path in figures.glob("*.tex"):
        assert rf"\input{{{path.stem}}}" in text


@pytest.mark.tex
def test_the_section_is_six_pages_with_its_figures_where_they_are_mentioned(figures):
    """A page away at most; each is mentioned."""
    found = preview(of(figures))
    assert found.section_pages <= 6
    assert found.astray() == []


@pytest.mark.tex
def test_a_changed_number_changes_the_page(figures):
    """It is printed from the macro."""
    before = preview(of(figures))
    numbers = figures / "numbers.tex"
    name = re.search(r"DjinnSessionPauseMsLayer[A-Za-z]+", (figures / "section.tex").read_text())[0]
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


def test_a_stream_whose_last_byte_looks_like_the_end_of_a_line_is_read(tmp_path):
    """A compressed one may end in any byte, as in a carriage return."""
    shown = (b"(nan " + b"x" * more + b") Tj" for more in range(64))
    stream = next(data for data in map(zlib.compress, shown) if data.endswith(b"\r"))
    (tmp_path / "bad.pdf").write_bytes(b"stream\n" + stream + b"\nendstream")
    assert len(in_file(tmp_path / "bad.pdf")) == 1


def test_an_error_is_told_with_its_place():
    """LaTeX prints the line after the error."""
    log = "! Undefined control sequence.\n<recently read> \\x\n\nl.7 a \\x\n      b\nOverfull \\hbox (3.1pt too wide)"
    assert in_log(log) == ["! Undefined control sequence. l.7 a \\x", "Overfull \\hbox (3.1pt too wide)"]
    assert in_log("Underfull \\hbox (badness 10000)\nLaTeX Font Info: nothing") == []


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
    (figures / "section.tex").unlink()
    if shutil.which("pdflatex") is None:
        return
    assert main() == 1
    assert "error: ! LaTeX Error: File `section.tex' not found" in capsys.readouterr().err
    assert out.read_text() == "old"


@pytest.mark.tex
def test_make_preview(tmp_path):
    """The documented command, with the environment of these tests."""
    out = tmp_path / "preview.pdf"
    command = [sys.executable, "-m", "evaluation.paper.preview", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"%PDF")
