"""The README's numbers are those of the records from which the paper is drawn."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPTHS = {"1": "One", "10": "Ten", "20": "Twenty", "30": "Thirty", "40": "Forty"}
SESSIONS = {"1": "One", "8": "Eight", "16": "Sixteen", "32": "ThirtyTwo", "64": "SixtyFour"}
# Rows by how they begin, and which number stands in a column.
ROWS = {
    "activation: ready": "DjinnActivationPairedReadyRatioLayer{}",
    "activation: first kernel": "DjinnActivationPairedFirstKernelRatioLayer{}",
    "session with KV cache: ready": "DjinnSessionPairedReadyRatioLayer{}",
    "session: all state resident": "DjinnSessionPairedResidentRatioLayer{}",
    "decode step: ready": "DjinnDecodePairedReadyRatioLayer{}",
    "decode step: all state resident": "DjinnDecodePairedResidentRatioLayer{}",
    "ready, median": "DjinnLoadReadyMsSessions{}",
    "ready, 95th percentile": "DjinnLoadReadyMsSessions{}PNinetyFive",
    "ready, 99th percentile": "DjinnLoadReadyMsSessions{}PNinetyNine",
    "all state resident, median": "DjinnLoadResidentMsSessions{}",
    "vanilla, a process": "VanillaOwnProcessSessions",
    "vanilla, weights shared": "VanillaSessions",
    "recompute": "RecomputeSessions",
    "manual offload, pinned": "ManualOffloadSessions",
    "manual offload, pageable": "ManualOffloadPageableSessions",
    "Djinn": "DjinnSessions",
}
# Numbers that stand in a paragraph, by how it begins.
PROSE = {
    "Where nobody pauses": [
        *(f"DjinnOverhead{step}Ratio{end}" for step in ("Prefill", "Decode") for end in ("", "Low", "High")),
        *(f"PeerMemorySaver{workload}ReadyMs" for workload in ("Activation", "Session", "Decode")),
        "PeerProcessCheckpointSessionReadyMs",
    ],
    "- **Every sample": ["PeerMemorySaverSessionReadyMs"],
}


def tables(text):
    """Tables of a Markdown text: of each the cells of its head and of its rows."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines())
        yield head, rows


README_ROWS = [
    (row[0], column, value)
    for head, rows in tables((ROOT / "README.md").read_text())
    for row in rows
    if any(row[0].startswith(start) for start in ROWS)
    for column, value in zip(head[1:], row[1:], strict=True)
]


@pytest.fixture(scope="module")
def numbers():
    """Texts of the paper's numbers by name, with LaTeX's sign for at least as the README writes it."""
    listed = json.loads((ROOT / "paper_figures/numbers.json").read_text())["numbers"]
    return {number["name"]: number["text"].replace("$\\geq$\\,", "≥ ") for number in listed}


def test_every_row_is_found():
    """None was renamed away from the check."""
    found = [start for start in ROWS if any(label.startswith(start) for label, _, _ in README_ROWS)]
    assert found == list(ROWS)
    assert len(README_ROWS) == 6 * 5 + 4 * 5 + 6


@pytest.mark.parametrize(("label", "column", "value"), README_ROWS)
def test_a_number_is_the_paper_s(numbers, label, column, value):
    """As `paper_figures/numbers.json` has it, which is drawn anew from the records and compared in CI."""
    (name,) = (ROWS[start] for start in ROWS if label.startswith(start))
    words = SESSIONS if "Load" in name else DEPTHS
    assert value == numbers[name.format(words.get(column))]


@pytest.mark.parametrize(("start", "name"), [(start, name) for start, names in PROSE.items() for name in names])
def test_a_number_in_prose_is_the_paper_s(numbers, start, name):
    """A number that changes is missed in its paragraph."""
    (paragraph,) = (part for part in (ROOT / "README.md").read_text().split("\n\n") if part.startswith(start))
    assert re.search(rf"(?<![\d.]){re.escape(numbers[name])}(?!\d|\.\d)", paragraph)
