"""The debugger's page says what the debugger does."""

from pathlib import Path

from djinn.debugger.commands import COMMANDS
from djinn.debugger.lens import _PIECE_ELEMENTS as OF_A_HEAD
from djinn.debugger.measures import _PIECE_ELEMENTS as OF_A_TENSOR

PAGE = (Path(__file__).parents[3] / "docs" / "debugger.md").read_text()


def test_its_table_is_the_table_of_commands():
    """Line by line, in order."""
    table = PAGE.partition("|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert table == [f"| `{f'{one.name} {one.arguments}'.strip()}` | {one.help} | `{one.key}` |" for one in COMMANDS]


def test_its_sizes_of_pieces_are_those_of_the_code():
    """In elements."""
    assert f"{OF_A_TENSOR:,} elements of a tensor, or {OF_A_HEAD // 1_000_000} million of the head" in " ".join(
        PAGE.split()
    )
