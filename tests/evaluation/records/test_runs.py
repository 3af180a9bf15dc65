"""A run is read whole and unmixed, or refused by the name of the file that is wrong."""

from dataclasses import replace

import pytest

from evaluation.records.runs import CHECKSUMS, RunError, load_run, sha256, sitting_of
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.synthetic import Synthetic, edit, record_path, write

SMALL = Synthetic(layers=(1, 10), samples=6)


@pytest.fixture
def folder(tmp_path):
    """A small valid GPU run."""
    return SMALL.write(tmp_path / "local")


def seal(folder):
    """Write the checksums of all files in ``folder``, as sha256sum would."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / CHECKSUMS).write_text("".join(lines))


def test_a_valid_run_is_read_in_the_order_of_its_study(folder):
    """Name, machine, study and records come back; a GPU run is not functional and a CPU run is."""
    run = load_run(folder)
    assert (run.name, run.functional) == ("local", False)
    assert (run.machine, run.study) == (SMALL.machine(), SMALL.study())
    methods = ("vanilla", "recompute", "manual_offload", "djinn")
    assert [(r["method"], r["layer"]) for r in run.records] == [(m, n) for m in methods for n in (1, 10)]
    functional = Synthetic(functional=True, layers=(1,), samples=6).write(folder.parent / "cpu")
    assert load_run(functional).functional


@pytest.mark.parametrize("content", ["{", '{"a": NaN}', "[]", "\x80"])
def test_a_corrupt_record_is_refused_by_name(folder, content):
    """Half a file, NaN, something that is no record, broken UTF-8."""
    path = record_path(folder, "djinn", 10)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match="djinn/layer_10/round_1.json: not "):
        load_run(folder)


@pytest.mark.parametrize("name", ["machine.json", "study.json"])
def test_a_missing_description_is_refused_by_name(folder, name):
    """Without the machine or the study there is no run."""
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"{name}: missing"):
        load_run(folder)


def set_ready(value):
    return lambda record: record["cells"][0]["samples"][0].update(ready_ms=value)


@pytest.mark.parametrize(
    "change",
    [
        set_ready(-1),
        set_ready("fast"),
        lambda record: record["cells"][0]["samples"][0].update(bit_exact=False),
        lambda record: record["cells"][0].update(samples=[]),
        lambda record: record.pop("provenance"),
        lambda record: record.update(comment="x"),
    ],
)
def test_a_record_that_the_schema_refuses_is_refused_by_name(folder, change):
    """Among others: a sample that was not bit-exact, and a cell that is said to be fine and has no samples."""
    edit(record_path(folder, "djinn", 1), change)
    with pytest.raises(RunError, match="djinn/layer_1/round_1.json: not a valid record"):
        load_run(folder)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("another study", lambda r: r["study"].update(order_seed=2)),
        ("another device ", lambda r: r["provenance"].update(device="cpu")),
        ("another device name", lambda r: r["provenance"].update(device_name="NVIDIA L4")),
        ("another driver", lambda r: r["provenance"].update(driver="580.1")),
        ("another source digest", lambda r: r["provenance"].update(source_sha256="b" * 64)),
        ("another package versions", lambda r: r["provenance"].update(versions={"torch": "2.11.0"})),
        ("another model", lambda r: r["model"].update(weights="random, seed 1")),
    ],
)
def test_a_mixed_run_is_refused_by_name(folder, what, change):
    """Records of two studies, devices, sources, environments or models never make one run."""
    edit(record_path(folder, "recompute", 10), change)
    with pytest.raises(RunError, match=f"recompute/layer_10/round_1.json: mixed run: {what}"):
        load_run(folder)


def test_the_probe_is_of_the_driver_that_measured(folder):
    """Where both say which."""
    for path in (path for path in folder.rglob("*.json") if path.name not in ("machine.json", "study.json")):
        edit(path, lambda record: record["provenance"].update(driver="580.1"))
    edit(folder / "machine.json", lambda machine: machine["gpu"].update(driver="580.1"))
    load_run(folder)
    edit(folder / "machine.json", lambda machine: machine["gpu"].update(driver="570.2"))
    with pytest.raises(RunError, match=r"machine.json: mixed run: driver 570.2, .*/round_1.json is of 580.1"):
        load_run(folder)
    edit(folder / "machine.json", lambda machine: machine["gpu"].update(driver={"unavailable": "Not Supported"}))
    load_run(folder)


def seat(path, sitting):
    edit(path, lambda record: record["provenance"].update(sitting=sitting))


def test_all_but_the_line_over_depth_may_be_of_several_sittings(tmp_path):
    """Each round of the pairs, and what lies beside, says its own; a record of ``raw/METHOD`` with another is named."""
    folder = replace(SMALL, pairs=SyntheticPairs(layers=(1, 10)), peers=("memory_saver",)).write(tmp_path / "local")
    assert load_run(folder).pair_sittings == {1: None, 2: None}
    for path in (folder / "raw").rglob("*.json"):
        seat(path, "a" * 12)
    seat(folder / "raw/pairs/round_2.json", "b" * 12)
    seat(folder / "load.json", "c" * 12)
    run = load_run(folder)
    assert run.pair_sittings == {1: "a" * 12, 2: "b" * 12}
    assert {sitting_of(record) for record in run.records} == {"a" * 12}
    seat(record_path(folder, "recompute", 10), "b" * 12)
    with pytest.raises(RunError, match=r"recompute/layer_10/round_1.json: mixed run: another sitting than .*vanilla"):
        load_run(folder)


@pytest.mark.parametrize("sitting", ["GPU-aaaa-1111", "a" * 13, ""])
def test_a_sitting_is_a_digest(folder, sitting):
    """Not the name of a card."""
    seat(record_path(folder, "djinn", 10), sitting)
    with pytest.raises(RunError, match=r"djinn/layer_10/round_1.json: not a valid record: provenance.sitting"):
        load_run(folder)


WITH_PEERS = replace(SMALL, peers=("memory_saver", "process_checkpoint"))


def test_peers_may_be_of_another_state_of_the_sources(tmp_path):
    """They decide no claim; but both of one."""
    folder = WITH_PEERS.write(tmp_path / "local")
    for peer in WITH_PEERS.peers:
        edit(folder / f"peers/{peer}.json", lambda record: record["provenance"].update(source_sha256="b" * 64))
    assert load_run(folder).beside["peers/memory_saver.json"]["provenance"]["source_sha256"] == "b" * 64
    edit(folder / "peers/memory_saver.json", lambda record: record["provenance"].update(source_sha256="c" * 64))
    with pytest.raises(RunError, match=r"process_checkpoint.json: mixed run: another source digest than .*memory_sav"):
        load_run(folder)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("study", lambda r: r["study"].update(order_seed=2)),
        ("device name", lambda r: r["provenance"].update(device_name="NVIDIA L4")),
        ("package versions", lambda r: r["provenance"].update(versions={"torch": "2.11.0"})),
        ("model", lambda r: r["model"].update(weights="random, seed 1")),
    ],
)
def test_peers_share_all_else_with_the_run(tmp_path, what, change):
    """Even if both differ alike."""
    folder = WITH_PEERS.write(tmp_path / "local")
    for peer in WITH_PEERS.peers:
        edit(folder / f"peers/{peer}.json", change)
    with pytest.raises(RunError, match=rf"peers/memory_saver.json: mixed run: another {what} than .*\.json"):
        load_run(folder)


def test_a_round_may_be_added_to_a_run(tmp_path):
    """Records do not say how many there are, or said so when there were fewer."""
    two = replace(SMALL, rounds=2)
    folder = two.write(tmp_path / "local")
    for path in folder.rglob("round_1.json"):
        edit(path, lambda record: record["study"].pop("rounds"))
    assert [record["round"] for record in load_run(folder).records] == [1, 2] * (len(two.methods) * len(two.layers))
    edit(folder / "study.json", lambda study: study.update(rounds=1))
    assert {record["round"] for record in load_run(folder).records} == {1}


def test_a_study_or_machine_of_another_run_is_refused(folder):
    """Records agree among themselves and not with study.json, or not with machine.json."""
    edit(folder / "study.json", lambda study: study.update(order_seed=2))
    with pytest.raises(RunError, match=r"another study than .*study.json"):
        load_run(folder)
    write(folder / "study.json", SMALL.study())
    edit(folder / "machine.json", lambda machine: machine.update(functional=True))
    with pytest.raises(RunError, match="machine.json: mixed run"):
        load_run(folder)


def test_a_record_in_the_wrong_place_is_refused(folder):
    """A copy of layer 1 under the name of layer 10."""
    record_path(folder, "djinn", 10).write_bytes(record_path(folder, "djinn", 1).read_bytes())
    with pytest.raises(RunError, match="djinn/layer_10/round_1.json: holds the record of raw/djinn/layer_1"):
        load_run(folder)


def test_a_repeated_cell_is_refused(folder):
    """The same workload and variant twice in a record would be pooled without a trace."""
    edit(record_path(folder, "djinn", 1), lambda record: record["cells"].append(record["cells"][0]))
    with pytest.raises(RunError, match=r"two cells of workload and variant \('activation', 'default'\)"):
        load_run(folder)


def test_what_an_earlier_study_left_is_not_part_of_a_local_run(folder):
    """A record at a layer that the study does not ask for is not read, not even to be refused."""
    path = record_path(folder, "djinn", 20)
    path.parent.mkdir()
    path.write_text("{")
    assert {record["layer"] for record in load_run(folder).records} == {1, 10}


def test_a_run_without_records_is_refused(tmp_path):
    """Neither a folder that is not there nor one without a record is a run."""
    with pytest.raises(RunError, match="no such run"):
        load_run(tmp_path / "nothing")
    empty = Synthetic(methods=()).write(tmp_path / "empty")
    with pytest.raises(RunError, match="holds no record"):
        load_run(empty)


@pytest.mark.parametrize(
    ("message", "tamper"),
    [
        ("machine.json: changed", lambda f: edit(f / "machine.json", lambda m: m["gpu"].update(name="B200"))),
        ("round_1.json: missing", lambda f: record_path(f, "djinn", 1).unlink()),
        ("notes.txt: not in SHA256SUMS", lambda f: (f / "notes.txt").write_text("")),
        ("line 1 is not a checksum", lambda f: (f / CHECKSUMS).write_text("hello\n")),
        ("SHA256SUMS: a published run needs", lambda f: (f / CHECKSUMS).unlink()),
    ],
)
def test_a_published_run_that_was_changed_is_refused_by_name(tmp_path, message, tamper):
    """A changed, missing or extra file, a broken list, and no list at all; untouched it is read."""
    folder = SMALL.write(tmp_path / "published" / "h100")
    seal(folder)
    assert load_run(folder).name == "h100"
    tamper(folder)
    with pytest.raises(RunError, match=message):
        load_run(folder)


def test_a_published_run_holds_nothing_that_its_study_does_not_ask_for(tmp_path):
    """A record beyond the study is refused even if its checksum is right."""
    folder = SMALL.write(tmp_path / "h100")
    write(record_path(folder, "djinn", 20), SMALL.record("djinn", 20, 1))
    seal(folder)
    with pytest.raises(RunError, match="djinn/layer_20/round_1.json: study.json does not ask for"):
        load_run(folder)
