"""The notebook runs from the first cell to the last, and what it shows is right.

Its cells are run in order in one namespace, as the kernel would: the last expression of a cell is shown by its
``_repr_html_``, or by its ``repr``. There is no kernel. That would take nbclient, ipykernel and some twenty pinned
packages behind them, and the start of another process, to run cells that are plain Python. What only a kernel has,
such as magics, would not compile here.

Git has the notebook without outputs. Ages and sizes in them would differ from run to run.
"""

import ast
import json
from pathlib import Path

import nbformat
import pytest
import torch

from tests.djinn.tables import tables
from tests.prose import MOST_WORDS, sentences, words

PATH = Path(__file__).parents[1] / "examples" / "debug.ipynb"
CELLS = json.loads(PATH.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def run(source, names):
    """Run a cell; return the value of its last expression, or None."""
    tree = ast.parse(source, str(PATH))
    shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(PATH), "exec"), names)
    return None if shown is None else eval(compile(ast.Expression(shown.value), str(PATH), "eval"), names)


def display(value):
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


@pytest.fixture(scope="module")
def notebook():
    """What each cell shows, by its last line, in order; and the names when it has ended."""
    names, shown = {"__name__": "__main__"}, []
    with pytest.MonkeyPatch.context() as patch, torch.enable_grad():  # as in a new kernel
        patch.syspath_prepend(str(PATH.parent))
        for source in CODE:
            value = run(source, names)
            shown.append((source.splitlines()[-1], None if value is None else display(value)))
    return shown, names


def of(notebook, last):
    return [text for line, text in notebook[0] if line.startswith(last)]


def test_it_is_a_notebook_without_outputs():
    nbformat.validate(nbformat.read(PATH, as_version=4))
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)
    assert len(CODE) > 10


def test_its_prose_is_plain():
    """As that of every page: no sentence is too long."""
    text = "\n\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    assert [sentence for sentence in sentences(text) if words(sentence) > MOST_WORDS] == []
    assert "interrupt the kernel" in text.lower()


def test_every_comparison_is_true(notebook):
    """With the uninterrupted run, and with a hook that makes the same edit; and the edit changes the tokens."""
    assert of(notebook, "torch.equal") == ["True", "True"]
    plain, edited = of(notebook, "plain_tokens"), of(notebook, "edited_tokens")
    assert plain != edited


def test_its_tables_are_right(notebook):
    """Phases and tiers are those that the text says, and the norms those of plain torch, before and after the edit."""
    _, names = notebook
    found = []
    handle = names["model"].model.layers[3].register_forward_hook(lambda module, args, output: found.append(output))
    names["generate"](names["model"], names["input_ids"])
    handle.remove()
    hidden_states = found[0].double()
    pages = of(notebook, "session.state")
    assert tables(pages[0])[0][1][4:] == ["device", "6,144", "-"]
    for page in pages[1:]:
        assert tables(page)[0][1][4:] == ["host", "6,144", f"{hidden_states.norm():.4g}"]
        assert tables(page)[1][-1][:2] == ["[0, 23]", f"{hidden_states[0, -1].norm():.4g}"]
        hidden_states[0, -1] *= 1.5
    phases = [[row[1] for row in tables(page)[0][1:]] for page in of(notebook, "runtime.status()")]
    assert phases == [["paused"], ["io_wait"]]
