"""The registry of what the paper consists of: a row for each output, and what each is drawn from.

Names only: Snakemake plans with it, and must import neither numpy nor matplotlib for that. The module of a row has
``files(material, workload)``, which returns the contents of the row's files in their order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.paper.plan import TABLES, Plan
from evaluation.paper.sources import sources
from evaluation.records.provenance import PINS
from evaluation.records.runs import is_own, pair_paths
from evaluation.study.program_lines import example


@dataclass(frozen=True, kw_only=True)
class Output:
    """One thing that the paper has.

    ``module`` is below ``evaluation``; ``caption`` is a file of ``rules/captions``. ``wanted``: whether a run has it.
    ``drawn``: of which workloads there is one each; the first has the plain names, any other its own name in them.
    ``reads``: tables by name, "records" (with what each job took, which its job writes too), other outputs by file.
    ``alone``: a run that times no resume has it too, which was made for the record that this is drawn from.
    ``compares``: it sets the run beside the leading one, of which all of that is read as well.
    """

    name: str
    module: str
    files: tuple[str, ...]
    caption: str
    reads: tuple[str, ...] = ("summary",)
    wanted: Callable[[Plan], bool] = lambda plan: True
    drawn: Callable[[Plan], list[str]] | None = None
    besides: tuple[Path, ...] = ()
    alone: bool = False
    compares: bool = False

    def names(self, plan: Plan, *, leading: bool) -> dict[str, str]:
        """What can be asked for of a run, ``crossover`` or ``crossover-chat``, and the workload of each.

        ``leading``: whether there is another run, which the paper is drawn from.
        """
        if not (plan.timed or self.alone) or not self.wanted(plan) or (self.compares and not leading):
            return {}
        if self.drawn is None:
            return {self.name: ""}
        first, *more = self.drawn(plan) or [""]
        return ({self.name: first} if first else {}) | {f"{self.name}-{workload}": workload for workload in more}

    def written(self, name: str) -> list[str]:
        """The files of ``name``, one of :meth:`names`."""
        return self._files(name.removeprefix(self.name))

    def patterns(self, folder: str) -> list[str]:
        """The files of any of :meth:`names` in ``folder``, with the wildcard ``which`` where there are several."""
        return [f"{folder}{file}" for file in self._files("{which}" if self.drawn else "")]

    def _files(self, which: str) -> list[str]:
        return [f"{Path(file).stem}{which}{Path(file).suffix}" for file in self.files]

    def sources(self) -> list[Path]:
        """The modules and templates that take part, read from their imports."""
        return sources("evaluation.paper.__main__", f"evaluation.{self.module}")

    def inputs(self, plan: Plan, leading: Plan | None, figures: Callable[[str], Path]) -> list[Path]:
        """The files that are read to write this of a run; ``figures`` is the folder of a run's outputs."""
        found = [*self.besides]
        for one in (plan, leading) if self.compares and leading is not None else (plan,):
            found += one.about
            for kind in self.reads:
                match kind:
                    case "records":
                        found.append(one.checked)
                    case file if file.endswith(".json"):
                        found.append(figures(one.name) / file)
                    case table:
                        found.append(one.drawn_from(table))
        return list(dict.fromkeys(found))


def _on_a_gpu(record: str) -> Callable[[Plan], bool]:
    return lambda plan: not plan.functional and record in plan.beside


def _counted(plan: Plan) -> bool:
    """Whether a run says of every method how device memory fills with paused sessions."""
    return not plan.functional and all(f"capacity/{method}.json" in plan.beside for method in plan.study["methods"])


def _has(record: str) -> Callable[[Plan], bool]:
    return lambda plan: record in plan.beside


def _paired(plan: Plan) -> bool:
    """Whether all forms of a resume are among its records, run in one process."""
    return any(path in plan.records for path in pair_paths(plan.folder, plan.study))


def _coded(plan: Plan) -> bool:
    """Whether Djinn's coded state is among these forms; the study of an older run does not say so."""
    return _paired(plan) and plan.study.get("coded", False) and plan.study["pairs"]["forms"] == "all"


_EXAMPLES = tuple(path for method in ("vanilla", "djinn") if (path := example(method)))  # whose lines are counted
_WORDS = ("numbers.json", "claims.json")  # what prose is written from
OUTPUTS = (
    Output(
        name="crossover",
        module="figures.crossover",
        files=("crossover.pdf", "crossover.png"),
        caption="crossover.rst",
        reads=("summary", "records"),
        drawn=lambda plan: plan.workloads(kv_cache=False, decode=False),
    ),
    Output(
        name="clocks",
        module="figures.clocks",
        files=("clocks.pdf", "clocks.png"),
        caption="clocks.rst",
        reads=("summary", "records"),
        drawn=lambda plan: plan.workloads(kv_cache=True, decode=False),
    ),
    Output(
        name="crossover_decode",
        module="figures.crossover",
        files=("crossover_decode.pdf", "crossover_decode.png"),
        caption="crossover.rst",
        reads=("summary", "records"),
        drawn=lambda plan: plan.workloads(kv_cache=True, decode=True),
    ),
    Output(
        name="latency_memory",
        module="text.held",
        files=("latency_memory.pdf", "latency_memory.png", "latency_memory.tex"),
        caption="latency_memory.rst",
        reads=("summary", "peers", "records"),
        drawn=lambda plan: plan.workloads(kv_cache=True, decode=False),
    ),
    Output(
        name="memory_wall",
        module="figures.memory_wall",
        files=("memory_wall.pdf", "memory_wall.png"),
        caption="memory_wall.rst",
        reads=("records",),
        wanted=_counted,
    ),
    Output(
        name="load",
        module="figures.load",
        files=("load.pdf", "load.png"),
        caption="load.rst",
        reads=("load",),
        wanted=_on_a_gpu("load.json"),
    ),
    Output(
        name="sweep",
        module="figures.sweep",
        files=("sweep.pdf", "sweep.png"),
        caption="sweep.rst",
        reads=("sweep", "summary"),
        wanted=_on_a_gpu("sweep.json"),
    ),
    Output(
        name="thinking",
        module="figures.thinking",
        files=("thinking.pdf", "thinking.png"),
        caption="thinking.rst",
        reads=("thinking",),
        wanted=_has("thinking.json"),
    ),
    Output(
        name="neighbour",
        module="text.neighbour",
        files=("neighbour.tex",),
        caption="neighbour.rst",
        reads=("neighbour",),
        wanted=_has("neighbour.json"),
    ),
    Output(
        name="samples",
        module="figures.samples",
        files=("samples.pdf", "samples.png"),
        caption="samples.rst",
        reads=("records",),
    ),
    Output(
        name="capabilities",
        module="text.capabilities",
        files=("capabilities.tex", "capabilities.md"),
        caption="capabilities.rst",
        reads=("summary", "capacity", "capabilities", "kills", "records"),
    ),
    Output(
        name="editing",
        module="text.editing",
        files=("editing.tex",),
        caption="editing.rst",
        reads=("editing",),
        wanted=lambda plan: "editing.json" in plan.beside,
    ),
    Output(
        name="durability",
        module="text.durable",
        files=("durable.tex",),
        caption="durable.rst",
        reads=("durable",),
        wanted=lambda plan: plan.killed,
        alone=True,
    ),
    Output(
        name="pairs",
        module="text.pairs",
        files=("pairs.tex",),
        caption="pairs.rst",
        reads=("pairs",),
        wanted=_paired,
    ),
    Output(
        name="ratios",
        module="figures.ratios",
        files=("ratios.pdf", "ratios.png"),
        caption="ratios.rst",
        reads=("pairs",),
        wanted=_paired,
    ),
    Output(
        name="coded",
        module="figures.coded",
        files=("coded.pdf", "coded.png"),
        caption="coded.rst",
        reads=("pairs",),
        wanted=_coded,
    ),
    Output(
        name="setup",
        module="text.setup",
        files=("setup.tex", "methods.tex"),
        caption="setup.rst",
        reads=("records",),
        besides=PINS,
    ),
    Output(
        name="numbers",
        module="text.numbers",
        files=("numbers.tex", "numbers.json"),
        caption="numbers.rst",
        reads=(*TABLES, "records"),
    ),
    Output(
        name="experiments",
        module="text.experiments",
        files=("experiments.md",),
        caption="experiments.rst",
        reads=("records",),
    ),
    Output(
        name="claims",
        module="text.claims",
        files=("claims.json", "claims.md", "claims.tex", "claims_short.tex"),
        caption="claims.rst",
        reads=("records",),
        besides=_EXAMPLES,
    ),
    Output(
        name="reproduction",
        module="text.reproduction",
        files=("reproduction.md",),
        caption="reproduction.rst",
        reads=("summary", "claims.json"),
        wanted=lambda plan: is_own(plan.name),
        compares=True,
    ),
    Output(
        name="decided",
        module="text.verdicts",
        files=("verdicts.tex",),
        caption="verdicts.rst",
        reads=("claims.json",),
    ),
    Output(
        name="section",
        module="paper.section",
        files=("section.tex", "appendix.tex"),
        caption="section.rst",
        reads=_WORDS,
    ),
    Output(
        name="further",
        module="paper.further",
        files=("further.tex",),
        caption="further.rst",
        reads=_WORDS,
        wanted=lambda plan: not is_own(plan.name),
        compares=True,
    ),
)
