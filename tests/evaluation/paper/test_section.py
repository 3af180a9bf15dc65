"""The section argues with macros alone: it follows the numbers, says nothing that a run lacks, and stays short."""

import re
import shutil
from pathlib import Path

import pytest

from evaluation.analysis.material import Material
from evaluation.paper.plan import outputs_folder
from evaluation.paper.section import text
from evaluation.records.runs import RunError
from evaluation.text.words import NoSuchNumber
from tests.evaluation.synthetic import edit
from tests.published import DRAWN, LEADING

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "src" / "evaluation" / "text" / "templates"
SECTION, APPENDIX, FURTHER = (f"{name}.tex.j2" for name in ("section", "appendix", "further"))
QUESTIONS = (
    "Why not recompute?",
    "Why not copies by hand?",
    r"What does \sys{} add?",
    "What does it cost, and where does it lose?",
)
WHERE_MEASURED = ("What does coded state add?",)
MACRO = re.compile(r"\\([A-Z][A-Za-z]+)\{\}")
MOST_WORDS = 120


@pytest.fixture
def figures(tmp_path):
    """The paper's words, to be changed."""
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("numbers.json", "claims.json"):
        shutil.copyfile(ROOT / "paper_figures" / name, folder / name)
    return folder


def of(figures):
    """The published run that leads, whose outputs lie in ``figures``."""
    return Material(name=LEADING, results=ROOT / "results", outputs=figures)


def said(material, template=SECTION):
    return " ".join(text(material, template).split())


def paragraph(tex, question):
    """What stands below the heading, without figures, tables and what is not printed."""
    body = re.split(r"\\(?:sub)?section\{", tex.partition(f"{{{question}}}")[2])[0]
    return re.sub(r"\\begin\{figure.*?\\end\{figure\*?\}|\\input\{\w+\}", "", body, flags=re.DOTALL).strip()


def without(figures, *parts):
    """The run has no number whose name holds one of ``parts``."""
    keep = lambda one: not any(part in one["name"] for part in parts)  # noqa: E731
    edit(figures / "numbers.json", lambda page: page.update(numbers=[*filter(keep, page["numbers"])]))


@pytest.mark.parametrize("run", DRAWN)
def test_each_question_has_one_short_paragraph_with_numbers(run):
    """As it is published: two macros at least, and no more words than are read in a minute."""
    tex = (outputs_folder(ROOT / "paper_figures", run, LEADING) / "section.tex").read_text()
    for question in [*QUESTIONS, *(title for title in WHERE_MEASURED if title in tex)]:
        one = paragraph(tex, question)
        assert "\n\n" not in one, question
        assert len(one.split()) <= MOST_WORDS, question
        assert len(set(MACRO.findall(one))) >= 2, question


@pytest.mark.parametrize("run", DRAWN)
def test_every_macro_that_is_used_is_defined(run):
    """In the run's own files, or in the leading run's where it stands beside that."""
    folder = outputs_folder(ROOT / "paper_figures", run, LEADING)
    defined = {
        name
        for place in (folder, ROOT / "paper_figures")
        for file in ("numbers.tex", "verdicts.tex")
        for name in re.findall(r"^\\newcommand\{\\(\w+)\}", (place / file).read_text(), re.MULTILINE)
    }
    words = [*folder.glob("section.tex"), *folder.glob("appendix.tex"), *folder.glob("further.tex")]
    assert len(words) == (2 if run == LEADING else 3)
    assert {name for path in words for name in MACRO.findall(path.read_text())} <= defined


@pytest.mark.parametrize("template", [SECTION, APPENDIX, FURTHER])
def test_no_number_is_typed_in(template):
    """Digits are the names of claims and layers, the confidence, and what LaTeX needs."""
    page = (TEMPLATES / template).read_text()
    prose = re.sub(
        r"^%.*$|\\(?:VAR|BLOCK|label|ref)\{[^\n]*?\}|L\{\+\}1|95\\,\\%|\(C[1-8]\)|claim C[1-8]",
        "",
        page,
        flags=re.MULTILINE,
    )
    assert re.findall(r".*\d.*", prose) == []


def test_the_layer_that_has_a_next_one_leads(figures):
    """What is said is of that layer, where the run has it."""

    def leads(*numbers):
        def change(page):
            page["numbers"] = [one for one in page["numbers"] if one["name"] != "LeadingLayer"] + [*numbers]

        edit(figures / "numbers.json", change)

    leads()
    assert r"at layer~\DeepestLayer{}" in said(of(figures))
    leads({"name": "LeadingLayer", "value": 30})
    assert r"at layer~\LeadingLayer{}" in said(of(figures))
    assert r"\DjinnSessionPauseMsLayerThirty{}" in said(of(figures))


def test_what_was_not_measured_is_not_said(figures):
    """A sentence goes with its number, and its paragraph stays."""
    sessions, load = r"\VanillaSessions{}", r"twenty after"
    assert sessions in said(of(figures))
    assert load in said(of(figures))
    without(figures, "VanillaSessions", "LoadMostSessions")
    assert sessions not in said(of(figures))
    assert load not in said(of(figures))
    assert r"\subsection{What does \sys{} add?}" in said(of(figures))


def test_a_functional_run_says_nothing_about_speed(figures):
    """Before anything else."""
    material = of(figures)
    vars(material)["machine"] = {**material.machine, "functional": True}
    assert r"\section{Evaluation} \textbf{Functional CPU run: it shows that everything works, and says nothing" in said(
        material
    )
    assert "Functional CPU run" in said(material, APPENDIX)
    assert "Functional" not in said(of(figures))


def test_a_number_that_the_text_needs_is_asked_for(figures):
    """By its name."""
    without(figures, "GpuName")
    with pytest.raises(NoSuchNumber, match=r"the text needs \\GpuName"):
        text(of(figures), SECTION)


def test_numbers_of_another_run_are_refused(figures):
    """They lie where a former run has left them."""
    edit(figures / "claims.json", lambda page: page.update(run="b200"))
    with pytest.raises(RunError, match=r"claims.json: of the run b200, not of"):
        text(of(figures), SECTION)


def test_a_peer_is_said_in_one_sentence(figures):
    """Of the workloads of which there is a number; a peer without any is not named."""
    ready = r"torch_memory_saver, what was paused after layer \DeepestLayer{} is ready after "
    cells = [rf"\PeerMemorySaver{name}ReadyMs{{}}~ms ({name.lower()})" for name in ("Activation", "Session", "Decode")]

    def told():
        return said(of(figures)).replace(r"\_", "_")

    assert f"{ready}{', '.join(cells)}." in told()
    without(figures, "SaverSession")
    assert f"{ready}{cells[0]}, {cells[2]}." in told()
    without(figures, "Saver")
    assert "torch_memory_saver" not in told()
    assert "process checkpoint" in told()
