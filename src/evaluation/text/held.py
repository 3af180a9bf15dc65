r"""The figure of latency against memory held, and its caption: what it saves to hold a session on the device.

``latency_memory.tex`` defines a macro that is named after the workload, for ``\caption{\LatencyMemorySession}``. Its
numbers are those of the marks.
"""

from collections.abc import Iterator, Sequence

from evaluation.analysis.leading import Leading
from evaluation.analysis.material import Material
from evaluation.analysis.numerals import significant
from evaluation.analysis.outcomes import PeerMetric, device_bytes_each
from evaluation.figures.held import DJINN, KEPT_DJINN, VANILLA, Mark, draw, in_unit, marks_of
from evaluation.figures.style import rendered
from evaluation.text.latex import latex
from evaluation.text.macro import camel


def caption(
    marks: Sequence[Mark], *, workload: str, layer: int, run: str, functional: bool, each_bytes: float | None = None
) -> str:
    """LaTeX that defines the macro; ``each_bytes``: of a paused session of Djinn by the driver's count, if known."""
    said = [
        "What a quick resume costs in device memory while a session is paused:",
        f"workload {latex(workload)}, after layer {layer}, run {latex(run)}.",
        *([r"\textbf{Functional CPU run: not a performance result.}"] if functional else []),
        *_sentences(marks, each_bytes),
    ]
    lines = [
        f"% Written by evaluation.paper from the run {latex(run)}; do not edit.",
        r"\providecommand{\sys}{Djinn}",
        rf"\newcommand{{\LatencyMemory{camel(workload)}}}{{%",
        *said,
        "}",
    ]
    return "\n".join(lines) + "\n"


def _sentences(marks: Sequence[Mark], each_bytes: float | None) -> Iterator[str]:
    by_label = {mark.label: mark for mark in marks}
    djinn = by_label.get(DJINN)
    for label, words in ((VANILLA, "To keep all state on the device"), (KEPT_DJINN, "To keep the frontier there")):
        other = by_label.get(label)
        if djinn is not None and other is not None and other.median < djinn.median:
            saved = djinn.median - other.median
            yield rf"{words} makes a resume {saved:.3f}~ms shorter than with all swapped by \sys{{}}."
    yield "Ready after, and held:\n" + ";\n".join(map(_stands, marks)) + "."
    if "Recompute" in by_label:
        yield "Recompute is in its quickest form."
    by_driver = ", those of peers by the driver, and peers are of the deepest layer"
    yield f"These bytes are counted by torch{by_driver if any(mark.peer for mark in marks) else ''}."
    if djinn is not None and each_bytes is not None and each_bytes > djinn.held_bytes:
        size, unit = in_unit(each_bytes)
        yield rf"In the memory wall the driver counted {significant(size)}~{unit} for each session of \sys{{}}."
    yield r"Bars are intervals of 95\,\%. A hollow mark has too few processes or samples; its bar is their range,"
    yield "from the least to the 95th percentile, of pairs to the most."


def _stands(mark: Mark) -> str:
    size, unit = in_unit(mark.held_bytes)
    holds = f"{significant(size)}~{unit}" if size else "nothing"
    return f"{latex(mark.label)} {significant(mark.median)}~ms and {holds}"


def files(material: Material, workload: str) -> list[str | bytes]:
    """The figure as PDF and PNG, and ``latency_memory.tex``."""
    leading = Leading(material.findings, material.run)
    marks = marks_of(leading, material.rows("peers", PeerMetric), workload)
    functional = material.functional
    text = caption(
        marks,
        workload=workload,
        layer=leading.layer,
        run=material.name,
        functional=functional,
        each_bytes=device_bytes_each(material.run, "djinn"),
    )
    return [*rendered(lambda: draw(marks, functional=functional)), text]
