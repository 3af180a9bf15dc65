"""Reads the tables of a page of HTML back, as a browser would."""

from html.parser import HTMLParser


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tables, self.tags, self.cell = [], set(), None

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def tables(page):
    """The tables of ``page``: lists of rows, which are lists of texts. The first row is the head."""
    return _read(page).tables


def tags(page):
    """The names of its tags."""
    return _read(page).tags


def _read(page):
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader
