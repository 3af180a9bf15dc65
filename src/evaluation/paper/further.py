"""The paragraph on a published run beside the leading one: ``further.tex``, for the end of the leading run's section.

It uses the macros of both. Those of its own run begin with the run's name.
"""

from evaluation.analysis.material import Material
from evaluation.paper.section import main_workload, words_of
from evaluation.text.latex import environment
from evaluation.text.macro import camel


def files(material: Material, workload: str) -> list[str]:
    """``further.tex``."""
    assert material.leading is not None
    own, first = words_of(material), words_of(material.leading)
    w = camel(main_workload(material.study))
    said = (
        environment()
        .get_template("further.tex.j2")
        .render(
            run=material.name,
            leading=material.leading.name,
            functional=material.functional,
            own=own,
            first=first,
            w=w,
            place=f"{w}AtDepth",
        )
    )
    return [said]
