"""Puts all tables and figures of runs into one page for a browser, each with its caption and the command that draws it.

Looks first whether all is there, and says what is not and the command that makes it. Draws nothing: the page shows
the files as they are. How each was made in Snakemake's eyes is told by ``snakemake --report``.
"""

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from docutils.core import publish_parts
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from evaluation.analysis.material import Material
from evaluation.command import Refusal, parser
from evaluation.command import run as run_command
from evaluation.paper.outputs import OUTPUTS, Output
from evaluation.paper.plan import Plan, outputs_folder
from evaluation.paper.verdicts import decided
from evaluation.records.atomic import write_bytes
from evaluation.records.provenance import SOURCE
from evaluation.records.runs import is_own, run_folder, side_records
from evaluation.study.config import check
from evaluation.study.read import load_config
from evaluation.text.html import of_latex, of_markdown

_CAPTIONS = SOURCE.parent / "rules" / "captions"
_SHOWN = 8  # names of missing files in a message


class Incomplete(Refusal):
    """Something that the page should show is not there; the message says what makes it."""

    status = 1


def whole(results: Path, name: str) -> Plan:
    """The run as its study asks for it. Raises :class:`Incomplete` if it has not been measured at all."""
    folder = run_folder(results, name)
    if is_own(name) and not all((folder / file).exists() for file in ("study.json", "machine.json")):
        raise Incomplete(f"{folder}: not measured yet. {_made_by(name)} measures and draws it")
    plan = Plan.found(results, name)
    return replace(plan, beside=tuple(side_records(plan.study))) if is_own(name) else plan


def drawn(plan: Plan, leading: str | None) -> Iterator[tuple[Output, str, str]]:
    """Each output of the run, the name to ask for it, and its workload."""
    for output in OUTPUTS:
        for name, workload in output.names(plan, leading=leading not in (None, plan.name)).items():
            yield output, name, workload


def missing(plan: Plan, figures: Path, leading: str | None) -> list[Path]:
    """The files of the run that are not there, of what it should have."""
    folder = outputs_folder(figures, plan.name, leading)
    files = [folder / file for output, name, _ in drawn(plan, leading) for file in output.written(name)]
    return [file for file in files if not file.exists()]


def page(plans: Sequence[Plan], figures: Path, leading: str | None) -> str:
    """The whole page. Raises :class:`Incomplete` for files that are missing, with a line for each run."""
    lacking = {plan.name: missing(plan, figures, leading) for plan in plans}
    if any(lacking.values()):
        raise Incomplete("\n".join(_said(name, files) for name, files in lacking.items() if files))
    own = next((plan for plan in plans if is_own(plan.name)), None)
    title = "The authors' runs" if own is None else f"The run {own.name}, beside the authors'"
    functional = own is not None and own.functional
    about = "A functional run on a CPU: every step works, and no time says anything. " if functional else ""
    shown = Environment(loader=PackageLoader("evaluation.text"), autoescape=True, trim_blocks=True)
    parts = [_part(plan, figures, leading) for plan in plans]
    about += "All files as they are in the folders that are named; numbers and verdicts come from the raw records."
    return shown.get_template("report.html.j2").render(title=title, about=about, parts=parts)


def _part(plan: Plan, figures: Path, leading: str | None) -> dict[str, Any]:
    folder = outputs_folder(figures, plan.name, leading)
    material = Material(name=plan.name, results=plan.results, outputs=folder)
    items = [_item(plan, folder, one, leading) for one in drawn(plan, leading)]
    return {"run": plan.name, "verdicts": "\n".join(decided(material)), "items": items}


def _item(plan: Plan, folder: Path, one: tuple[Output, str, str], leading: str | None) -> dict[str, Any]:
    output, name, workload = one
    files = [folder / file for file in output.written(name)]
    texts = [_text(path) for path in files if path.suffix == ".tex"]
    tables = [of_latex(text) for text in texts if r"\begin{tabular}" in text]  # and not macros, or the section
    params = SimpleNamespace(run=plan.name, leading=leading or "", workload=workload)
    return {
        "name": name,
        "pictures": [base64.b64encode(path.read_bytes()).decode() for path in files if path.suffix == ".png"],
        "tables": tables,
        "pages": list(_pages(files)),
        # The tables have captions of their own.
        "caption": "" if tables else _caption(output.caption, SimpleNamespace(params=params)),
        "command": f"python -m evaluation.paper {name} --run {plan.name}",
    }


def _pages(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """What is too long to stand open."""
    for path in files:
        if path.suffix == ".md":
            yield path.name, of_markdown(_text(path))
        if path.name == "numbers.json":
            cells = [(number["name"], str(number["value"])) for number in json.loads(_text(path))["numbers"]]
            rows = "".join(f"<tr><td>\\{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in cells)
            yield path.name, f"<table>{rows}</table>"


def _caption(file: str, snakemake: SimpleNamespace) -> str:
    """As Snakemake's report renders it."""
    text = Template(_text(_CAPTIONS / file), undefined=StrictUndefined).render(snakemake=snakemake)
    return str(publish_parts(text, writer="html5", settings_overrides={"report_level": 5})["fragment"])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _said(name: str, files: Sequence[Path]) -> str:
    names = ", ".join(file.name for file in files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")
    return f"{files[0].parent}: {len(files)} files are missing ({names}). {_made_by(name)} makes them"


def _made_by(name: str) -> str:
    if not is_own(name):
        return "make published_figures"
    study = "" if name == "local" else f" --configfile FILE, the one in configs/ with run: {name},"
    return f"snakemake --cores 1 paper_figures{study}" if study else "make paper_figures"


def main() -> int:
    """Command line; returns the exit status: 0, 1 if something is missing, 2 with a message for another refusal."""
    arguments = parser("paper.report", __doc__)
    arguments.add_argument("--run", nargs="+", metavar="RUN", help="default: local, and the runs of paper_runs")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the runs lie; default: results")
    arguments.add_argument("--figures", type=Path, default=Path("paper_figures"), help="default: paper_figures")
    arguments.add_argument("--out", type=Path, default=Path("report.html"), help="default: report.html")
    given = arguments.parse_args()

    def command() -> None:
        published = check(load_config(Path("config.yaml"))).paper_runs
        names = given.run or list(published)
        if not given.run and (run_folder(given.results, "local") / "machine.json").exists():
            names = ["local", *published]
        elif not given.run:
            print("results/local: not measured yet, so this is the authors' alone. make paper_figures measures it")
        if not names:
            raise Incomplete("config: paper_runs names no run")
        plans = [whole(given.results, name) for name in names]
        write_bytes(given.out, page(plans, given.figures, next(iter(published), None)).encode())
        print(f"{given.out}: {', '.join(names)}")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
