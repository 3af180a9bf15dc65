"""The evaluation section of a run as LaTeX: ``section.tex``, six pages at most, and ``appendix.tex`` with the rest.

The text stands in the templates and argues with macros alone. :class:`evaluation.text.words.Words` chooses what depends
on a result, from ``numbers.json`` and ``claims.json`` as they were written. What the run has no number for is not said,
and a figure or table that it does not have is not asked for.
"""

from collections.abc import Callable, Iterator
from typing import Any

from evaluation.analysis.margins import TIMES_FASTER
from evaluation.analysis.material import Material
from evaluation.analysis.variants import PEERS, plain_name
from evaluation.paper.outputs import OUTPUTS
from evaluation.paper.plan import Plan
from evaluation.records.runs import Json, RunError, read_object
from evaluation.text.latex import Latex, environment
from evaluation.text.macro import camel, in_words, prefix_of
from evaluation.text.words import Words, without_empty_lines

_IN_COLUMNS = "\\begin{{figure{star}}}[{place}]\n\\centering\n\\includegraphics[width=\\linewidth]{{{file}}}\n"


def words_of(material: Material) -> Words:
    """What can be said of a run; raises :class:`RunError` where its numbers or claims are missing or not its own."""
    numbers, claims = (read_object(material.outputs / name) for name in ("numbers.json", "claims.json"))
    for name, page in (("numbers.json", numbers), ("claims.json", claims)):
        if page["run"] != material.name:
            raise RunError(f"{material.outputs / name}: of the run {page['run']}, not of {material.name}")
    return Words.of(numbers, claims, prefix_of(material))


def leading_layer(words: Words) -> str:
    """The number that says of which layer the text speaks: the last that has a next one, else the deepest."""
    return "LeadingLayer" if words.has("LeadingLayer") else "DeepestLayer"


def main_workload(study: Json) -> str:
    """The workload that the text argues with: the first prefill with a KV cache, else the first of all."""
    workloads = study["workloads"]
    sessions = (one for one in workloads if one["kv_cache"] and not one.get("decode_step"))
    return str(next(sessions, workloads[0])["name"])


def figure(file: str, label: str, star: str = "", *, caller: Callable[[], str]) -> Latex:
    """A figure around the caption that the block says; ``star``: across both columns."""
    head = _IN_COLUMNS.format(star=star, place="t" if star else "tbp", file=file)
    return Latex(f"{head}\\caption{{{without_empty_lines(caller())}}}\n\\label{{fig:{label}}}\n\\end{{figure{star}}}\n")


def text(material: Material, template: str) -> str:
    """What ``template`` says of a run.

    Raises :class:`evaluation.text.words.NoSuchNumber` for a number that it must have.
    """
    study, words, plan = material.study, words_of(material), Plan.found(material.results, material.name)
    drawn = {
        file: workload
        for output in OUTPUTS
        for name, workload in output.names(plan, leading=material.leading is not None).items()
        for file in output.written(name)
    }
    workloads = [_workload(one, words, drawn) for one in study["workloads"]]
    leading = leading_layer(words)
    said = {
        **{name: getattr(words, name) for name in _SAYS},
        "in_words": in_words,
        "camel": camel,
        "raw": Latex,
    }
    return (
        environment()
        .get_template(template)
        .render(
            **said,
            captions=environment().get_template("captions.tex.j2").make_module(said),
            run=material.name,
            prefix=words.prefix,
            functional=material.functional,
            times_faster=TIMES_FASTER,
            random_weights=study["model"].get("path") is None,
            workloads=workloads,
            over_depth=[one for one in workloads if one["file"] and not one["decode_step"]],
            decoding=[one for one in workloads if one["file"] and one["decode_step"]],
            main=main_workload(study),
            w=camel(main_workload(study)),
            leading=leading,
            deep="Layer" + in_words(words.value(leading)),
            paused=[words.value(name) for name in _PAUSED if words.has(name)],
            loaded=[n for n in range(1, 1000) if words.has(f"DjinnLoadReadyMsSessions{in_words(n)}")],
            held="".join(map(camel, plan.workloads(kv_cache=True, decode=False)[:1])),
            peers=list(_peers(study, words)),
            files=drawn,
            figure=figure,
        )
    )


_PAUSED = ("DjinnLoadFewestSessions", "DjinnLoadMostSessions")
_SAYS = ("number", "value", "ends", "has", "choose", "weigh", "sentence", "worst", "of_claim", "tally")


def _workload(workload: Json, words: Words, drawn: dict[str, str]) -> Json:
    """What the text says of a workload; C5's remark on the clock ready tells where its lines cross."""
    name, decode_step = workload["name"], workload.get("decode_step", 0)
    of_ready = ("C5", name, "ready")
    remarks = [one["remark"] for one in words.claims if (one["id"], one["workload"], one["clock"]) == of_ready]
    over_depth = [file for file, of in drawn.items() if of == name and file.startswith(("crossover", "clocks"))]
    prefill = f"a prefill {'that fills a' if workload['kv_cache'] else 'without a'} KV cache"
    return {
        "name": name,
        "kv_cache": workload["kv_cache"],
        "decode_step": decode_step,
        "stops_in": "a decode step after a prompt" if decode_step else prefill,
        "file": next((file for file in over_depth if file.endswith(".pdf")), ""),
        "by_clocks": any(file.startswith("clocks") for file in over_depth),
        "crossing": "".join(remarks[:1]),
    }


def _peers(study: Json, words: Words) -> Iterator[dict[str, Any]]:
    """In words, and for each workload of which there is a number, that number's macro."""
    names = [workload["name"] for workload in study["workloads"]]
    for peer in study.get("peers", {}).get("run", ()):
        macros = {workload: f"Peer{camel(peer)}{camel(workload)}ReadyMs" for workload in names}
        if ready := {workload: macro for workload, macro in macros.items() if words.has(macro)}:
            killed = f"{camel(peer)}SurvivesKill"
            yield {
                "words": PEERS.get(peer, plain_name(peer)),
                "ready": ready,
                "lost_by_kill": words.has(killed) and words.value(killed) == "no",
            }


def files(material: Material, workload: str) -> list[str]:
    """``section.tex`` and ``appendix.tex``."""
    return [text(material, template) for template in ("section.tex.j2", "appendix.tex.j2")]
