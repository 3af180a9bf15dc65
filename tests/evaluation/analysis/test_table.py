"""The codec of the CSV files gives back what it was given, and refuses what nobody gave it."""

from dataclasses import dataclass, replace
from types import NoneType
from typing import get_args, get_type_hints

import pytest

from evaluation.analysis.aggregate import TABLES
from evaluation.analysis.table import TableError, columns, read_table, write_table

VALUES = {str: 'a, "b"\r\nc', bool: True, int: 12_345_678_901, float: 0.123456}


def rows_of(kind):
    """A row with a value in every column, and one with nothing where that is allowed."""
    hints = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(kind).items()}
    full = {name: next(VALUES[one] for one in kinds if one is not NoneType) for name, kinds in hints.items()}
    least = {str: "", bool: False, int: 0, float: 0.0, NoneType: None}
    empty = {name: least[kinds[-1]] for name, kinds in hints.items()}
    return [kind(**full), kind(**empty)]


@pytest.mark.parametrize("name", TABLES)
def test_what_is_written_is_read(tmp_path, name):
    """Every kind of table there is, value by value and type by type."""
    kind = TABLES[name].kind
    rows = rows_of(kind)
    write_table(tmp_path / "t.csv", kind, rows)
    found = read_table(tmp_path / "t.csv", kind)
    assert found == rows
    for old, new in zip(rows, found, strict=True):
        assert [type(value) for value in vars(new).values()] == [type(value) for value in vars(old).values()]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_rows_has_its_columns(tmp_path, name):
    """And is read as no rows."""
    kind = TABLES[name].kind
    write_table(tmp_path / "t.csv", kind, [])
    assert (tmp_path / "t.csv").read_text() == ",".join(columns(kind)) + "\n"
    assert read_table(tmp_path / "t.csv", kind) == []


@dataclass(frozen=True, kw_only=True)
class Line:
    """A column of each type."""

    name: str
    sure: bool
    count: int
    share: float
    most: float | None
    jobs: int | None


ROW = Line(name="a", sure=True, count=3, share=0.5, most=None, jobs=None)
HEAD = "name,sure,count,share,most,jobs\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (2 / 3, "0.666667"),
        (123456.7, "123457"),
        (1e-7, "1e-07"),
        (2e9 / 3, "666667000"),
        (3.0, "3"),
        (85_899_345_920.0, "85899345920"),
    ],
)
def test_numbers_have_six_digits_and_whole_ones_all(tmp_path, number, text):
    """So that no digit of a byte count is rounded away."""
    write_table(tmp_path / "t.csv", Line, [replace(ROW, share=number)])
    assert (tmp_path / "t.csv").read_text() == f"{HEAD}a,true,3,{text},,\n"


def test_the_same_rows_give_the_same_bytes(tmp_path):
    """Written, read and written again."""
    write_table(tmp_path / "a.csv", Line, [replace(ROW, share=1 / 3, most=2e9 / 3), ROW])
    write_table(tmp_path / "b.csv", Line, read_table(tmp_path / "a.csv", Line))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,true,many,0.5,,", "'many'"),
        ("a,true,3.5,0.5,,", "'3.5'"),
        ("a,true,,0.5,,", "''"),
        ("a,true,3,,,", "''"),
        ("a,true,3,half,,", "'half'"),
        ("a,true,3,0.5,nan,", "'nan' is no number"),
        ("a,true,3,1e999,,", "'1e999' is no number"),
        ("a,yes,3,0.5,,", "'yes' is neither true nor false"),
        ("a,True,3,0.5,,", "'True' is neither"),
        ("a,,3,0.5,,", "'' is neither"),
        ("a,true,3,0.5", "4 cells, not 6"),
        ("a,true,3,0.5,,,", "Expected 6 fields in line 3, saw 7"),
        ("", "0 cells, not 6"),
        ('"a"b,true,3,0.5,,', "expected after"),
        ('"a,true,3,0.5,,', "unexpected end"),
    ],
)
def test_a_damaged_line_is_refused_by_file_and_line(tmp_path, line, reason):
    """Whatever stands before and after it."""
    path = tmp_path / "t.csv"
    path.write_text(f"{HEAD}b,false,1,2,3,4\n{line}\n")
    with pytest.raises(TableError) as caught:
        read_table(path, Line)
    assert str(caught.value).startswith(str(path))
    assert "cannot be read: " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("head", ["name,sure\n", HEAD.replace("most,jobs", "jobs,most"), HEAD.replace("jobs", "job")])
def test_other_columns_are_refused(tmp_path, head):
    """By the names that the table should have."""
    path = tmp_path / "t.csv"
    path.write_text(head)
    with pytest.raises(TableError) as caught:
        read_table(path, Line)
    assert str(caught.value) == f"{path}: the columns are not name, sure, count, share, most, jobs"


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b'"name\n'])
def test_what_is_no_table_is_refused(tmp_path, data):
    """An empty file, bytes that are no UTF-8, and a head that does not end."""
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(TableError, match=r"t\.csv cannot be read: "):
        read_table(path, Line)


def test_a_missing_table_says_what_writes_it(tmp_path):
    """One message, with the command."""
    with pytest.raises(TableError, match=r"t\.csv: missing; `python -m evaluation.analysis.aggregate` writes it"):
        read_table(tmp_path / "t.csv", Line)
