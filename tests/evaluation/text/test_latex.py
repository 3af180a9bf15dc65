"""LaTeX and Markdown print any text as it is."""

import jinja2
import pytest

from evaluation.records.runs import load_run
from evaluation.text.latex import _ESCAPES, Latex, environment, latex, markdown, markdown_table, ranged
from evaluation.text.setup import setup
from tests.evaluation.layout import compiled
from tests.evaluation.synthetic import Synthetic


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


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Intel® Xeon™ 5 µs, 3 μs", r"Intel\textregistered{} Xeon\texttrademark{} 5 $\mu$s, 3 $\mu$s"),
        ("2×40 °C", r"2$\times$40 $^{\circ}$C"),  # noqa: RUF001
        ("Zürich, Łódź, Ærø", "Zürich, Łódź, Ærø"),
        ("u\u0308", "ü"),
        ("a\tb\nc\rd\0e\x1bf\x7fg\x85h\xa0i\u2028j", "a b c d e f g h i j"),
        ("海光 7285", r"\texttt{U+6D77 U+5149} 7285"),
        ("\U0001f600_\ud800", r"\texttt{U+1F600}\_\texttt{U+D800}"),
        ("x\u0302\u200b", r"x\texttt{U+0302 U+200B}"),
        ("ą", r"\texttt{U+0105}"),
    ],
)
def test_what_latex_cannot_set_is_named(text, printed):
    """Known symbols by their macro, control characters as spaces, any other character by its code point."""
    assert latex(text) == printed
    assert latex(text).encode()


@pytest.mark.tex
@pytest.mark.parametrize("encoding", ["OT1", "T1"])
def test_any_text_compiles(tmp_path, encoding):
    """Every character of the first 1024, every symbol that has a macro and scripts of all kinds, in either encoding."""
    characters = [*map(chr, range(0x400)), *map(chr, _ESCAPES), *"中文العربيةहिन्दी한국어😀\ud800\uffff"]
    text = f"\\fontencoding{{{encoding}}}\\selectfont\n" + "\n\n".join(latex(f"a{one}b") for one in characters)
    compiled(tmp_path, text=text)
    assert "Missing character" not in (tmp_path / "page.log").read_text(errors="replace")


@pytest.mark.tex
def test_a_machine_with_an_odd_name_stops_no_table(tmp_path):
    """Control characters, a script that the fonts lack and LaTeX's own characters in the name of the GPU."""
    folder = Synthetic(layers=(1,), samples=2, gpu_name="\x00海光\x1b[1m Ångström® _{$\r\n").write(tmp_path / "local")
    text = setup(load_run(folder))
    assert r"\texttt{U+6D77 U+5149} [1m Ångström\textregistered{} \_\{\$" in text
    compiled(tmp_path, setup=text)


def test_markdown_keeps_a_row_on_its_line():
    """Its marks are escaped; what ends a line, and any other control character, is a space."""
    assert markdown("a|b_<c>`d\\") == r"a\|b\_\<c\>\`d\\"
    rows = markdown_table(["x"], [["a\nb\rc\x85d\x0be"]])
    assert rows == ["| x |", "| --- |", "| a b c d e |"]


def test_a_dash_never_stands_before_a_minus():
    """Between negative figures a dash would read as a sign."""
    assert ranged("-29.9 % (-38.0 to -22.7)") == r"$-$29.9 \% ($-$38.0 to $-$22.7)"
    assert ranged("3.0 % (-5.4 to 9.9)") == r"3.0 \% ($-$5.4--9.9)"
