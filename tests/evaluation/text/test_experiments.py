"""What the experiments took follows Snakemake's files and the records, and what is missing is said."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.claims.decide import PLAN, decide
from evaluation.records.runs import benchmark_path, load_run, pair_paths, read_object, record_paths, side_records
from evaluation.text import experiments
from evaluation.text.experiments import EXPERIMENTS, rows
from tests.evaluation.claims.decided import FEW, GOOD
from tests.evaluation.papers import Results, publish
from tests.evaluation.synthetic import EVERY, Synthetic, edit, record_path
from tests.evaluation.usage_cells import USAGE

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
MIB = 2**20
SECONDS = {"vanilla": (1, 2), "recompute": (10, 20), "manual_offload": (3, 4), "djinn": (5, 7)}  # at layers 1 and 10


SMALL = Synthetic(layers=(1, 10), samples=2, peers=("memory_saver", "process_checkpoint"), beside=USAGE)


def row_of(seconds, rss="1024.00"):
    """A benchmark file of one job, as Snakemake 9 writes it."""
    return f"{HEAD}{seconds}\t0:00:00\t{rss}\t9e9\t9e9\t9e9\t9e9\t9e9\t9e9\t9e9\n"


def note(folder, record, text):
    """Write the benchmark file of ``record``."""
    path = benchmark_path(folder, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def study_of(folder):
    """The settings of the run, read without its records."""
    return read_object(folder / "study.json")


def records_of(folder):
    study = study_of(folder)
    raw = [*record_paths(folder, study), *pair_paths(folder, study)]
    return [*raw, *(folder / name for name in side_records(study))]


def made(root, recipe):
    """The folder of a run of this machine, without tables: nothing here reads one."""
    return recipe.write(Results(root=root).folder)


@pytest.fixture
def local(tmp_path):
    """A run with a benchmark file for every record: those of SECONDS, else 100 s, and 1 GiB."""
    folder = made(tmp_path, SMALL)
    for record in records_of(folder):
        note(folder, record, row_of("100.00"))
    for method, times in SECONDS.items():
        for layer, seconds in zip(SMALL.layers, times, strict=True):
            note(folder, record_path(folder, method, layer), row_of(f"{seconds}.00"))
    return folder


def costs(folder):
    """What each row says, by experiment and method."""
    return {(row.name, row.method): row.cost for row in rows(folder, study_of(folder))}


def written(folder):
    """Exit status and page of the command; "" if there is none."""
    results = Results(root=folder.parents[1])
    status = results.draw("experiments")
    return status, results.drawn("experiments.md").decode() if status == 0 else ""


def cells(page):
    """The table without its head, by the first two cells of what it says."""
    lines = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("|")][2:]
    return {(line[0].strip(" *"), line[2].strip()): [cell.strip() for cell in line[5:]] for line in lines}


def line_of(page, name):
    """Jobs, machine time, one job, peak memory and disk of an experiment."""
    return next(found for (first, _), found in cells(page).items() if first == name)


def test_times_are_the_sums_and_medians_of_the_files(local):
    """By experiment, by method of E1, and in all."""
    found = costs(local)
    for method, times in SECONDS.items():
        cost = found["E1", method]
        assert (cost.jobs, cost.seconds, cost.median_seconds) == (2, sum(times), sum(times) / 2)
    expected = {"E1": (8, 52, 4.5), "E2": (4, 400, 100), "E3": (4, 400, 100)}
    expected |= dict.fromkeys(("E4", "E5", "E6", "E8", "E9"), (1, 100, 100))
    expected |= {"E7": (2, 200, 100), "total": (23, 1552, 100)}
    assert {
        name: (cost.jobs, cost.seconds, cost.median_seconds) for (name, method), cost in found.items() if not method
    } == expected
    assert all(cost.asked == cost.timed == cost.jobs for cost in found.values())


def test_the_median_is_not_the_mean(local):
    """One long job does not move what one job took."""
    note(local, record_path(local, "recompute", 10), row_of("2000.00"))
    cost = costs(local)["E1", ""]
    assert (cost.seconds, cost.median_seconds) == (2032, 4.5)


def test_memory_is_the_most_of_any_job(local):
    """Of its resident set, in bytes of 1024 to the power; other columns say nothing of it."""
    note(local, record_path(local, "djinn", 10), row_of("7.00", "4096.50"))
    note(local, local / "load.json", row_of("100.00", "108955.36"))
    found = costs(local)
    assert found["E1", "djinn"].peak_bytes == found["E1", ""].peak_bytes == 4096.5 * MIB
    assert found["E1", "vanilla"].peak_bytes == found["E2", ""].peak_bytes == 1024 * MIB
    assert found["total", ""].peak_bytes == found["E4", ""].peak_bytes == round(108955.36 * MIB)


@pytest.mark.parametrize("unseen", ["NA", "-"])
def test_memory_that_was_not_seen_counts_in_no_maximum(local, unseen):
    """The job keeps its time; where no job was seen there is no figure."""
    for layer in SMALL.layers:
        note(local, record_path(local, "djinn", layer), row_of("6.00", unseen))
    note(local, local / "sweep.json", row_of("100.00", unseen))
    found = costs(local)
    assert (found["E1", ""].peak_bytes, found["E1", "djinn"].peak_bytes) == (1024 * MIB, None)
    assert (found["E1", "djinn"].timed, found["E1", "djinn"].seconds) == (2, 12)
    _, page = written(local)
    assert line_of(page, "E6")[:4] == ["1", "100 s", "100 s", "--"]


def test_disk_is_the_bytes_of_the_records(local):
    """A longer record shows in its row and in the total, in no other; a benchmark file is no record."""
    before = costs(local)
    assert before["total", ""].disk_bytes == sum(record.stat().st_size for record in records_of(local))
    record = local / "capacity" / "djinn.json"
    record.write_text(record.read_text() + " " * 1000)
    note(local, local / "load.json", row_of("100.0000000"))
    grown = {name: cost.disk_bytes - before[name].disk_bytes for name, cost in costs(local).items()}
    assert {name: size for name, size in grown.items() if size} == {("E2", ""): 1000, ("total", ""): 1000}


def test_the_total_is_what_the_experiments_add_up_to(local):
    """Jobs, time and disk; the memory is that of the largest."""
    found = costs(local)
    whole = found.pop(("total", ""))
    parts = [cost for (_, method), cost in found.items() if not method]
    for name in ("asked", "jobs", "timed", "seconds", "disk_bytes"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts), name
    methods = [cost for (_, method), cost in found.items() if method]
    assert found["E1", ""].seconds == sum(cost.seconds for cost in methods)
    assert found["E1", ""].disk_bytes == sum(cost.disk_bytes for cost in methods)


def test_the_page_prints_the_rows(local):
    """With units; a complete run is not said to lack anything."""
    edit(local / "machine.json", lambda machine: machine["host"].update(cores=32, cores_usable=16))
    note(local, record_path(local, "djinn", 10), row_of("7.00", "17754.87"))
    status, page = written(local)
    assert status == 0
    assert "Machine: NVIDIA H100 80GB HBM3. CPU cores, when probed: 16." in page
    kilobytes = costs(local)["E1", ""].disk_bytes / 1000
    jobs, time, one, memory, disk = line_of(page, "E1")
    assert [jobs, time, one, memory] == ["8", "52.0 s", "4.50 s", "17.3 GiB"]
    assert disk.endswith(" kB")
    assert float(disk.removesuffix(" kB")) == pytest.approx(kilobytes, rel=0.005)
    assert line_of(page, "total")[:4] == ["23", "25.9 min", "100 s", "17.3 GiB"]
    assert cells(page)["", "of these, recompute"][:3] == ["2", "30.0 s", "15.0 s"]
    assert "missing" not in page
    assert "not measured" not in page


def test_the_commands_of_another_study_make_its_run(local):
    """They name its folder, and the page says where the study is; a published run keeps its name of then."""
    assert "configs/" not in written(local)[1]
    study = "results/local-70b/studies/measure.json"
    for path in records_of(local):
        edit(
            path, lambda record: record["provenance"].update(command=f"python -m evaluation.x --study {study} --out r")
        )
    status, page = written(local)
    assert status == 0
    assert "`snakemake --cores 1 results/local-70b/capacity/{vanilla,recompute,manual_offload,djinn}.json`" in page
    assert "--layer 10 --out r.json --study results/local-70b/study.json`" in page
    assert "results/local/" not in page
    assert "in `configs/` whose `run` is `local-70b`" in page


def test_records_without_benchmark_files_have_no_times(tmp_path):
    """An older run: two dashes, how many jobs are meant, and the disk all the same."""
    folder = made(tmp_path, SMALL)
    status, page = written(folder)
    assert status == 0
    for jobs, *times, disk in cells(page).values():
        assert jobs.isdigit()
        assert times == ["--"] * 3
        assert disk.endswith(" kB")
    assert "Times and memory are missing for 23 of 23 jobs" in page


def test_a_sum_over_some_jobs_says_of_how_many(local):
    """Where one benchmark file is missing the others are added up, and marked; what was not measured lacks none."""
    benchmark_path(local, record_path(local, "recompute", 10)).unlink()
    (local / "sweep.json").unlink()
    _, page = written(local)
    assert line_of(page, "E1")[:3] == ["8", "32.0 s (7 jobs)", "4.00 s"]
    assert line_of(page, "total")[:2] == ["22 of 23", "23.9 min (21 jobs)"]
    assert line_of(page, "E2")[1] == "6.67 min"
    assert "Times and memory are missing for 1 of 22 jobs" in page


def test_what_was_not_measured_is_said(local):
    """Also where a benchmark file outlived its record: it counts for nothing."""
    for name in ("load.json", "capacity/vanilla.json"):
        (local / name).unlink()
    _, page = written(local)
    assert line_of(page, "E4") == ["not measured", "--", "--", "--", "--"]
    assert line_of(page, "E2")[:2] == ["3 of 4", "5.00 min"]
    assert line_of(page, "total")[:2] == ["21 of 23", "22.5 min"]
    assert "2 of the 23 jobs of the study were not measured" in page
    assert "missing" not in page


def test_the_page_says_which_sources_measured_what(local):
    """One line for each state of them, with the days."""
    _, page = written(local)
    assert f"`{'a' * 8}`, 2026-01-01: E1, E2, E3, E4, E5, E6, E7, E8, E9." in page
    for name in ("memory_saver", "process_checkpoint"):
        edit(local / f"peers/{name}.json", lambda record: record["provenance"].update(source_sha256="b" * 64))
    edit(local / "load.json", lambda record: record["provenance"].update(started="2026-01-03T23:00:00Z"))
    _, page = written(local)
    assert f"`{'a' * 8}`, 2026-01-01 to 2026-01-03: E1, E2, E3, E4, E5, E6, E8, E9." in page
    assert f"`{'b' * 8}`, 2026-01-01: E7." in page


def test_an_experiment_that_the_study_does_not_ask_for_has_no_row(local):
    """One that the study asks for has; here nothing was measured of it."""
    study = study_of(local)
    assert "E10" not in {row.name for row in rows(local, study)}
    row = next(row for row in rows(local, {**study, "editing": {"blocks": 1}}) if row.name == "E10")
    assert (row.cost.asked, row.cost.jobs) == (1, 0)
    assert row.command == "snakemake --cores 1 results/local/editing.json"


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEAD,
        row_of("1.00") + row_of("1.00").removeprefix(HEAD),
        row_of("1.00").replace("\t9e9\n", "\n"),
        row_of("1.00").replace("max_rss", "rss"),
        row_of("1.00").replace("s\th:m:s", "time\th:m:s"),
        row_of("soon"),
        row_of("NA"),
        row_of("-1.00"),
        row_of("nan"),
        row_of("1.00", "inf"),
        row_of("1.00", "much"),
    ],
)
def test_a_damaged_benchmark_file_is_refused_by_name(local, capsys, text):
    """One message, and no page."""
    path = note(local, record_path(local, "djinn", 10), text)
    assert written(local) == (2, "")
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: damaged")
    assert message.count("\n") == 1


def test_a_benchmark_file_that_is_no_text_is_refused_by_name(local, capsys):
    """Bytes that are no UTF-8 are damage like any other."""
    path = benchmark_path(local, local / "load.json")
    path.write_bytes(b"\xff\xfe\x00")
    assert written(local) == (2, "")
    assert f"{path}: damaged" in capsys.readouterr().err


def test_a_run_that_cannot_be_read_is_refused(local, capsys):
    """As every output refuses it."""
    record_path(local, "djinn", 1).write_text("{")
    assert written(local) == (2, "")
    assert "djinn/layer_1/round_1.json: not readable as JSON" in capsys.readouterr().err


def test_every_record_belongs_to_one_experiment(local):
    """So that the total leaves nothing out and counts nothing twice."""
    for record in records_of(local):
        name = record.relative_to(local).as_posix()
        assert len([one for one in EXPERIMENTS.values() if name.startswith(one.records)]) == 1, name


WHOLE = replace(GOOD, layers=(1, 20, 40), samples=6, peers=SMALL.peers)


def judged(folder):
    """The verdicts of the run, by claim and what it is about."""
    claims = decide(load_run(folder), resamples=FEW)
    return {(one.id, one.place): one.judgement.verdict for one in claims}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The verdicts of a run that lacks nothing."""
    found = judged(WHOLE.write(tmp_path_factory.mktemp("whole") / "local"))
    assert {key[0] for key in found} == {entry.statement.id for entry in PLAN}
    return found


@pytest.mark.parametrize(
    "parts",
    [("vanilla", "manual_offload", "djinn"), ("recompute",), ("pairs",), ("E2",), ("E3",), ("E4", "E5", "E6", "E7")],
)
def test_a_row_decides_its_claims_and_no_others(tmp_path, whole, parts):
    """Without its records its claims are undecided, and all others are as they were; of E1 the parts have their own."""
    folder = WHOLE.write(tmp_path / "local")
    theirs = tuple(EXPERIMENTS[part].records if part in EXPERIMENTS else f"raw/{part}/" for part in parts)
    kept = record_path(folder, "vanilla", 1)  # a run without any record of latency is none
    for record in records_of(folder):
        if record.relative_to(folder).as_posix().startswith(theirs) and record != kept:
            record.unlink()
    after = judged(folder)
    changed = {key for key in whole if whole[key] != after[key]}
    table = rows(folder, study_of(folder))
    assert {key[0] for key in changed} == {
        name for row in table if (row.method or row.name) in parts for name in row.claims
    }
    assert {after[key] for key in changed} <= {"undecided"}


def test_the_parts_of_latency_decide_its_claims():
    """All of them and no others."""
    of_latency = {entry.statement.id for entry in PLAN if entry.statement.experiment == "E1"}
    assert {name for names in experiments._DECIDES.values() for name in names} == of_latency


def test_the_table_names_the_claims_of_each_experiment(local):
    """As the plan of the claims has them."""
    found = {row.name: row.claims for row in rows(local, study_of(local)) if not row.method}
    assert found["E1"] == ("C1", "C2", "C3", "C4", "C5")
    assert (found["E2"], found["E3"]) == (("C6",), ("C7", "C8"))
    assert {found[name] for name in ("E4", "E5", "E6", "E7", "total")} == {()}


def test_a_further_run_names_the_claims_that_it_decides(tmp_path):
    """Its memory wall is measured, and decides nothing."""
    results = Results.make(tmp_path, Synthetic(layers=(1,), samples=1, beside=EVERY))
    for name in ("first", "second"):
        publish(tmp_path, name, Synthetic(layers=(1,), samples=1, beside=EVERY))
        assert results.draw("experiments", run=name, leading="first") == 0
    pages = [(tmp_path / "figures" / folder / "experiments.md").read_text() for folder in (".", "second")]
    assert ["| **E2** | C6 |" in page for page in pages] == [True, False]
    assert all("| **E2** |" in page for page in pages)


def test_a_command_names_the_records_of_its_row(local):
    """The shell makes of it the very paths that the rules write; those of latency are a rule's."""
    found = {row.name: row for row in rows(local, study_of(local)) if not row.method}
    targets = []
    for name in ("E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9"):
        echo = subprocess.run(["bash", "-c", f"echo {found[name].command}"], capture_output=True, text=True, check=True)
        command, made = echo.stdout.split(" results/", 1)
        assert command == "snakemake --cores 1"
        assert all(path.startswith(found[name].outputs[0]) for path in f"results/{made}".split()), name
        targets += f"results/{made}".split()
    assert sorted(targets) == sorted(f"results/local/{name}" for name in side_records(study_of(local)))
    root = Path(__file__).parents[3]
    rule = found["E1"].command.removeprefix("snakemake --cores 1 --until ")
    assert f"rule {rule}:\n" in (root / "rules" / "measure.smk").read_text()
    for row in rows(local, study_of(local)):
        if row.method:
            assert row.command.startswith(f"python -m evaluation.methods.benchmark_{row.method} --layer 10 ")
            assert (root / "src" / "evaluation" / "methods" / f"benchmark_{row.method}.py").exists()


def test_a_functional_run_says_so(tmp_path):
    """It names no GPU."""
    folder = made(tmp_path, Synthetic(functional=True, layers=(1,), samples=2))
    edit(folder / "machine.json", lambda machine: machine["host"].update(cores=2, cores_usable=2))
    _, page = written(folder)
    assert "**Functional CPU run: not a performance result.** CPU cores, when probed: 2." in page
    assert "Machine:" not in page


def test_a_probe_that_does_not_know_the_gpu(local):
    """What it does not know is not printed."""
    edit(local / "machine.json", lambda machine: machine["gpu"].update(name={"unavailable": "no NVML"}))
    _, page = written(local)
    assert "could not read" in page
    assert "NVML" not in page


def test_the_same_records_give_the_same_bytes_anywhere(local, tmp_path):
    """The page does not say where the run lies."""
    status, page = written(local)
    moved = Results(root=tmp_path / "elsewhere").folder
    moved.parent.mkdir(parents=True)
    local.rename(moved)
    assert written(moved) == (status, page) == (0, page)
    assert str(tmp_path) not in page
