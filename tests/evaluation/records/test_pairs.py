"""The record of the pairs: what a run holds of it, and each lie that is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.records.publish import publish
from evaluation.records.runs import RunError, load_run, pair_paths
from tests.evaluation.paired import SyntheticPairs, forms
from tests.evaluation.synthetic import EVERY, Synthetic, edit

GOOD = Synthetic(layers=(10,), samples=6, pairs=SyntheticPairs(layers=(10, 39), rounds=2, blocks=2))
FIRST = "raw/pairs/round_1.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The run before anybody lies."""
    return GOOD.write(tmp_path_factory.mktemp("good") / "local")


def test_a_run_has_its_pairs_by_rounds(good):
    """Each round has every workload at every layer of the pairs, and every form in every block, there and back."""
    run = load_run(good)
    assert [record["round"] for record in run.pairs] == [1, 2]
    for record in run.pairs:
        assert [(cell["workload"], cell["layer"]) for cell in record["cells"]] == [
            (workload, layer) for workload in ("activation", "session") for layer in (10, 39)
        ]
        for cell in record["cells"]:
            offloads = [form for form in cell["forms"] if form["method"] != "recompute"]
            assert len(offloads) == len(forms(cell["workload"] == "session"))
            assert len(cell["forms"]) - len(offloads) == (2 if cell["layer"] == 39 else 0)
            for block in cell["blocks"]:
                order = [sample["form"] for sample in block["samples"]]
                assert order == order[::-1]
                assert sorted(order) == sorted([*range(len(cell["forms"]))] * 2)


def test_an_older_run_and_one_without_djinn_have_none(tmp_path):
    """Nothing is asked for that nobody measured."""
    assert load_run(Synthetic(layers=(10,), samples=6).write(tmp_path / "old")).pairs == []
    assert pair_paths(tmp_path, {"methods": ["vanilla", "djinn"], "pairs": {"rounds": 8}}) == []


def test_pairs_are_published_and_none_may_be_missing(tmp_path):
    """They go with the records of the layers."""
    folder = replace(GOOD, peers=("memory_saver",), beside=EVERY).write(tmp_path / "local")
    target = publish(folder, tmp_path / "published", "h100")
    assert len(load_run(target).pairs) == 2
    (folder / FIRST).unlink()
    with pytest.raises(RunError, match=r"round_1.json: missing; the run is incomplete \(1 jobs\)"):
        publish(folder, tmp_path / "other", "h100")


def uncoded(record):
    """No kernel was to be had: what is called coded is as large as plain state."""
    for form in (form for cell in record["cells"] for form in cell["forms"] if form["codec"] == "auto"):
        form.update(buffer_bytes=0, host_bytes_paused=form["state_bytes"])


def without_coded_sessions(record):
    """The memory wall of plain state alone."""
    record["cells"] = [cell for cell in record["cells"] if cell["variant"] != "coded"]


@pytest.mark.parametrize(
    ("place", "lacks", "says"),
    [
        ("raw/pairs/round_2.json", uncoded, "no kernel codes state here"),
        ("capacity/djinn.json", without_coded_sessions, "has no coded sessions, which the study asks for"),
    ],
)
def test_coded_state_that_was_asked_for_is_published_and_nothing_in_its_place(tmp_path, place, lacks, says):
    """The paper would say of it what was not measured; a run that does not ask for it needs none."""
    folder = replace(GOOD, peers=("memory_saver",), beside=EVERY).write(tmp_path / "local")
    edit(folder / place, lacks)
    load_run(folder)
    with pytest.raises(RunError, match=says):
        publish(folder, tmp_path / "published", "h100")
    plain = replace(GOOD, pairs=replace(GOOD.pairs, coded=False), peers=("memory_saver",), beside=EVERY)
    folder = plain.write(tmp_path / "plain" / "local")
    edit(folder / "capacity" / "djinn.json", without_coded_sessions)
    publish(folder, tmp_path / "published", "h100")


def at(*keys, to):
    """The value at ``keys`` of a record becomes ``to``."""

    def do(record):
        *outer, last = keys
        for key in outer:
            record = record[key]
        record[last] = to

    return do


def forward_twice(record):
    """The second half of a block runs in the order of the first."""
    samples = record["cells"][0]["blocks"][0]["samples"]
    samples[len(samples) // 2 :] = samples[: len(samples) // 2]


SAMPLE = ("cells", 0, "blocks", 0, "samples", 0)
LIES = {
    "not bit-exact": (at(*SAMPLE, "bit_exact", to=False), "bit_exact"),
    "a negative time": (at(*SAMPLE, "ready_ms", to=-1), "greater than or equal to 0"),
    "usable before the first kernel": (at(*SAMPLE, "first_kernel_ms", to=1e6), "cannot be usable before"),
    "usable before ready": (at(*SAMPLE, "ready_ms", to=1e6), "cannot be usable before"),
    "a next token before the logits": (at("cells", 2, *SAMPLE[2:], "next_token_ms", to=0), "next token cannot be"),
    "a next token without a cache": (at(*SAMPLE, "next_token_ms", to=99.0), "a next token needs a KV cache"),
    "no next token": (at("cells", 2, *SAMPLE[2:], "next_token_ms", to=None), "a next token is missing"),
    "an unknown form": (at(*SAMPLE, "form", to=99), "does not run each form once"),
    "the same order again": (forward_twice, "does not run each form once"),
    "a block too few": (lambda record: record["cells"][0]["blocks"].pop(), "1 blocks of the 2"),
    "a sample too few": (
        lambda record: record["cells"][0]["blocks"][0]["samples"].pop(), "does not run each form once"
    ),
    "a cell too few": (lambda record: record["cells"].pop(), "not every workload is there at every layer"),
    "another layer": (at("cells", 0, "layer", to=3), "not every workload is there at every layer"),
    "a form twice": (at("cells", 0, "forms", 0, "variant", to="async"), "two cells of .*form"),
    "a frontier that is kept in no memory": (
        lambda record: [form.update(kept_bytes=0) for form in record["cells"][0]["forms"]], "keeps the frontier"
    ),
    "recompute at a shallow layer": (
        at("cells", 0, "forms", 0, "method", to="recompute"), "at the last layer and the one before alone"
    ),
    "recompute that keeps the frontier": (
        lambda record: record["cells"][1]["forms"][-1].update(keeps="frontier", kept_bytes=1), "keeps nothing"
    ),
    "a graph in no memory": (
        lambda record: record["cells"][1]["forms"][-1].update(device_bytes_paused=0), "reserves more of the device"
    ),
    "a buffer for nothing": (at("cells", 0, "forms", 0, "buffer_bytes", to=1), "codes nothing"),
    "coded state without a codec": (
        lambda record: record["cells"][2]["forms"][13].update(codec="raw", buffer_bytes=0), "0 forms .* in place of 1"
    ),
    "coded state that nobody asked for": (at("cells", 0, "forms", 2, "codec", to="auto"), "1 forms .* in place of 0"),
    "plain state that says it is coded": (at("cells", 2, "forms", 2, "codec", to="auto"), "2 forms .* in place of 1"),
    "coded state by hand": (at("cells", 2, "forms", 12, "codec", to="auto"), "bulk of manual_offload is coded"),
    "coded state beside a kept frontier": (at("cells", 2, "forms", 8, "codec", to="auto"), "kept of djinn is coded"),
    "coded state that is nowhere": (at("cells", 2, "forms", 13, "host_bytes_paused", to=0), "without a trace"),
    "coded state without a buffer": (at("cells", 2, "forms", 13, "buffer_bytes", to=0), "without a buffer"),
    "more bytes than the state has": (
        at("cells", 2, "forms", 13, "host_bytes_paused", to=10**12), "more bytes in host memory than it moves"
    ),
    "no memory, and samples": (at("cells", 0, "outcome", to="out_of_memory"), "with samples or without a message"),
    "a floor too few": (lambda record: record["cells"][0]["blocks"][0]["floor_ms"].pop(), "floor_ms"),
    "another round": (at("round", to=2), "holds the record of raw/pairs/round_2"),
    "other sources": (at("provenance", "source_sha256", to="b" * 64), "another source digest"),
    "another study": (at("study", "pairs", "blocks", to=3), r"another study .*\(pairs.blocks\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_in_one_line_that_names_the_file(good, tmp_path, name):
    """Whatever the record claims, nothing of the run is used."""
    lie, says = LIES[name]
    folder = Path(shutil.copytree(good, tmp_path / "local"))
    edit(folder / FIRST, lie)
    with pytest.raises(RunError, match=says) as refusal:
        load_run(folder)
    assert "\n" not in str(refusal.value)
    assert FIRST in str(refusal.value)


def test_a_cell_without_memory_has_no_coded_form(good, tmp_path):
    """Nor any other; so the record is right."""
    folder = Path(shutil.copytree(good, tmp_path / "local"))

    def full(record):
        cell = next(cell for cell in record["cells"] if any(form["codec"] == "auto" for form in cell["forms"]))
        cell.update(outcome="out_of_memory", message="the device is full", forms=[], blocks=[])

    edit(folder / FIRST, full)
    assert sum(not cell["forms"] for pairs in load_run(folder).pairs for cell in pairs["cells"]) == 1


def test_a_round_that_is_a_copy_is_refused(good, tmp_path):
    """Two processes never take the same times."""
    folder = Path(shutil.copytree(good, tmp_path / "local"))
    other = {}
    edit(folder / FIRST, other.update)
    edit(folder / "raw/pairs/round_2.json", lambda record: record.update(cells=other["cells"]))
    with pytest.raises(RunError, match=r"holds the samples of .*round_1"):
        load_run(folder)
