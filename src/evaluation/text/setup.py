"""What was measured on what, and how: two tables of one column, as LaTeX that needs booktabs.

``setup.tex`` has hardware, software, ceilings, model and plan of a run; ``methods.tex`` the variants in its records,
what each does, and its samples. Only the fields named here are read, so no name of a machine, user or folder gets in.
What the probe could not have prints ``--``; a missing field is an error. What a variant does is written down here.
Beside the versions that measured stand those that ``envs/`` pins, where they differ.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from evaluation.analysis.material import Material
from evaluation.analysis.numerals import significant
from evaluation.analysis.pairs import ATTENDED, FRONTIER, Policy, policy_of
from evaluation.analysis.variants import METHODS, VARIANTS, plain_name
from evaluation.records.provenance import PINS
from evaluation.records.runs import Json, Run, RunError, latency_methods, record_paths, sitting_of
from evaluation.text.capabilities import REFUSED, UNMEASURED, label
from evaluation.text.conditions import beside_torch, every_record, of_sittings
from evaluation.text.latex import Latex, environment, latex

Facts = list[tuple[str, Latex]]  # what it is, and its value


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a file of a run holds, asked by dotted keys. Raises RunError, with file and key, for what is not there."""

    name: str
    values: object

    def get(self, key: str) -> Any:
        """The value at ``key``; None if the probe gives a reason instead."""
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
            if value is None:
                raise RunError(f"{self.name}: {key} is missing")
            if isinstance(value, dict) and value.keys() == {"unavailable"}:
                return None
        return value

    def shown(self, key: str, before: str = "", after: str = "") -> Latex:
        """The text or number at ``key`` between two pieces of LaTeX; ``--`` alone if there is none."""
        value = self.get(key)
        if value is None:
            return UNMEASURED
        return Latex(before + latex(value if isinstance(value, str) else f"{value:.12g}") + after)

    def quantity(self, key: str, unit: str, size: float = 1) -> Latex:
        """The number at ``key`` in units of ``size``, to three digits."""
        value = self.get(key)
        if value is None:
            return UNMEASURED
        return Latex(f"{significant(value / size)}~{unit}")


def _joined(*parts: Latex) -> Latex:
    """One mark is enough where there is none of the parts."""
    return UNMEASURED if set(parts) == {UNMEASURED} else Latex(", ".join(parts))


def _hardware(machine: Source) -> Facts:
    now, most = (
        _joined(machine.shown(f"gpu.pcie_generation{end}", "Gen~"), machine.shown(f"gpu.pcie_width{end}", "", "~lanes"))
        for end in ("", "_max")
    )
    cores, usable = machine.shown("host.cores", "", " logical cores"), machine.shown("host.cores_usable")
    some = "" if usable in (UNMEASURED, machine.shown("host.cores")) else f" ({usable} usable)"
    return [
        ("GPU", _joined(machine.shown("gpu.name"), machine.quantity("gpu.memory_bytes", "GiB", 2**30))),
        ("GPU driver", machine.shown("gpu.driver")),
        # An idle card may have slowed its link down when the probe asked.
        ("PCIe link", now if now == most else Latex(f"{now} when probed; at most {most}")),
        ("CPU", _joined(machine.shown("host.cpu"), Latex(cores + some))),
        ("Host memory", machine.quantity("host.memory_bytes", "GiB", 2**30)),
        ("System", _joined(machine.shown("host.system"), machine.shown("host.kernel", "Linux "))),
    ]


def _software(machine: Source, record: Source) -> Facts:
    torch, cuda = record.shown("versions.torch"), machine.shown("software.torch_cuda")
    if torch != machine.shown("software.versions.torch"):
        cuda = UNMEASURED  # the CUDA of another build, with which the probe ran
    # A record leaves out what is not installed, and a job runs without Snakemake.
    snakemake = record.shown("versions.snakemake") if "snakemake" in record.get("versions") else UNMEASURED
    python, transformers = record.shown("versions.python"), record.shown("versions.transformers")
    shown = f"Python {python}, PyTorch {torch} (CUDA {cuda}), Transformers {transformers}, Snakemake {snakemake}"
    beside = beside_torch(record.get("versions"))
    return [("Software", Latex(shown)), *beside, ("Pinned in envs", latex(_pinned(record.get("versions"))))]


def pinned() -> dict[str, str]:
    """Version by package, of what `make paper_figures` installs."""
    lines = [line for path in PINS for line in path.read_text(encoding="utf-8").splitlines()]
    return dict(line.split()[0].split("==") for line in lines if "==" in line)


def _pinned(measured: Json) -> str:
    """In which packages ``envs/`` has another version than was ``measured``."""
    pins = pinned()
    # A build for CUDA 13 is called 2.11.0+cu130.
    others = [f"{name} {pins[name]}" for name in pins if measured.get(name, pins[name]).split("+")[0] != pins[name]]
    return f"{', '.join(others)}; the other packages as measured" if others else "as measured"


def _plan(run: Run, study: Source) -> Facts:
    facts: Facts = []
    for number, values in enumerate(study.get("workloads")):
        one = Source(name=f"{study.name}: workload {number + 1}", values=values)
        size = f"{one.shown('tokens')} tokens, batch {one.shown('batch')}"
        cache = "KV cache" if one.get("kv_cache") else "no KV cache"
        where = f", decode step {one.shown('decode_step')}" if values.get("decode_step") else ""
        facts.append(("Workload", Latex(f"{one.shown('name')}: {size}, {cache}{where}")))
    samples = study.shown("measurement.samples", "", " per cell and round")
    others = study.shown("measurement.other_samples", ", ", " of variants that the paper does not draw")
    planned, found = len(record_paths(Path(), run.study)), len(run.records)
    rounds, layers = study.get("rounds"), ", ".join(str(layer) for layer in study.get("layers"))
    jobs = f"{found} processes" if found == planned else f"{found} of {planned} processes"
    jobs += f": {rounds} round{'s' * (rounds > 1)} of {len(latency_methods(run.study))} methods at layers {layers}"
    facts += [("Samples", Latex(samples + others)), ("Think time", study.shown("measurement.think_time_ms", "", "~ms"))]
    return [*facts, ("Jobs", latex(jobs)), ("Pairs", _pairs_plan(run, study))]


def _pairs_plan(run: Run, study: Source) -> Latex:
    planned, found = study.get("pairs.rounds"), len(run.pairs)
    processes = f"{found} processes" if found == planned else f"{found} of {planned} processes"
    blocks = study.get("pairs.blocks")
    each = "a mirrored block" if blocks == 1 else f"{blocks} mirrored blocks"
    layers = ", ".join(str(layer) for layer in study.get("pairs.layers"))
    return latex(f"{processes}, each with {each} of each workload at layers {layers}")


def setup(run: Run) -> str:
    """What ``run`` ran on and what it measured; raises RunError for a field that is missing."""
    machine = Source(name=f"machine.json of run {run.name}", values=run.machine)
    study = Source(name=f"study.json of run {run.name}", values=run.study)
    # All records have the same versions and the same model.
    record = Source(name=f"provenance in the records of run {run.name}", values=run.records[0]["provenance"])
    model = run.records[0]["model"]
    name = f"{model['name']}, {model['layers']} layers, {model['dtype']}, {model['attention']} attention"
    prompts = study.shown("model.seed", "random tokens, seed ")
    subject = [("Model", latex(name)), ("Weights", latex(model["weights"])), ("Prompts", prompts)]
    ceilings = [
        ("Pinned H2D copy", machine.quantity("ceilings.pinned_h2d_gbps.median", "GB/s")),
        ("Pinned D2H copy", machine.quantity("ceilings.pinned_d2h_gbps.median", "GB/s")),
        ("Matrix product", machine.quantity("ceilings.matrix_tflops_bf16.median", "TFLOP/s in bf16")),
    ]
    groups = [_hardware(machine), _software(machine, record), of_sittings(run), ceilings, subject, _plan(run, study)]
    groups = [group for group in groups if group]
    gaps = any(UNMEASURED in value for group in groups for _, value in group)
    template = environment().get_template("setup.tex.j2")
    several = len({sitting_of(record) for record in every_record(run)}) > 1
    return template.render(
        run=run.name, functional=run.functional, groups=groups, gaps=gaps, sittings=several, unmeasured=UNMEASURED
    )


_KNOWN = {(variant.method, variant.name): variant for variant in VARIANTS}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the methods table; whether the paper leads with it, and what it does."""

    name: Latex
    headline: bool
    deeds: list[Latex]
    samples: Latex
    in_pairs: Latex


def _deeds(method: str, variant: str) -> tuple[str, ...]:
    known = _KNOWN.get((method, variant))
    return known.deeds if known is not None and known.deeds is not None else (UNMEASURED,) * 3


def _breakable(name: str) -> Latex:
    """``name``, which may go on in the next line after each underscore."""
    return Latex(latex(name).replace(r"\_", r"\_\allowbreak{}"))


def _samples(cells: Sequence[Json]) -> Latex:
    """How many a cell has, over all rounds, and how many cells have any; for the others the word that says why."""
    taken: Counter[tuple[str, int]] = Counter()
    for cell in cells:
        taken[cell["workload"], cell["layer"]] += len(cell["samples"])
    counts = [count for count in taken.values() if count]
    ends = sorted({min(counts), max(counts)}) if counts else []
    found = [rf"{'--'.join(map(str, ends))} $\times$ {len(counts)}"] if counts else []
    refused = sorted({cell["outcome"] for cell in cells} - {"ok"})
    return Latex(", ".join([*found, *(REFUSED if outcome == "out_of_memory" else outcome for outcome in refused)]))


Key = tuple[str, str]  # a method and its variant


def _in_pairs(run: Run) -> dict[Key, tuple[Policy, list[Json]]]:
    """The policy of each form in pairs and its samples, as cells of a workload and layer."""
    found: dict[Key, tuple[Policy, list[Json]]] = {}
    for cell in (cell for record in run.pairs for cell in record["cells"]):
        for index, form in enumerate(cell["forms"]):
            own = [one for block in cell["blocks"] for one in block["samples"] if one["form"] == index]
            _, cells = found.setdefault((form["method"], form["variant"]), (policy_of(form), []))
            cells.append({**cell, "samples": own})
    return found


def _groups(run: Run) -> dict[Latex, list[Row]]:
    """Rows by the printed name of the method, in the order of the paper and of this module; what is unknown is last."""
    cells: dict[Key, list[Json]] = {}
    for record in run.records:
        for cell in record["cells"]:
            cells.setdefault((record["method"], cell["variant"]), []).append({**cell, "layer": record["layer"]})
    paired = _in_pairs(run)
    known = dict.fromkeys([*cells, *(key for key, (policy, _) in paired.items() if policy.plain == Policy())])
    ranks = {name: rank for rank, name in enumerate([*METHODS, *_KNOWN])}
    groups: dict[Latex, list[Row]] = {}
    for key in sorted(known, key=lambda one: (ranks.get(one[0], len(ranks)), one[0], ranks.get(one, len(ranks)), one)):
        row = Row(
            name=_breakable(key[1]),
            headline=any(cell["headline"] for cell in cells.get(key, ())),
            deeds=[Latex(deed) for deed in _deeds(*key)],
            samples=_samples(cells.get(key, [])),
            in_pairs=_samples(paired[key][1] if key in paired else []),
        )
        groups.setdefault(label(key[0]), []).append(row)
    return groups


def _names(keys: Iterable[Key]) -> list[Latex]:
    """Variants by name; those of one method stand together, behind its name."""
    return [
        Latex(f"{latex(plain_name(method))} {', '.join(_breakable(variant) for _, variant in group)}")
        for method, group in groupby(sorted(keys), key=lambda key: key[0])
    ]


def methods(run: Run) -> str:
    """The table of what ``run`` compared."""
    groups, policies = _groups(run), _in_pairs(run)
    rows = [row for group in groups.values() for row in group]
    return (
        environment()
        .get_template("methods.tex.j2")
        .render(
            run=run.name,
            functional=run.functional,
            groups=groups,
            kept=_names(key for key, (policy, _) in policies.items() if policy == Policy(keeps=FRONTIER)),
            attended=_names(key for key, (policy, _) in policies.items() if policy.link == ATTENDED),
            undescribed=any(UNMEASURED in row.deeds for row in rows),
            out_of_memory=any(REFUSED in row.samples for row in rows),
        )
    )


def files(material: Material, workload: str) -> list[str]:
    """``setup.tex`` and ``methods.tex``."""
    return [setup(material.run), methods(material.run)]
