"""Decides whether coding pays: Djinn with coded state beside plain state and copies by hand, in one process.

``measure FILE`` runs one round of the pairs with these forms alone, at ``--layers`` of ``--workloads``; every sample is
bit-exact. Run it once for each process. ``compare FILE ...`` prints medians in ms, and the time of coded state over
that of each other form. That is the median over all blocks, and the smallest and largest median of a process. Bytes
stand beside it. A study has these forms among its pairs, unless ``djinn.coded`` is false, and ``compare`` takes those
records too. This takes a minute or two.

``beside FILE`` runs the windows of the neighbour in one process: a session of a runtime decodes, while another one is
swapped out and in at each of its own steps. One runtime has plain state, the other coded. ``compare`` tells these
records, too: what each takes, and the time of coded over plain state.

``sizes TEXT`` times nothing, and runs on any machine. It prints coded over plain bytes of the KV cache after a prompt
from the file TEXT. That is done with the study's checkpoint, and with random weights in the same model.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from statistics import fmean, median

import torch
from transformers import AutoTokenizer

import djinn
from djinn.memory import codec
from evaluation import command
from evaluation.experiments import neighbour, pairs
from evaluation.experiments.pairs import Where
from evaluation.experiments.windows import Windows
from evaluation.measure.cell import Record
from evaluation.measure.job import build_subject
from evaluation.measure.method import Method
from evaluation.measure.models import twin
from evaluation.methods.benchmark_djinn import CodedDjinn, Djinn, make_runtime
from evaluation.methods.offloads import AsyncOffload, BulkOffload, OrderedOffload
from evaluation.records.atomic import write_json
from evaluation.records.neighbour import WINDOWS
from evaluation.study.plan import ConfigError, Pairs, Study
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve

_CLOCKS = ("pause_ms", "ready_ms", "first_kernel_ms", "usable_ms", "resident_ms")
_CODED = "djinn coded"
_BEFORE = {"verb": "measure", "functional": False}  # what records of before these keys are
_TOKENS = 2048


def forms(where: Where) -> list[type[Method]]:
    """Djinn plain and coded, and the forms by hand that are quickest by one clock or another."""
    return [Djinn, CodedDjinn, BulkOffload, OrderedOffload, AsyncOffload]


def measure(study: Study, number: int, layers: Sequence[int], workloads: Sequence[str], blocks: int) -> Record:
    """Round ``number``, as the pairs record it."""
    _check_coded(study)
    depth, known = study.architecture.layers, {one.name: one for one in study.workloads}
    if unknown := [name for name in workloads if name not in known]:
        raise ConfigError(f"--workloads {unknown[0]}: the study has {', '.join(known)}")
    if outside := [layer for layer in layers if not 1 <= layer <= depth]:
        raise ConfigError(f"--layers {outside[0]}: {study.model.name} has layers 1 to {depth}")
    asked = Pairs(rounds=1, blocks=blocks, layers=tuple(layers))
    study = study.but(workloads=tuple(known[name] for name in workloads), pairs=asked)
    with torch.no_grad():
        found = pairs.take(build_subject(study), study, number, _report, forms)
    return {**_about("measure", study), "round": number, **found}


def beside(study: Study) -> Record:
    """A cell for plain and one for coded state, as the neighbour records them, and the bytes of the coder's buffer."""
    _check_coded(study)
    subject = build_subject(study)
    scene = neighbour.scene_of(subject, study)
    with torch.no_grad(), ExitStack() as open_runtimes:
        windows = []
        for kind in (Djinn, CodedDjinn):
            own = twin(subject)
            runtime = open_runtimes.enter_context(make_runtime(own, study, codec=kind.codec))
            buffer_bytes = runtime.status().codec_bytes
            if kind is CodedDjinn and not buffer_bytes:
                raise ConfigError(f"nothing would be coded: {runtime.status().codec}")
            side = neighbour.by_djinn(runtime, own, scene, kind.variant)
            least = int(scene.least * kind.least_share)
            windows.append(Windows(side, study, scene.neighbour, scene.other, least))
        cells = neighbour.cells_of(windows, study, subject.device, _report)
    return {**_about("beside", study), "layer": scene.layer, "buffer_bytes": buffer_bytes, "cells": cells}


def _about(verb: str, study: Study) -> Record:
    return {"verb": verb, "functional": study.functional, "model": study.model.name, "dtype": study.model.dtype}


def _check_coded(study: Study) -> None:
    if study.model.dtype != "bfloat16":
        raise ConfigError(f"model.dtype: {study.model.dtype} is never coded, only bfloat16 is")


def _report(line: str) -> None:
    print(line, file=sys.stderr)


def compare(records: Sequence[Record]) -> Iterator[str]:
    """Yield lines of what the ``records`` of several processes say; raises :class:`ConfigError` for unlike ones."""
    for key in ("verb", "functional", "model", "dtype", "layer"):
        if len(found := {str(record.get(key, _BEFORE.get(key))) for record in records}) > 1:
            raise ConfigError(f"FILE: the {key} is {' here and '.join(sorted(found))} there: compare what is alike")
    if records[0].get("functional"):
        yield "functional CPU run: not a performance result"
    yield from (_compare_beside if records[0].get("verb") == "beside" else _compare_pairs)(records)


def _compare_pairs(records: Sequence[Record]) -> Iterator[str]:
    cells: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        for cell in record["cells"]:
            if any(form["variant"] == CodedDjinn.variant for form in cell["forms"]):
                cells.setdefault((cell["workload"], cell["layer"]), []).append(cell)
    if not cells:
        raise ConfigError("FILE: no coded state in these records")
    for (workload, layer), taken in sorted(cells.items()):
        names = [f"{form['method']} {form['variant']}".replace("djinn default", "djinn") for form in taken[0]["forms"]]
        yield f"{workload}, layer {layer}, {len(taken)} processes"
        for name, form in zip(names, taken[0]["forms"], strict=True):
            yield f"  {name}: {form['host_bytes_paused']} of {form['state_bytes']} bytes in host memory"
        for clock in _CLOCKS:
            times = [_times(cell, clock) for cell in taken]
            coded = [one[names.index(_CODED)] for one in times]
            for number, name in enumerate(names):
                if all(one[number] for one in times):
                    yield _line(clock, name, [one[number] for one in times], coded)


def _compare_beside(records: Sequence[Record]) -> Iterator[str]:
    yield f"beside a session that decodes, layer {records[0]['layer']}, {len(records)} processes"
    for window in WINDOWS:
        plain, coded = (
            [
                [_taken(one) for one in block if one["window"] == window]
                for record in records
                for cell in record["cells"]
                if cell["variant"] == variant
                for block in cell["blocks"]
            ]
            for variant in (Djinn.variant, CodedDjinn.variant)
        )
        for what, times in plain[0][0].items():
            if times:
                ours, theirs = (
                    [median(chain(*(one[what] for one in block))) for block in side] for side in (coded, plain)
                )
                ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
                said = f"  {window:<12} {what:<27} plain {median(theirs):.3f}, coded {median(ours):.3f}"
                yield f"{said}   coded over plain {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _taken(window: Record) -> dict[str, list[float]]:
    """Ms of all that a ``window`` has of each kind."""
    swaps = window["resumes"]
    going_on = zip(window["step_ends_ms"], swaps, strict=False)  # without swaps there are steps alone
    return {
        "token of the neighbour": window["token_ms"],
        "pause": [swap["pause_ms"] for swap in swaps],
        "ready": [swap["ready_ms"] for swap in swaps],
        "from ready to the next stop": [end - swap["ended_ms"] for end, swap in going_on],
    }


def _times(cell: Record, clock: str) -> list[list[float]]:
    """For each form the time of each block, which is the mean of its two samples; none if it lacks the clock."""
    found: list[list[float]] = [[] for _ in cell["forms"]]
    for block in cell["blocks"]:
        for number, times in enumerate(found):
            samples = [sample[clock] for sample in block["samples"] if sample["form"] == number]
            if None not in samples:
                times.append(fmean(samples))
    return found


def _line(clock: str, name: str, times: list[list[float]], coded: list[list[float]]) -> str:
    said = f"  {clock:<16}{name:<24}{median(chain(*times)):9.3f}"
    if name == _CODED:
        return said
    pairs = (zip(ours, theirs, strict=True) for ours, theirs in zip(coded, times, strict=True))
    ratios = [[mine / other for mine, other in pair] for pair in pairs]
    each = list(map(median, ratios))
    return f"{said}   coded over it {median(chain(*ratios)):.3f} ({min(each):.3f} to {max(each):.3f})"


def sizes(study: Study, text: str) -> Iterator[str]:
    """Yield coded over plain bytes of the KV cache at three depths, for trained weights and for random ones."""
    if study.model.path is None:
        raise ConfigError("model.path: a checkpoint is needed; make trained makes one")
    trained = build_subject(study)
    ids = AutoTokenizer.from_pretrained(study.model.path)(text, return_tensors="pt").input_ids[:, :_TOKENS]
    torch.manual_seed(study.model.seed)
    random = type(trained.model)._from_config(trained.model.config, dtype=trained.model.dtype).eval()
    for weights, model in (("trained", trained.model), ("random", random.to(trained.device))):
        with torch.no_grad(), djinn.Runtime(model) as runtime:
            for layer in (runtime.depth // 4, runtime.depth // 2, runtime.depth - 1):
                ratio = _ratio(runtime.open(breakpoint=layer).start(model, ids.to(trained.device), use_cache=True))
                yield f"{weights} weights, {ids.numel()} tokens, layer {layer}: {ratio:.4f} of the KV cache's bytes"


def _ratio(session: djinn.Session) -> float:
    """Coded over plain bytes of the KV cache of a session that stops in a prefill."""
    with session:
        session.wait()
        cache = [tensor.cpu() for name, tensor in session.state.items() if name.startswith("kv.")]
        return sum(map(_coded_bytes, cache)) / sum(tensor.nbytes for tensor in cache)


def _coded_bytes(tensor: torch.Tensor) -> int:
    ranges = codec.ranges_of(tensor.nbytes)
    places = [(tensor.data_ptr() + 2 * first, count) for first, count in ranges]
    return codec.Coded(chunks=tuple(codec.windows(ranges, codec.Reference().histograms(places)))).nbytes


def main() -> int:
    """Command line; returns the exit status."""
    arguments = command.parser("experiments.coding", __doc__)
    verbs = arguments.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("measure", help="one process, whose record goes to FILE")
    one.add_argument("file", type=Path, metavar="FILE")
    one.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    one.add_argument("--round", type=int, default=1, help="which process this is (default 1): orders follow from it")
    one.add_argument("--blocks", type=int, default=2, help="each form there and back (default 2)")
    one.add_argument("--layers", type=int, nargs="+", default=[10, 20, 39], help="default: 10 20 39")
    one.add_argument("--workloads", nargs="+", default=["session", "decode"], help="default: session decode")
    near = verbs.add_parser("beside", help="one process beside a session that decodes, whose record goes to FILE")
    near.add_argument("file", type=Path, metavar="FILE")
    near.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    near.add_argument("--blocks", type=int, help="every kind of window twice in each (default: the study's)")
    several = verbs.add_parser("compare", help="print what the FILEs of several processes say")
    several.add_argument("files", type=Path, nargs="+", metavar="FILE")
    bytes_of = verbs.add_parser("sizes", help="print how much smaller the KV cache of a trained model becomes")
    bytes_of.add_argument("text", type=Path, metavar="TEXT", help="a file, whose first 2048 tokens are the prompt")
    bytes_of.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    given = arguments.parse_args()
    return command.run(lambda: _do(given))


def _do(given: argparse.Namespace) -> None:
    if (blocks := getattr(given, "blocks", None)) is not None and blocks < 1:
        raise ConfigError(f"--blocks {blocks}: from 1")
    if given.verb == "measure":
        study = resolve(load_config(given.config))
        write_json(given.file, measure(study, given.round, given.layers, given.workloads, given.blocks))
    elif given.verb == "beside":
        study = resolve(load_config(given.config))
        if blocks is not None:
            study = study.but(neighbour=study.neighbour.but(blocks=blocks))
        write_json(given.file, beside(study))
    elif given.verb == "sizes":
        for line in sizes(resolve(load_config(given.config)), given.text.read_text(encoding="utf-8")):
            print(line, flush=True)
    else:
        print("\n".join(compare([_read(file) for file in given.files])))


def _read(file: Path) -> Record:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(found, dict) or not found.get("cells"):
        raise ConfigError(f"{file}: no record of measure, of beside or of pairs")
    of_pairs = {"functional": found["provenance"]["device"] == "cpu"} if "provenance" in found else {}
    return {**found, **of_pairs}


if __name__ == "__main__":
    sys.exit(main())
