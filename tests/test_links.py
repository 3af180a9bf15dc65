"""Every link of a page leads to a file of the project, and to a heading that it has."""

import re

import pytest

from tests.prose import ROOT, prose

PAGES = [page for page in prose() if page.suffix == ".md"]
_LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:)([^)\s#]*)(#[^)\s]+)?\)")
# What a rule writes on the reader's machine, and git ignores.
_WRITTEN_LATER = ("local/",)


def anchors(text):
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    """Links to other sites are not followed."""
    for path, anchor in _LINK.findall(re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)):
        target = page.parent / path if path else page
        if path.startswith(_WRITTEN_LATER):
            continue
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.read_text()), path + anchor
