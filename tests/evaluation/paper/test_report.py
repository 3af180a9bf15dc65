"""One page with all tables and figures of runs, or a word on what is missing and what makes it."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from evaluation.paper.report import main
from evaluation.text.html import of_latex, of_markdown
from tests.published import LEADING

ROOT = Path(__file__).parents[3]


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Makes the page of the published records and the figures in a folder; returns status, page, error."""
    monkeypatch.chdir(ROOT)

    def make(figures, *runs):
        out = tmp_path / "report.html"
        options = ["--results", "results", "--figures", str(figures), "--out", str(out), "--run", *runs]
        monkeypatch.setattr(sys, "argv", ["report", *options])
        status = main()
        return status, out.read_text() if out.exists() else "", capsys.readouterr().err

    return make


def text_of(page):
    """What a reader sees of HTML."""
    return re.sub(r"<[^>]+>", " ", page)


def test_the_page_has_every_output_with_caption_and_command(report):
    """Pictures within it, tables as tables, and nothing of LaTeX left."""
    status, page, _ = report(ROOT / "paper_figures", LEADING)
    assert status == 0
    figures = [path.stem for path in (ROOT / "paper_figures").glob("*.png")]
    assert page.count("data:image/png;base64,") == len(figures)
    for name in (*figures, "capabilities", "setup", "numbers", "claims", "experiments"):
        assert f"python -m evaluation.paper {name} --run {LEADING}" in page
    assert "<h2>C1: Recompute grows linearly with depth</h2>" in page
    assert f"<p>Run {LEADING}, workload activation: " in page  # the caption of a figure
    seen = text_of(re.sub(r"<style>.*?</style>|<table><tr><td>\\.*?</table>", "", page, flags=re.DOTALL))
    assert not re.findall(r"\\[a-zA-Z]+", seen)


def test_what_is_missing_is_said_with_the_command(report, tmp_path):
    """Before anything is written; a run that was never measured, and one that lacks files."""
    assert report(ROOT / "paper_figures", "local-never") == (
        1,
        "",
        "error: results/local-never: not measured yet. snakemake --cores 1 paper_figures --configfile FILE, the one in "
        "configs/ with run: local-never, measures and draws it\n",
    )
    figures = tmp_path / "figures"
    shutil.copytree(ROOT / "paper_figures", figures, ignore=shutil.ignore_patterns("local*", "crossover.p*"))
    status, page, error = report(figures, LEADING)
    assert (status, page) == (1, "")
    assert error == (
        f"error: {figures}: 2 files are missing (crossover.pdf, crossover.png). make published_figures makes them\n"
    )


def test_a_table_is_one_in_a_browser():
    """Columns, spans, rules, marks, and the caption below."""
    table = r"""
\begin{table}[t]
\begin{tabular}{@{}lrp{0.2\columnwidth}@{}}
\toprule
 & \multicolumn{2}{c}{A \& B} \\
\cmidrule(lr){2-3}
\midrule
\addlinespace[2pt]
\hspace{1em}\sys{} x\_y & $\geq$\,80 & {\tiny 1--2} \\[2pt]
\bottomrule
\end{tabular}
\caption{Layer $L{+}1$ of 5\,\% \emph{and $R^2$}, \unknown{} stays, see \ref{tab:claims}.}
\end{table}"""
    html = of_latex(table)
    assert '<td colspan="2" style="text-align:center">A &amp; B</td>' in html
    assert '<tr class="ruled"><td style="text-align:left">&emsp;Djinn x_y</td>' in html
    assert '<td style="text-align:right">&ge;&thinsp;80</td>' in html
    assert "<small>1&ndash;2</small>" in html
    assert (
        "<figcaption>Layer <i>L</i>+1 of 5&thinsp;% <em>and <i>R</i><sup>2</sup></em>, \\unknown stays, see claims."
        in html
    )
    assert "<td>1</td>" in of_markdown("| a |\n| --- |\n| 1 |\n")
