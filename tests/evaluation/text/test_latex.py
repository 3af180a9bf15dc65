"""LaTeX and Markdown print any text as it is."""

import jinja2
import pytest

from evaluation.text.latex import Latex, environment, latex


def test_latex_takes_text_and_whole_numbers_only():
    """What is LaTeX already is left alone; an unformatted number, None and undefined raise."""
    assert latex(Latex(r"\sys{}")) == r"\sys{}"
    assert latex("a<b|c>d") == r"a\textless{}b\textbar{}c\textgreater{}d"
    assert latex(40) == "40"
    for value in (0.5, None, True):
        with pytest.raises(TypeError):
            latex(value)


def test_an_undefined_variable_stops_the_build():
    """Strict undefined, with the delimiters of the templates."""
    templates = environment()
    assert templates.from_string(r"{a} \BLOCK{if x}\VAR{x}\BLOCK{endif} %").render(x="1_") == r"{a} 1\_ %"
    with pytest.raises(jinja2.UndefinedError):
        templates.from_string(r"\VAR{missing}").render()
