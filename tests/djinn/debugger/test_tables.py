"""Text is laid out in the columns that there are: nothing is wider, and what had to go is seen to be cut."""

from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from djinn.debugger.tables import Column, cut, table, tail
from djinn.debugger.words import visible

COLUMNS = (Column(head="name"), Column(head="size", right=True, rank=1), Column(head="note", rank=2))
WORDS = st.text(st.characters(exclude_categories=["C", "M", "Z"]), max_size=30)


def test_a_table_leaves_columns_out_in_their_order():
    """The highest rank first; then what is left is cut. Numbers stand at the right."""
    rows = [("one", "5", "first"), ("three", "1000", "second")]
    assert table(COLUMNS, rows, width=40) == ["name   size  note", "one       5  first", "three  1000  second"]
    assert table(COLUMNS, rows, width=18) == ["name   size", "one       5", "three  1000"]
    assert table(COLUMNS, rows, width=10) == ["name", "one", "three"]
    assert table(COLUMNS, [("a long name", "5", "")], width=7) == ["name", "a lon.."]


def test_a_column_with_a_least_width_is_cut_before_any_leaves():
    """And gets what room is left."""
    columns = (COLUMNS[0], COLUMNS[1], Column(head="note", rank=2, least=6))
    rows = [("one", "5", "a long note of mine")]
    assert table(columns, rows, width=31) == ["name  size  note", "one      5  a long note of mine"]
    assert table(columns, rows, width=20) == ["name  size  note", "one      5  a long.."]
    assert table(columns, rows, width=17) == ["name  size", "one      5"]


@given(rows=st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=3), width=st.integers(1, 60))
def test_no_line_of_a_table_is_too_wide(rows, width):
    """Also of characters that take two columns, and in a single column."""
    assert all(cell_len(line) <= width for line in table(COLUMNS, rows, width=width))


@given(text=WORDS, width=st.integers(0, 40), rows=st.integers(1, 3))
@example(text="\N{EMOJI MODIFIER FITZPATRICK TYPE-1-2}", width=3, rows=1)
def test_what_is_cut_is_marked(text, width, rows):
    """At its end or at its begin; what fits is as it was, also what takes no column as rich counts."""
    short = cut(text, width)
    assert cell_len(short) <= width
    assert short == text or short.endswith("..") or width <= 2
    lines = tail(text, width=width, rows=rows)
    assert len(lines) <= rows
    assert all(cell_len(line) <= width for line in lines)
    joined = "".join(lines)
    assert joined == text or joined.startswith("..") or width <= 2
    assert text.endswith(joined.removeprefix("..") if joined != text else text)


def test_control_characters_are_seen():
    """They are escaped, and everything else is as it was."""
    assert visible("a\x1b[2J\nb\tc\u202e") == r"a\x1b[2J\nb\tc\u202e"
    assert visible("\u00e9\u4e2d ") == "\u00e9\u4e2d "
