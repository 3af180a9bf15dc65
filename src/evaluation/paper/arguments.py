"""The options that the paper's commands share: which run, where it lies, where its outputs go, which run leads."""

import argparse
from pathlib import Path

from evaluation.analysis.material import Material
from evaluation.command import Refusal
from evaluation.paper.plan import outputs_folder
from evaluation.study.config import check
from evaluation.study.read import load_config


def add_options(arguments: argparse.ArgumentParser) -> None:
    """``--run``, ``--results``, ``--figures`` and ``--leading``."""
    arguments.add_argument("--run", help="name of a run: local, or of a published one; default: the leading run")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the runs lie; default: results")
    arguments.add_argument("--figures", type=Path, default=Path("paper_figures"), help="default: paper_figures")
    arguments.add_argument("--leading", help="the run that the paper is drawn from; default: first of paper_runs")


def material_of(given: argparse.Namespace) -> Material:
    """The run that was asked for, beside the leading one, which has the folder of figures for itself."""
    leading = given.leading
    if leading is None:
        leading = next(iter(check(load_config(Path("config.yaml"))).paper_runs), "")
    name = given.run or leading
    if not name:
        raise Refusal("--run: there is no leading run; name one: local, or that of a published one")
    first = None
    if leading not in ("", name):
        first = Material(name=leading, results=given.results, outputs=outputs_folder(given.figures, leading, leading))
    outputs = outputs_folder(given.figures, name, leading)
    return Material(name=name, results=given.results, outputs=outputs, leading=first)
