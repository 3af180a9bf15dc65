"""Tables in plain HTML."""

import re

from tests.djinn.tables import tables, tags

from djinn.html import line, table

NASTY = "<script>alert('x')</script> & \"$a$\""


def test_what_is_given_is_shown_and_never_run():
    """Names, heads and lines are escaped: they come out as they were, and no tag but the table's own is made."""
    page = table({NASTY: "left", "b": "right"}, [[NASTY, "1"], NASTY]) + line(NASTY)
    assert tables(page) == [[[NASTY, "b"], [NASTY, "1"], [NASTY]]]
    assert tags(page) == {"table", "thead", "tbody", "tr", "th", "td", "p"}


def test_a_page_has_no_colours():
    """So it can be read in light and dark notebooks; the only style is the side to which a column is set."""
    page = table({"a": "left", "b": "right"}, [["c", "1"], "d"]) + line("e")
    assert set(re.findall(r'style="([^"]*)"', page)) == {"text-align: left", "text-align: right"}
    assert set(re.findall(r" (\w+)=", page)) == {"style", "class", "colspan", "cellpadding"}
    assert 'colspan="2"' in page
