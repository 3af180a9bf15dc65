"""Djinn's coded state over the strongest form by hand, as :mod:`evaluation.figures.ratios` has its plain state."""

from evaluation.analysis.comparisons import Comparison
from evaluation.analysis.material import Material
from evaluation.analysis.pairs import CODED
from evaluation.figures import ratios
from evaluation.figures.style import rendered


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    shown = ratios.panels(material.rows("pairs", Comparison), CODED)
    return rendered(lambda: ratios.draw(shown, functional=material.functional, who="Coded"))
