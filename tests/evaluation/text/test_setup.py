"""The tables of set-up and methods print what a run's files say, and nothing else of the machine."""

import importlib
import re
from dataclasses import replace

import pytest

from evaluation.analysis.variants import METHODS, PRIMARY, VARIANTS
from evaluation.records.probe import check_machine
from evaluation.records.runs import RunError, load_run
from evaluation.study.plan import Workload
from evaluation.text.setup import methods, pinned, setup
from tests.evaluation.layout import compiled
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, edit, record_path, refused, write

GPU = Synthetic(layers=(1, 40), samples=3)
MARK = "\\textbf{Functional CPU run: not a performance result.}"
NOT_HERE = {"unavailable": "alice has no such thing on host-17"}
VERSIONS = {"python": "3.12.3", "torch": "2.13.0", "transformers": "5.17.0", "snakemake": "9.27.1"}


def test_pins_are_read_without_their_hashes():
    """Of torch and of all else, names as ``envs/`` spells them."""
    assert {"torch", "transformers", "Jinja2"} <= pinned().keys()
    assert not [pin for pin in pinned().items() if not re.fullmatch(r"[\w.-]+ \d[\w.]*", " ".join(pin))]


def test_a_build_of_the_pinned_version_is_that_version(folder):
    """And a run that has the pins says so."""

    def change(record):
        build = {"torch": f"{pinned()['torch']}+cu130", "transformers": pinned()["transformers"]}
        record["provenance"]["versions"].update(build)

    in_records(folder, change)
    assert dict(facts(folder))["Pinned in envs"] == "as measured"


def machine(functional=False):
    """A whole probe."""
    link = ("pcie_generation", "pcie_generation_max", "pcie_width", "pcie_width_max")
    gpu = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 << 30, "driver": "580.159.04", "cuda_driver": "13.0"}
    others = ("sm_clock_mhz", "sm_clock_max_mhz", "memory_clock_mhz", "power_limit_watts")
    gpu |= dict(zip(link, (5, 5, 16, 16), strict=True)) | dict.fromkeys([*others, "other_processes"], 1)
    gpu |= dict.fromkeys(("ecc", "mig", "persistence"), False)
    rates = {"pinned_h2d_gbps": 54.21, "pinned_d2h_gbps": 54.68, "matrix_tflops_bf16": 698.6}
    rates |= dict.fromkeys(("pageable_h2d_gbps", "pageable_d2h_gbps", "device_copy_gbps", "host_copy_gbps"), 7.5)
    ceilings = {name: {"median": rate, "samples": [rate] * 3} for name, rate in rates.items()}
    return {
        "functional": functional,
        "gpu": dict.fromkeys(gpu, NOT_HERE) if functional else gpu,
        "host": {
            "cpu": "Xeon",
            "cores": 16,
            "cores_usable": 16,
            "memory_bytes": 126 << 30,
            "memory_lock_limit_bytes": "unlimited",
            "numa_nodes": 1,
            "kernel": "6.18.44",
            "system": "Ubuntu 24.04.3 LTS",
        },
        "software": {
            "versions": VERSIONS,
            "torch_cuda": "13.0",
            "git": NOT_HERE,
            "source_sha256": "a" * 64,
        },
        "ceilings": dict.fromkeys(ceilings, NOT_HERE) if functional else ceilings,
    }


def make(root, recipe=GPU):
    """A run with a whole probe and all versions in its records."""
    folder = recipe.write(Results(root=root).folder)
    write(folder / "machine.json", machine(recipe.functional))
    in_records(folder, lambda record: record["provenance"].update(versions=dict(VERSIONS)))
    return folder


def in_records(folder, change):
    """Apply ``change`` to all records, which must agree."""
    for path in folder.rglob("*.json"):
        if path.name not in ("machine.json", "study.json"):
            edit(path, change)


def in_study(folder, change):
    """Apply ``change`` to the study and to the copy in each record."""
    edit(folder / "study.json", change)
    in_records(folder, lambda record: change(record["study"]))


@pytest.fixture
def folder(tmp_path):
    """A run on a GPU."""
    return make(tmp_path)


def cells_of(text):
    """The rows between the rules of the table, each a list of cells without the marks of their layout."""
    body = text.partition("\\midrule" if "Method, variant" in text else "\\toprule")[2].partition("\\bottomrule")[0]
    body = re.sub(r"\\(midrule|addlinespace|raggedright|allowbreak\{\})\s*", "", body)
    return [[cell.strip() for cell in row.split("&")] for row in body.split("\\tabularnewline") if row.strip()]


def facts(folder):
    """The set-up as a list of what and value."""
    return [tuple(row) for row in cells_of(setup(load_run(folder)))]


def rows(folder):
    """The methods table: the cells behind the name by the name."""
    return {row[0]: row[1:] for row in cells_of(methods(load_run(folder)))}


def put(values, key, value):
    """Set ``value`` at the dotted ``key``; without it take the key away."""
    *parents, last = key.split(".")
    for part in parents:
        values = values[part]
    if value is None:
        del values[last]
    else:
        values[last] = value


@pytest.mark.parametrize("functional", [False, True])
def test_the_probe_of_these_tests_is_a_whole_one(functional):
    """As the schema of a probe wants it."""
    check_machine(machine(functional))


NO_PAIRS = ("Pairs", "0 of 2 processes, each with a mirrored block of each workload at layers 1, 40")


def test_the_set_up_is_what_the_files_say(folder):
    """Every row, in order."""
    assert facts(folder) == [
        ("GPU", "NVIDIA H100 80GB HBM3, 80.0~GiB"),
        ("GPU driver", "580.159.04"),
        ("PCIe link", "Gen~5, 16~lanes"),
        ("CPU", "Xeon, 16 logical cores"),
        ("Host memory", "126~GiB"),
        ("System", "Ubuntu 24.04.3 LTS, Linux 6.18.44"),
        ("Software", "Python 3.12.3, PyTorch 2.13.0 (CUDA 13.0), Transformers 5.17.0, Snakemake 9.27.1"),
        ("Pinned in envs", f"transformers {pinned()['transformers']}; the other packages as measured"),
        ("Pinned H2D copy", "54.2~GB/s"),
        ("Pinned D2H copy", "54.7~GB/s"),
        ("Matrix product", "699~TFLOP/s in bf16"),
        ("Model", "llama-2-13b, 40 layers, bfloat16, sdpa attention"),
        ("Weights", "random, seed 0"),
        ("Prompts", "random tokens, seed 0"),
        ("Workload", "activation: 2048 tokens, batch 1, no KV cache"),
        ("Workload", "session: 2048 tokens, batch 1, KV cache"),
        ("Samples", "3 per cell and round, 3 of variants that the paper does not draw"),
        ("Think time", "50~ms"),
        ("Jobs", "8 processes: 1 round of 4 methods at layers 1, 40"),
        NO_PAIRS,
    ]
    assert "not available" not in setup(load_run(folder))


@pytest.mark.parametrize(
    ("key", "value", "row"),
    [
        ("gpu.name", "NVIDIA H100", ("GPU", "NVIDIA H100, 80.0~GiB")),
        ("gpu.memory_bytes", 3 << 29, ("GPU", "NVIDIA H100 80GB HBM3, 1.50~GiB")),
        ("gpu.driver", NOT_HERE, ("GPU driver", "--")),
        ("gpu.pcie_generation", 1, ("PCIe link", "Gen~1, 16~lanes when probed; at most Gen~5, 16~lanes")),
        ("host.cores_usable", 8, ("CPU", "Xeon, 16 logical cores (8 usable)")),
        ("host.system", NOT_HERE, ("System", "--, Linux 6.18.44")),
        ("ceilings.pinned_d2h_gbps", {"median": 6.0, "samples": [6.0] * 3}, ("Pinned D2H copy", "6.00~GB/s")),
        ("ceilings.matrix_tflops_bf16", NOT_HERE, ("Matrix product", "--")),
    ],
)
def test_a_changed_probe_changes_its_row(folder, key, value, row):
    """A reason in place of a value prints -- and is itself not printed; no other row changes."""
    before = facts(folder)
    edit(folder / "machine.json", lambda found: put(found, key, value))
    after = facts(folder)
    assert [one for one in after if one not in before] == [row]
    text = setup(load_run(folder))
    assert ("--: not available" in text) == (value is NOT_HERE)
    assert "alice" not in text
    assert "host-17" not in text


def moment(**changes):
    """What a job finds around it on a quiet GPU."""
    quiet = dict.fromkeys(("sm_clock_mhz", "memory_clock_mhz", "power_watts", "power_limit_watts"), 700)
    quiet |= {"host_load": 0.5, "other_processes": 0, "temperature_celsius": 40, "clock_reasons": ["gpu_idle"]}
    return {**quiet, "throttled_ms": {"sw_power_cap": 1.0, "hw_thermal_slowdown": 0.0}, **changes}


def told(place, sitting="a" * 12, before=None, after=None):
    """Put the sitting and the conditions into the record at ``place``."""
    conditions = {"strict": False, "affinity": "0-7", "before": moment(**before or {}), "after": moment(**after or {})}
    edit(place, lambda record: record["provenance"].update(sitting=sitting, conditions=conditions))


def test_sittings_and_how_quiet_they_were_have_a_row_each(tmp_path):
    """Ranges over both ends of all jobs; throttles at an end or, by the driver's counters, between.

    The power cap is no throttle, and has a row of its own.
    """
    folder = make(tmp_path, replace(GPU, pairs=SyntheticPairs(layers=(1, 40)), peers=("memory_saver",)))
    labels = [
        "Sittings",
        "Host load",
        "GPU temperature",
        "GPU throttled",
        "GPU power cap",
        "GPU shared",
        "With it",
    ]
    assert not dict(facts(folder)).keys() & set(labels)
    paths = sorted(path for path in folder.rglob("*.json") if path.name not in ("machine.json", "study.json"))
    for path in paths:
        told(path)
    found = dict(facts(folder))
    count = len(paths)
    assert [found.get(label) for label in labels] == [
        f"1 (jobs: {count})",
        "0.500, before and after jobs",
        r"40.0~$^\circ$C",
        f"never seen, of {count} jobs",
        None,
        None,
        None,
    ]
    told(folder / "raw/pairs/round_2.json", "b" * 12, {"host_load": 3.25}, {"other_processes": 2})
    told(record_path(folder, "djinn", 40), after={"temperature_celsius": 71, "clock_reasons": ["sw_power_cap"]})
    told(folder / "load.json", after={"throttled_ms": {"sw_power_cap": 1.5, "hw_thermal_slowdown": 0.2}})
    beside = {"tokenizers": "0.22.1", "huggingface_hub": "1.1.0", "safetensors": "0.7.0"}
    in_records(folder, lambda record: record["provenance"]["versions"].update(beside))
    found = dict(facts(folder))
    assert [found[label] for label in labels] == [
        f"2 (jobs: {count - 1}, 1)",
        "0.500 to 3.25, before and after jobs",
        r"40.0 to 71.0~$^\circ$C",
        f"hw thermal slowdown (1), of {count} jobs",
        f"reached in 2 of {count} jobs",
        f"in 1 of {count} jobs",
        r"tokenizers 0.22.1, huggingface\_hub 1.1.0, safetensors 0.7.0",
    ]


def test_what_a_gpu_does_not_tell_has_no_row(folder):
    """A functional run tells the host's load alone."""
    reason = {"unavailable": "measured without a GPU"}
    without = dict.fromkeys(moment().keys() - {"host_load"}, reason)
    for method in GPU.methods:
        for layer in GPU.layers:
            told(record_path(folder, method, layer), before=without, after=without)
    found = facts(folder)
    assert [row for row in found if row[0] in ("Sittings", "Host load") or row[0].startswith("GPU ")] == [
        ("GPU driver", "580.159.04"),
        ("Sittings", "1 (jobs: 8); unknown of 11 jobs"),
        ("Host load", "0.500, before and after jobs"),
    ]


def test_versions_and_model_are_those_of_the_records(folder):
    """Not the probe's; what CUDA another build of torch has is not known; a package that is not installed is --."""

    def change(record):
        record["provenance"]["versions"].update(python="3.11.1", torch="2.14.0")
        del record["provenance"]["versions"]["snakemake"]
        record["model"].update(name="llama-2-7b", weights="checkpoint llama-2-7b", dtype="float16", attention="eager")

    in_records(folder, change)
    in_study(folder, lambda study: study["model"].update(name="llama-2-7b", dtype="float16", attention="eager"))
    found = dict(facts(folder))
    assert found["Software"] == "Python 3.11.1, PyTorch 2.14.0 (CUDA --), Transformers 5.17.0, Snakemake --"
    others = "".join(f"{name} {pinned()[name]}{end}" for name, end in (("torch", ", "), ("transformers", "; ")))
    assert found["Pinned in envs"] == f"{others}the other packages as measured"
    assert found["Model"] == "llama-2-7b, 40 layers, float16, eager attention"
    assert found["Weights"] == "checkpoint llama-2-7b"


def test_the_plan_is_that_of_the_study(folder):
    """Jobs that are not done are not counted as done."""

    def change(study):
        study["model"]["seed"] = 7
        study["rounds"] = 2
        study["measurement"].update(think_time_ms=2.5)
        study["workloads"][1].update(tokens=512, batch=4, decode_step=1)

    in_study(folder, change)
    found = facts(folder)
    assert ("Prompts", "random tokens, seed 7") in found
    assert ("Workload", "session: 512 tokens, batch 4, KV cache, decode step 1") in found
    assert found[-4:] == [
        ("Samples", "3 per cell and round, 3 of variants that the paper does not draw"),
        ("Think time", "2.5~ms"),
        ("Jobs", "8 of 16 processes: 2 rounds of 4 methods at layers 1, 40"),
        NO_PAIRS,
    ]


MISSING = {
    "machine.json": [
        *("gpu.name", "gpu.memory_bytes", "gpu.driver", "gpu.pcie_generation", "gpu.pcie_width_max", "host.cpu"),
        *("host.cores", "host.cores_usable", "host.memory_bytes", "host.kernel", "host.system", "software.torch_cuda"),
        *("software.versions.torch", "ceilings.pinned_h2d_gbps", "ceilings.pinned_d2h_gbps.median"),
        "ceilings.matrix_tflops_bf16",
    ],
    "study.json": [
        "model.seed",
        "workloads",
        "methods",
        "layers",
        "rounds",
        "measurement.samples",
        "measurement.think_time_ms",
    ],
    "provenance": ["versions.python", "versions.torch", "versions.transformers"],
}


@pytest.mark.parametrize(("place", "key"), [(place, key) for place, keys in MISSING.items() for key in keys])
def test_a_missing_field_is_one_clear_message(folder, tmp_path, capsys, place, key):
    """It names file and field, the exit status is 2, and no table is written."""
    if place == "machine.json":
        edit(folder / place, lambda values: put(values, key, None))
    elif place == "study.json":
        in_study(folder, lambda values: put(values, key, None))
    else:
        in_records(folder, lambda record: put(record[place], key, None))
    assert Results(root=tmp_path).draw("setup") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert place in error
    assert ".".join(key.split(".")[:2]) in error
    assert "is missing" in error or "Field required" in error
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gpu.driver", [580]),
        ("host.kernel", ""),
        ("host.memory_bytes", "many"),
        ("ceilings.pinned_h2d_gbps", {"median": True, "samples": [1.0, 1.0, 1.0]}),
    ],
)
def test_a_field_of_another_type_is_named(folder, key, value):
    """Nothing is made of it."""
    edit(folder / "machine.json", lambda found: put(found, key, value))
    with pytest.raises(RunError, match=rf"machine.json: not a valid probe: {re.escape(key)}"):
        setup(load_run(folder))


def test_a_number_beyond_all_is_named(folder):
    """JSON has no infinity, and a number that is too large to be held would be read as one."""
    machine_json = folder / "machine.json"
    machine_json.write_text(machine_json.read_text().replace("54.21", "1e999"))
    with pytest.raises(RunError, match=r"machine.json: not readable as JSON: the number 1e999 is beyond"):
        setup(load_run(folder))


def test_a_functional_run_is_marked_in_both_captions(tmp_path, folder):
    """In bold, before anything else is explained; a run on a GPU is not."""
    functional = load_run(make(tmp_path / "cpu", Synthetic(functional=True, layers=(1,), samples=3)))
    for table in (setup, methods):
        first, _, rest = table(functional).partition("\\caption{")[2].partition("\n")
        assert "run local" in first
        assert rest.startswith(f"{MARK}\n")
        assert "unctional" not in table(load_run(folder))
    found = dict(tuple(row) for row in cells_of(setup(functional)))
    assert [found[what] for what in ("GPU", "GPU driver", "PCIe link", "Matrix product")] == ["--"] * 4
    assert found["CPU"] == "Xeon, 16 logical cores"


def test_text_from_the_files_is_escaped(folder):
    """What is spelled in LaTeX's own characters prints as it is spelled."""
    hostile, escaped = (
        r"50%_{x}\input&#$~^",
        r"50\%\_\{x\}\textbackslash{}input\&\#\$\textasciitilde{}\textasciicircum{}",
    )

    def change(record):
        record["provenance"]["versions"]["python"] = record["provenance"]["device_name"] = hostile
        record["model"].update(name=hostile, weights=hostile)

    in_records(folder, change)
    in_study(folder, lambda study: study["model"].update(name=hostile))
    edit(folder / "machine.json", lambda found: put(found, "gpu.name", hostile))
    folder = folder.rename(folder.with_name("a_b"))
    text, other = (table(load_run(folder)) for table in (setup, methods))
    assert text.count(escaped) == 4
    for one in (text, other):
        assert r"run a\_b" in one
        assert hostile not in one


def test_neither_paths_nor_users_get_in(folder):
    """A job is called by nothing, and a run by the name of its folder."""
    in_records(folder, lambda record: record["provenance"].update(command="python x.py --user alice"))
    run = load_run(folder)
    for text in (setup(run), methods(run)):
        for secret in ("alice", str(folder), folder.parent.name):
            assert secret not in text


def test_methods_in_the_order_of_the_paper(folder):
    """Names as in the other table, the headline marked, and the samples of a cell times the cells."""
    assert {name: cells[-1] for name, cells in rows(folder).items()} == {
        "\\textbf{Vanilla PyTorch} \\newline default$^{*}$": "3 $\\times$ 4",
        "\\textbf{Recompute} \\newline default$^{*}$": "3 $\\times$ 4",
        "\\textbf{Manual Offload} \\newline pinned$^{*}$": "3 $\\times$ 4",
        "pageable": "3 $\\times$ 4",
        "ordered": "3 $\\times$ 2",
        "\\textbf{\\sys{} (Ours)} \\newline default$^{*}$": "3 $\\times$ 4",
        "kept": "3 $\\times$ 4",
    }
    djinn = rows(folder)["\\textbf{\\sys{} (Ours)} \\newline default$^{*}$"]
    assert djinn[:3] == list(PRIMARY["djinn"].deeds)
    text = methods(load_run(folder))
    assert "\\providecommand{\\sys}{Djinn}" in text
    assert "not described" not in text
    assert "OOM" not in text


def test_samples_of_all_rounds_are_added(tmp_path):
    """A cell that was refused in one round makes a range; one of another method does not."""
    folder = make(tmp_path, Synthetic(layers=(1, 40), samples=3, rounds=2))
    assert rows(folder)["pageable"][-1] == "6 $\\times$ 4"

    def fewer(record):
        refused(next(cell for cell in record["cells"] if cell["variant"] == "pageable"))

    edit(record_path(folder, "manual_offload", 40, 2), fewer)
    found = rows(folder)
    assert found["pageable"][-1] == "3--6 $\\times$ 4, OOM"
    assert found["\\textbf{Recompute} \\newline default$^{*}$"][-1] == "6 $\\times$ 4"


def refuse(folder, method, variant, outcome, layers=(1, 40)):
    """Let cells of a variant end with ``outcome``."""

    def change(record):
        for cell in record["cells"]:
            if cell["variant"] == variant:
                refused(cell, outcome)

    for layer in layers:
        edit(record_path(folder, method, layer), change)


def test_refused_cells_print_a_word_in_place_of_a_count(folder):
    """The same for some cells only; OOM is explained."""
    refuse(folder, "manual_offload", "ordered", "unsupported")
    refuse(folder, "manual_offload", "pageable", "out_of_memory", layers=(40,))
    found = rows(folder)
    assert found["ordered"][-1] == "unsupported"
    assert found["pageable"][-1] == "3 $\\times$ 2, OOM"
    assert "OOM: the device had no room" in methods(load_run(folder))


def test_what_is_not_described_is_kept(tmp_path):
    """Behind what is known, with -- for what it does."""
    folder = make(tmp_path, Synthetic(layers=(1,), samples=3, methods=("my_method", "vanilla", "manual_offload")))
    edit(record_path(folder, "manual_offload", 1), lambda record: record["cells"][0].update(variant="a_new_one"))
    found = rows(folder)
    assert found["a\\_new\\_one$^{*}$"] == ["--", "--", "--", "3 $\\times$ 1"]
    assert found["\\textbf{My method} \\newline default$^{*}$"] == ["--", "--", "--", "3 $\\times$ 2"]
    assert [name.split()[-1] for name in found] == [
        *("default$^{*}$", "pinned$^{*}$", "pageable", "ordered", "a\\_new\\_one$^{*}$", "default$^{*}$"),
    ]
    assert "--: not described" in methods(load_run(folder))


def test_every_variant_of_the_study_is_described():
    """What it does on pause and on resume, and what ready waits for."""
    workloads = [
        Workload(name="any", batch=1, tokens=8, kv_cache=kv_cache, decode_step=step)
        for kv_cache, step in ((False, 0), (True, 0), (True, 1))
    ]
    modules = {name: importlib.import_module(f"evaluation.methods.benchmark_{name}") for name in METHODS}
    described = {(variant.method, variant.name) for variant in VARIANTS if variant.deeds}
    measured = {(name, kind.variant) for name, module in modules.items() for one in workloads
                for kind in module.variants(one)}  # fmt: skip
    assert measured <= described


def test_the_forms_of_pairs_are_rows_and_the_attended_ones_a_sentence(tmp_path):
    """With the samples of either kind of job."""
    recipe = Synthetic(layers=(1, 40), samples=3, methods=("manual_offload", "djinn"), pairs=SyntheticPairs())
    folder = make(tmp_path, recipe)
    found, text = rows(folder), methods(load_run(folder))
    samples = {name.split()[-1]: row[-1] for name, row in found.items()}
    assert samples["ordered"] == "3 $\\times$ 2, 4 $\\times$ 2 in pairs"
    assert samples["bulk"] == "4 $\\times$ 2 in pairs"
    assert samples["kept"] == "3 $\\times$ 4, 4 $\\times$ 4 in pairs"
    assert not any("attended" in name for name in found)
    assert "codes KV without loss" in text
    assert any(name.endswith("coded") for name in found)
    kept, attended = (text.partition(start)[2].split(".")[0].replace(r"\allowbreak{}", "") for start in
                      ("In pairs, with the frontier kept on the device:", "so that the link stays awake:"))  # fmt: skip
    assert kept.split() == ["Djinn", "kept;", "Manual", "offload", "async\\_kept,", "ordered\\_kept,", "pinned\\_kept"]
    assert "Djinn attended, kept\\_attended; Manual offload async\\_attended, " in attended
    assert "Pairs & \\raggedright 2 processes, each with a mirrored block of each workload at layers 1, 40" in setup(
        load_run(folder)
    )


def test_the_command_writes_the_same_bytes_again(folder, tmp_path):
    """Both tables, as the functions give them."""
    results = Results(root=tmp_path)
    run = load_run(folder)
    for _ in range(2):
        assert results.draw("setup") == 0
        assert results.drawn("setup.tex") == setup(run).encode()
        assert results.drawn("methods.tex") == methods(run).encode()


def widen(folder):
    """Give each method the variants that are described, one more, and every word that stands for a count."""

    def change(record):
        if not record["cells"]:  # beside the methods
            return
        firsts = [cell for cell in record["cells"] if cell["headline"]]
        known = [one.name for one in VARIANTS if one.deeds and one.method == record["method"]]
        others = [name for name in [*known, "one_that_nobody_described"] if name != firsts[0]["variant"]]
        cells = [{**first, "variant": variant, "headline": False} for first in firsts for variant in others]
        for cell in cells:
            if cell["variant"] == "one_that_nobody_described":
                refused(cell, "unsupported")
        record["cells"] = [*firsts, *cells]

    in_records(folder, change)
    refuse(folder, "manual_offload", "pageable", "out_of_memory", layers=(40,))
    reasons = ["hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_power_cap"]
    for path in (folder / "raw").rglob("*.json"):
        told(path, before={"host_load": 12.5}, after={"other_processes": 3, "clock_reasons": reasons})
    edit(folder / "machine.json", lambda found: put(found, "gpu.pcie_generation", 1))
    edit(folder / "machine.json", lambda found: put(found, "host.kernel", "5.15.0-1064-some-cloud-provider-lowlatency"))


@pytest.mark.tex
@pytest.mark.parametrize("kind", ["as_published", "functional", "widest"])
def test_they_fit_where_they_stand(tmp_path, kind):
    """No overfull box in a column of USENIX."""
    folder = make(tmp_path, Synthetic(functional=kind == "functional", layers=(1, 40), samples=30))
    if kind == "widest":
        widen(folder)
    run = load_run(folder)
    assert "Overfull" not in compiled(tmp_path, setup=setup(run), methods=methods(run))
