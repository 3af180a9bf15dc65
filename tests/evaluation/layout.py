"""What a reader cannot read of a figure, and a page that LaTeX compiles, for the tests of the tools that draw."""

import re
import subprocess
import zlib
from itertools import combinations
from pathlib import Path

from matplotlib.figure import Figure


def flaws(figure: Figure, ignored: str = "") -> list[str]:
    """Texts that leave the page, touch each other or lie on a line of data; inside the style that it was drawn in.

    ``ignored``, as the mark of a functional run, may lie under everything.
    """
    figure.draw_without_rendering()
    texts, found = list(figure.texts), []
    for axes in figure.axes:
        (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
        texts += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        # Ticks beyond the axis are placed, though not drawn.
        texts += [label for label in axes.get_yticklabels(which="both") if low <= label.get_position()[1] <= high]
        texts += [label for label in axes.get_xticklabels(which="both") if left <= label.get_position()[0] <= right]
        for line in axes.lines:
            if line.get_transform() == axes.transData:
                path = line.get_path().transformed(axes.transData)
                found += [
                    f"{text.get_text()!r} lies on a line"
                    for text in axes.texts
                    if text.get_text() not in ("", ignored)
                    and path.intersects_bbox(text.get_window_extent(), filled=False)
                ]
    shown = [text for text in texts if text.get_visible() and text.get_text() not in ("", ignored)]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    page = figure.bbox
    for name, box in boxes:
        if box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1:
            found.append(f"{name!r} leaves the page: {box}")
    for (one, a), (other, b) in combinations(boxes, 2):
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 + 0.5 < b.y1 and b.y0 + 0.5 < a.y1:
            found.append(f"{one!r} touches {other!r}")
    return found


def pdf_text(pdf: bytes) -> bytes:
    """What is in a PDF, its compressed streams too."""
    streams = re.findall(rb"stream\r?\n(.*?)\nendstream", pdf, re.DOTALL)
    # What is behind the end of the data is ignored: a byte of it may look like the end of a line.
    return pdf + b"".join(zlib.decompressobj().decompress(data) for data in streams if data[:1] == b"x")


def width_pt(pdf: bytes) -> float:
    """Width of the page of a PDF, in points."""
    found = re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+) ", pdf_text(pdf))
    assert found is not None
    return float(found[1])


_PAGE = r"""
\documentclass[letterpaper,twocolumn,10pt]{article}
\usepackage{mathptmx,booktabs}
\usepackage[textwidth=7in,textheight=9in]{geometry}
\setlength{\columnsep}{0.33in}
\makeatletter
\long\def\@makecaption#1#2{\vskip\abovecaptionskip\noindent#1: #2\par
  \edef\counted{\the\prevgraf}\typeout{caption of \counted\space lines}\vskip\belowcaptionskip}
\makeatother
\begin{document}
%s
\end{document}
"""


def compiled(folder: Path, **tables: str) -> str:
    """What pdflatex says of a page in USENIX geometry that inputs ``tables``, LaTeX by name; it must compile.

    Of each caption it says ``caption of 4 lines``.
    """
    for name, text in tables.items():
        (folder / f"{name}.tex").write_text(text)
    inputs = "\n".join(rf"\input{{{name}}}" for name in tables)
    (folder / "page.tex").write_text(_PAGE % inputs)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout
