"""Every snippet of the pages runs, and prints what it says; every command that they name is there.

The Python snippets of a page run one after another, with the names that the preamble below gives them. ``# prints
TEXT`` behind a line is what the line prints, where ``...`` stands for anything. Commands are looked up and not run:
targets of the Makefile, modules, and their flags.
"""

import ast
import contextlib
import functools
import io
import logging
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import djinn
from tests.test_imports import imported

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "ARTIFACT.md", "examples/README.md", "src/djinn/API.md", "docs"]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for page in PAGES
    for path in (sorted((ROOT / page).glob("*.md")) if (ROOT / page).is_dir() else [ROOT / page])
}
TEXTS["djinn.__doc__"] = djinn.__doc__


def preamble():
    """The names that snippets use without making them: a model of 24 small layers, and prompts for it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=24,
        num_attention_heads=2,
        vocab_size=128,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    prompts = [torch.randint(3, 128, (1, length)) for length in (8, 12)]
    return {"model": model, "prompts": prompts, "input_ids": prompts[0], "djinn": djinn}


def snippets(text):
    """The Python snippets of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def said(snippet):
    """What its lines say that they print, in order."""
    return re.findall(r"# prints (.*)$", snippet, re.MULTILINE)


def as_pattern(line):
    return ".*".join(re.escape(part) for part in line.split("..."))


@pytest.fixture
def _quiet_again():
    """The log is as silent after a page as before."""
    yield
    log = logging.getLogger("djinn")
    log.handlers[1:] = []
    log.setLevel(logging.NOTSET)


PAGES_WITH_SNIPPETS = [page for page, text in TEXTS.items() if snippets(text)]


def test_the_pages_have_snippets():
    """Those that a user reads first are among the tested ones, and some say what they print."""
    assert {"README.md", "src/djinn/API.md", "djinn.__doc__"} <= set(PAGES_WITH_SNIPPETS)
    assert sum(len(said(snippet)) for text in TEXTS.values() for snippet in snippets(text)) > 10


@pytest.mark.usefixtures("_quiet_again")
@pytest.mark.parametrize("page", PAGES_WITH_SNIPPETS)
def test_the_snippets_of_a_page_run_and_print_what_they_say(page, tmp_path, monkeypatch):
    """In order, in one program. A snippet that says what it prints prints that and nothing else."""
    monkeypatch.chdir(tmp_path)  # some write files, and some read the paper's
    for folder in ("paper_figures", "results"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    names = preamble()
    try:
        with torch.enable_grad():  # as in a fresh interpreter
            for snippet in snippets(TEXTS[page]):
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(snippet, page, "exec"), names)
                lines = printed.getvalue().splitlines()
                if said(snippet):
                    assert len(lines) == len(said(snippet)), lines
                    for line, pattern in zip(lines, said(snippet), strict=True):
                        assert re.fullmatch(as_pattern(pattern), line), f"{line!r} is not {pattern!r}"
    finally:
        for value in list(names.values()):
            if isinstance(value, djinn.Runtime):
                value.close(30)


# -- commands ----------------------------------------------------------------------------------------------------------


def commands(start):
    """The commands of the pages that begin with ``start``, in code and in blocks."""
    found = set()
    for text in TEXTS.values():
        found |= set(re.findall(rf"(?:`|^){start} ([^`#\n]+)", text, re.MULTILINE))
    return sorted(command.strip() for command in found)


def spelled_out(name):
    """``a.{b,c}_NAME`` as the names that it stands for; a word in capitals stands for any."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    return [re.sub(r"\b[A-Z]+\b|(?<=_)[A-Z]+\b", "*", "".join(choice)) for choice in product(*parts)]


def sources(module):
    """The files of ``python -m module``; ``*`` in it stands for anything."""
    folder = ROOT / "src" if module.startswith("evaluation") else ROOT
    stem = module.replace(".", "/")
    return [*folder.glob(f"{stem}.py"), *folder.glob(f"{stem}/__main__.py")]


@functools.cache
def words(path):
    """The strings in a file, and the modules that it imports: a flag is one of its strings, or a part of one."""
    tree = ast.parse(path.read_text())
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return strings, imported(path)


def words_below(path):
    """The strings of a command and of all modules of the evaluation that it imports."""
    found, todo, seen = set(), [path], set()
    while todo:
        if (path := todo.pop()) not in seen:
            seen.add(path)
            strings, names = words(path)
            found |= strings
            todo += [source for name in names if name.startswith("evaluation.") for source in sources(name)]
    return found


def test_every_make_target_is_there():
    """Each that a page tells to type is in the Makefile."""
    text = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    targets = set(re.findall(r"^([a-z.][\w./-]*):", text, re.MULTILINE))
    named = {command.split()[0] for command in commands("make")}
    assert "paper_figures" in named
    assert named <= targets


@pytest.mark.parametrize("command", commands("python -m"))
def test_every_module_and_its_flags_are_there(command):
    """Each ``python -m`` names a module of the project, or pytest, and flags that it takes."""
    name, *arguments = command.split()
    if name == "pytest":
        assert all((ROOT / path).exists() for path in arguments)
        return
    flags = [argument for argument in arguments if argument.startswith("--")]
    for module in spelled_out(name):
        found = sources(module)
        assert found, module
        for path in found if flags else ():
            known = words_below(path)
            assert all(flag in known or flag.removeprefix("--") in known for flag in flags), path


def test_every_script_is_there():
    """Each that is run by its path."""
    assert all((ROOT / command.split()[0]).exists() for command in commands("python") if "/" in command.split()[0])
