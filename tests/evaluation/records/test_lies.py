"""Each lie changes one thing in a good run, and the run is refused in one line that names the file."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from evaluation.records.runs import RunError, load_run, sha256
from tests.evaluation.synthetic import EVERY, Synthetic, edit

GOOD = Synthetic(
    layers=(10,), rounds=2, samples=6, methods=("vanilla", "recompute", "djinn"), peers=("memory_saver",),
    beside={place: cells for place, cells in EVERY.items() if "manual_offload" not in place},
)  # fmt: skip
DJINN = "raw/djinn/layer_10/round_1.json"
AGAIN = "raw/djinn/layer_10/round_2.json"
VANILLA = "raw/vanilla/layer_10/round_1.json"


@dataclass(frozen=True, kw_only=True)
class Lie:
    """What is done to the file ``at``, and what the message says of it."""

    at: str
    says: str
    do: Callable[[Path], object]


def change(at: str, says: str, *keys: object, to: object) -> Lie:
    """The value at ``keys`` of the JSON in ``at`` becomes ``to``."""

    def do(path: Path) -> None:
        def put(value):
            *parents, last = keys
            for key in parents:
                value = value[key]
            value[last] = to

        edit(path, put)

    return Lie(at=at, says=says, do=do)


def rewrite(at: str, says: str, old: str, new: str) -> Lie:
    """The first ``old`` in the text of ``at`` becomes ``new``."""

    def do(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return Lie(at=at, says=says, do=do)


def drop(at: str, says: str, *keys: object) -> Lie:
    """The last entry of the list at ``keys`` is gone, or the value at them."""

    def do(path: Path) -> None:
        def pop(value):
            for key in keys[:-1]:
                value = value[key]
            del value[keys[-1]]

        edit(path, pop)

    return Lie(at=at, says=says, do=do)


def copied(path: Path) -> None:
    """The samples of the other round become this one's."""
    others = {}
    edit(path.with_name("round_1.json"), others.update)
    edit(path, lambda record: [mine.update(his) for mine, his in zip(record["cells"], others["cells"], strict=True)])


SAMPLE = ("cells", 0, "samples", 0)
NEGATIVE = "should be greater than or equal to 0"
RATE = ("ceilings", "matrix_tflops_bf16")

LIES = {
    # The file itself.
    "infinity by overflow": rewrite(DJINN, "1e999 is beyond", '"round": 1', '"round": 1e999'),
    "NaN": rewrite(DJINN, "NaN is not JSON", '"round": 1', '"round": NaN'),
    "a huge integer": rewrite(DJINN, "is beyond 2\\^63", '"round": 1', '"round": 1' + "0" * 5000),
    "deep nesting": Lie(at=DJINN, says="nested too deeply", do=lambda path: path.write_text("[" * 100_000)),
    "a key twice": rewrite(DJINN, "'round' stands twice", '"round": 1', '"round": 2, "round": 1'),
    "UTF-16": Lie(at=DJINN, says="not readable", do=lambda path: path.write_text(path.read_text(), encoding="utf-16")),
    "half a character": rewrite(DJINN, "not readable", '"schema": 1', '"\\ud800": 1, "schema": 1'),
    "a folder for a file": Lie(at=DJINN, says="not readable", do=lambda path: (path.unlink(), path.mkdir())),
    # The sample record.
    "a sample that is not bit-exact": change(DJINN, "bit_exact", *SAMPLE, "bit_exact", to=False),
    "a negative time": change(DJINN, NEGATIVE, *SAMPLE, "pause_ms", to=-1),
    "negative bytes": change(DJINN, NEGATIVE, *SAMPLE, "host_bytes_paused", to=-1),
    "a time in words": change(DJINN, "valid number", *SAMPLE, "ready_ms", to="fast"),
    "true for a number": change(DJINN, "valid number", *SAMPLE, "pause_ms", to=True),
    "ready after the logits": change(DJINN, "cannot be usable before ready", *SAMPLE, "ready_ms", to=1e6),
    "resident before ready": change(DJINN, "nothing is ready", *SAMPLE, "resident_ms", to=0),
    "the first kernel after the logits": change(DJINN, "cannot be usable", *SAMPLE, "first_kernel_ms", to=1e6),
    "a token before the logits": change(DJINN, "next token cannot", *SAMPLE, "next_token_ms", to=0),
    "no logits": drop(DJINN, "usable_ms: Field required", *SAMPLE, "usable_ms"),
    "an unknown key": change(DJINN, "Extra inputs", "comment", to="x"),
    "another method": change(VANILLA, "holds the record of raw/recompute", "method", to="recompute"),
    "another layer": change(DJINN, "holds the record of raw/djinn/layer_1/", "layer", to=1),
    "another round": change(DJINN, "holds the record of .*round_2", "round", to=2),
    "a deeper layer than the model has": change(DJINN, "layer 10 of a model of 5", "model", "layers", to=5),
    "a method that is a folder": change(DJINN, "method: String should match", "method", to="../djinn"),
    "a sample too few": drop(DJINN, "5 samples of the 6", "cells", 0, "samples", -1),
    "a sample too many": Lie(
        at=DJINN,
        says="7 samples of the 6",
        do=lambda path: edit(path, lambda r: r["cells"][0]["samples"].append(r["cells"][0]["samples"][0])),
    ),
    "no sample at all": change(DJINN, "there are 0 samples", "cells", 0, "samples", to=[]),
    "samples of what ran out of memory": change(
        DJINN, "no message says why", "cells", 0, "outcome", to="out_of_memory"
    ),
    "never validated": change(DJINN, "0 validation samples", "cells", 0, "validation_samples", to=0),
    "a workload that the study has not": change(DJINN, "workload", "cells", 0, "workload", to="chat"),
    "a variant that the others have not": change(AGAIN, "not in every record", "cells", 0, "variant", to="fast"),
    "two primary variants": Lie(
        at=DJINN,
        says="2 headline cells of workload activation",
        do=lambda path: edit(path, lambda r: r["cells"].append({**r["cells"][0], "variant": "other"})),
    ),
    "less state than frontier": change(DJINN, "said to be smaller", "cells", 0, "state_bytes", to=1),
    "a round that is a copy": Lie(at=AGAIN, says="holds the samples of .*round_1", do=copied),
    "a folder of the machine": change(DJINN, "names a folder", "model", "weights", to="checkpoint /home/me/model"),
    "a folder of Windows": change(DJINN, "names a folder", "cells", 0, "message", to="C:\\Users\\me\\model"),
    "another study": change(DJINN, r"another study .*\(measurement.samples\)", "study", "measurement", "samples", to=7),
    "no study to check by": drop(DJINN, "study.measurement.samples is missing", "study", "measurement", "samples"),
    "another precision than the study's": change("study.json", "another study", "model", "dtype", to="float32"),
    "a digest that is none": change(DJINN, "source_sha256", "provenance", "source_sha256", to="abc"),
    "other sources": change(DJINN, "another source digest", "provenance", "source_sha256", to="b" * 64),
    "another device": change(DJINN, "device", "provenance", "device", to="cpu"),
    # The study.
    "a billion rounds": change("study.json", "rounds: Input should be less", "rounds", to=10**9),
    "a method outside the run": change("study.json", "methods", "methods", 0, to="../../secret"),
    "a layer twice": change("study.json", "layers: one stands twice", "layers", to=[1, 1]),
    "no pairs": drop("study.json", "pairs: Field required", "pairs"),
    "no experiments": drop("study.json", "experiments: Field required", "experiments"),
    "no methods of latency": drop("study.json", "latency_methods: Field required", "latency_methods"),
    # The machine.
    "another GPU": change("machine.json", "a NVIDIA L4, and .* is of a NVIDIA H100", "gpu", "name", to="NVIDIA L4"),
    "a negative ceiling": change("machine.json", "greater than 0", *RATE, "median", to=-1),
    "a ceiling of zero": change("machine.json", "greater than 0", *RATE, "samples", to=[0, 1, 1]),
    "a ceiling that was not measured": change("machine.json", "does not follow", *RATE, "median", to=990.0),
    "more cores than there are": change("machine.json", "more cores", "host", "cores_usable", to=99),
    "negative memory": change("machine.json", "gpu.memory_bytes", "gpu", "memory_bytes", to=-1),
    "no ceilings": drop("machine.json", "ceilings: Field required", "ceilings"),
    # Load.
    "load of another kind": change("load.json", "kind", "kind", to="overhead"),
    "load: not bit-exact": change("load.json", "bit_exact", *SAMPLE, "bit_exact", to=False),
    "load: a billion sessions": change("load.json", "are paused", "cells", 0, "sessions", to=10**9),
    "load: more paused than asked": change("load.json", "are paused", "cells", 0, "paused", to=2),
    "load: a resume too few": drop("load.json", "11 samples of 12", "cells", 0, "samples", -1),
    "load: a session that is not paused": change("load.json", "not paused", *SAMPLE, "session", to=9),
    "load: resident before ready": change("load.json", "nothing is ready", *SAMPLE, "resident_ms", to=0),
    "load: a number of sessions left out": drop("load.json", "asks for the sessions 1, 8", "cells", -1),
    "load: more than the arena": change("load.json", "than the arena", "cells", 0, "host_bytes_paused", to=10**12),
    "load: by hand not bit-exact": change("load.json", "bit_exact", *SAMPLE, "by_hand", "bit_exact", to=False),
    "load: by hand resident before ready": change(
        "load.json", "nothing is ready", *SAMPLE, "by_hand", "resident_ms", to=0
    ),
    "load: one has nobody by hand beside it": drop("load.json", "not every resume has one", *SAMPLE, "by_hand"),
    "load: nobody says what is by hand": drop("load.json", "or their description", "by_hand"),
    "load: a third session by hand": change(
        "load.json", "by hand of more than 2", "cells", 1, "samples", 0, "by_hand", "session", to=2
    ),
    "load: another by hand where one is paused": change(
        "load.json", "by hand of more than 1", *SAMPLE, "by_hand", "session", to=1
    ),
    "load: Djinn is always first": Lie(
        at="load.json",
        says="does not alternate",
        do=lambda path: edit(path, lambda r: [one.update(djinn_first=True) for one in r["cells"][0]["samples"]]),
    ),
    # Overhead.
    "overhead: not bit-exact": change("overhead.json", "bit_exact", "cells", 0, "pairs", 0, "bit_exact", to=False),
    "overhead: a pair too few": drop("overhead.json", "not mirror images", "cells", 0, "pairs", -1),
    "overhead: two pairs too few": Lie(
        at="overhead.json",
        says="2 pairs of the 4",
        do=lambda path: edit(path, lambda r: r["cells"][0].update(pairs=r["cells"][0]["pairs"][:2])),
    ),
    "overhead: Djinn begins again": change(
        "overhead.json", "not mirror images", "cells", 0, "pairs", 1, "passes", "djinn_first", to=[True, False]
    ),
    "overhead: a pair that does not say who was first": drop(
        "overhead.json", "djinn_first: Field required", "cells", 0, "pairs", 1, "passes", "djinn_first"
    ),
    "overhead: a pass of which nobody was first": change(
        "overhead.json", "not every pass says", "cells", 0, "pairs", 0, "passes", "djinn_first", to=[True]
    ),
    "overhead: a pass too few": drop("overhead.json", "more passes", "cells", 1, "pairs", 0, "passes", "bare_ms", -1),
    "overhead: a bare model that takes no time": change(
        "overhead.json", "greater than 0", "cells", 0, "pairs", 0, "passes", "bare_ms", to=[0, 0]
    ),
    "overhead: no decode steps": drop("overhead.json", "prefill and decode", "cells", 1),
    # Sweep.
    "sweep: a sample too few": drop("sweep.json", "2 samples of the 3", "cells", 0, "samples", -1),
    "sweep: a size that was not asked for": change("sweep.json", "does not ask", "cells", 0, "tokens", to=4096),
    "sweep: another method": change("sweep.json", "method", "cells", 0, "method", to="djinn"),
    "sweep: a cell twice": Lie(
        at="sweep.json", says="two cells", do=lambda path: edit(path, lambda r: r["cells"].append(r["cells"][0]))
    ),
    # The memory wall.
    "capacity: a billion sessions": change("capacity/djinn.json", "from the figures", "cells", 0, "sessions", to=10**9),
    "capacity: more than the cap": Lie(
        at="capacity/recompute.json",
        says="the cap is 8",
        do=lambda path: edit(
            path,
            lambda r: r["cells"][0].update(sessions=9, figures=[*r["cells"][0]["figures"], {
                **r["cells"][0]["figures"][0], "sessions": 9}]),
        ),
    ),
    "capacity: a cap that was not reached": Lie(
        at="capacity/recompute.json",
        says="the cap is 8",
        do=lambda path: edit(
            path, lambda r: r["cells"][0].update(sessions=4, figures=r["cells"][0]["figures"][:4])
        ),
    ),
    "capacity: not bit-exact": change("capacity/djinn.json", "bit_exact", "cells", 0, "bit_exact", to=False),
    "capacity: another method": change("capacity/djinn.json", "holds the record of", "method", to="vanilla"),
    "capacity: the refusal is hidden": change("capacity/vanilla.json", "figures", "cells", 1, "stopped_by", to="cap"),
    "capacity: negative memory": change(
        "capacity/djinn.json", NEGATIVE, "cells", 0, "figures", 0, "device_bytes", to=-1
    ),
    "capacity: an arena of no size": change(
        "capacity/djinn.json", "nothing says how large", "cells", 0, "arena_bytes", to=None
    ),
    "capacity: more than the arena": change(
        "capacity/djinn.json", "than their arena has", "cells", 0, "figures", 0, "host_bytes", to=10**12
    ),
    "capacity: nothing says what refused": change("capacity/djinn.json", "message is ''", "cells", 0, "message", to=""),
    # Edits.
    "capabilities: exact and lost": change(
        "capabilities/djinn.json", "cannot be exact", "cells", 0, "edit_survives", to=False
    ),
    "capabilities: another layer": change("capabilities/djinn.json", "not what is edited", "layer", to=1),
    "capabilities: a negative time": change("capabilities/djinn.json", NEGATIVE, "cells", 0, "resume_ms", 0, to=-1),
    "capabilities: negative lines": change("capabilities/djinn.json", NEGATIVE, "cells", 0, "state_lines", to=-1),
    # Peers.
    "peers: another peer": change("peers/memory_saver.json", "holds the record of", "peer", to="process_checkpoint"),
    "peers: another layer": change("peers/memory_saver.json", "deepest", "layer", to=1),
    "peers: a sample too few": drop("peers/memory_saver.json", "3 samples of the 4", "cells", 0, "samples", -1),
    "peers: a workload that the study has not": change(
        "peers/memory_saver.json", "no workload chat", "cells", 0, "workload", to="chat"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The run before anybody lies."""
    folder = GOOD.write(tmp_path_factory.mktemp("good") / "local")
    assert load_run(folder).beside.keys() >= {"load.json", "capacity/djinn.json", "peers/memory_saver.json"}
    return folder


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_in_one_line_that_names_the_file(good, tmp_path, name):
    """Whatever the record claims, nothing of the run is used."""
    lie = LIES[name]
    folder = Path(shutil.copytree(good, tmp_path / "local"))
    lie.do(folder / lie.at)
    with pytest.raises(RunError, match=lie.says) as refusal:
        load_run(folder)
    message = str(refusal.value)
    assert "\n" not in message
    assert re.search(re.escape(lie.at), message), message


def test_a_published_run_is_not_believed_for_its_checksums(tmp_path):
    """Whoever changes a record can renew the sums as well."""
    folder = GOOD.write(tmp_path / "published" / "h100")
    edit(folder / "capacity/djinn.json", lambda record: record["cells"][0].update(sessions=10**9))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(RunError, match=r"capacity/djinn.json: .*do not follow from the figures"):
        load_run(folder)
