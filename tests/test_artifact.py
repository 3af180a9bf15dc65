"""ARTIFACT.md tells an evaluator what is there: functions to read, claims, messages, mutants, a number computed anew.

Its commands and links are looked up with those of all pages.
"""

import ast
import contextlib
import io
import json
import re

import pytest

from evaluation.claims.decide import PLAN
from tests.evaluation.catch import MUTANTS
from tests.prose import ROOT
from tests.test_snippets import snippets

PAGE = (ROOT / "ARTIFACT.md").read_text()
_MOST_WORDS = 1600
_LINK = re.compile(r"\[[\w./]+\]\((src/[\w./]+\.py)\)|`([A-Za-z_.]+)`")


def section(title):
    """What stands under a heading."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def rows(title):
    """The cells of the tables under a heading, without their heads."""
    lines = [line.strip("|").split("|") for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines[1:]]


def lines_of(tree, name):
    """How many lines a function takes, given as ``f`` or ``Class.f``; its docstring counts."""
    for part in name.split("."):
        tree = next(node for node in tree.body if getattr(node, "name", None) == part)
    return tree.end_lineno - tree.lineno + 1


def test_the_functions_to_audit_are_there():
    """Each in the file that was linked last before it, and together as long as the page says."""
    found, tree = {}, None
    for first, *_ in rows("Audit guide"):
        for path, name in _LINK.findall(first):
            if path:
                tree = ast.parse((ROOT / path).read_text())
            else:
                found[name] = lines_of(tree, name)
    said = int(re.search(r"Some (\d+) lines of", PAGE)[1])
    assert said == pytest.approx(sum(found.values()), rel=0.1), found


def test_the_claims_are_those_that_are_decided():
    """Each by the experiment whose records decide it."""
    told = {name: experiment.split(",")[0] for name, _, experiment, _ in rows("Claims")[: len(PLAN)]}
    assert told == {entry.statement.id: entry.statement.experiment for entry in PLAN}


def test_the_messages_are_those_that_the_study_prints():
    """Of each that is quoted, what stands between the dots is in the code."""
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    quoted = [message for first, _ in rows("Troubleshooting") for message in re.findall(r'"([^"]+)"', first)]
    own = [message for message in quoted if "Directory cannot be locked" not in message]  # is Snakemake's
    assert own
    for part in (part.strip() for message in own for part in re.split(r"\.\.\.|\bN\b", message)):
        assert part in code, part


def test_the_mutants_are_counted():
    """As the command has them, and those that are named are there."""
    assert f"catch` runs {len(MUTANTS)}, each" in PAGE
    named = re.findall(r"tests\.evaluation\.catch ([\w ]+)`", PAGE)
    assert named
    assert MUTANTS.keys() >= {name for names in named for name in names.split()}


def test_the_number_is_the_paper_s(monkeypatch):
    """The snippet computes it from the raw records and without the project, in a few lines."""
    (snippet,) = snippets(PAGE)
    assert re.findall(r"import .*", snippet) == ["import glob, json, statistics"]
    monkeypatch.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(snippet, {})
    paper, own = map(float, printed.getvalue().split())
    numbers = json.loads((ROOT / "paper_figures/numbers.json").read_text())["numbers"]
    assert paper in [number["value"] for number in numbers]
    assert own == pytest.approx(paper, rel=1e-5)


def test_the_page_is_short():
    """Cells of tables count, their borders do not."""
    assert len([word for word in PAGE.split() if word != "|"]) <= _MOST_WORDS
