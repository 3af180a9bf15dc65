"""The picture of the debugger is the screen's, stands alone, and is small."""

import runpy
from pathlib import Path
from xml.etree import ElementTree

from djinn.debugger.keys import keys_line

PICTURES = Path(__file__).parents[3] / "docs" / "pictures"
PICTURE = PICTURES / "debugger.svg"


def texts(svg):
    return [(node.text or "").replace("\xa0", " ") for node in ElementTree.fromstring(svg).iter() if node.text]


def test_it_shows_what_the_page_says():
    """Two sessions of one pause, the lens, the state, IO_WAIT, both continuations, and the keys of today."""
    lines = "\n".join(texts(PICTURE.read_text(encoding="utf-8")))
    for said in (
        "fork of 1",
        "is Paris",
        "is New York City",
        "logit lens, layer 15",
        "hidden_states",
        "edit zero 3",
        "www",
    ):
        assert said in lines
    script = runpy.run_path(str(PICTURES / "debugger.py"))
    assert keys_line(script["SIZE"][0]) in lines


def test_it_needs_nothing_else():
    """No font or other file from a server, nothing that clips, and a file that a page loads at once."""
    picture = PICTURE.read_text(encoding="utf-8")
    assert "url(" not in picture
    assert "@font-face" not in picture
    assert len(picture) < 50_000
    alone = runpy.run_path(str(PICTURES / "debugger.py"))["alone"]
    font = '\n    @font-face {\n        src: url("x")\n    }'
    clip = '<defs>a</defs><g clip-path="url(#a)" font-family="Fira Code, monospace"/>'
    assert alone(f"<svg>{font}{clip}</svg>").startswith('<svg><g font-family="ui-monospace')
    assert alone(picture) == picture
