"""The recipes: each runs as a script, and does bit for bit what plain PyTorch does."""

import importlib
import queue
import re
import runpy
import sys
import threading
from pathlib import Path

import pytest
import torch

import djinn
from tests.programs import equal

FOLDER = Path(__file__).parents[1] / "examples" / "recipes"
STEPS = 6


@pytest.fixture
def recipe(monkeypatch):
    """Imports a recipe as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a recipe as a script; returns the lines that it prints."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with torch.enable_grad():  # as in a new interpreter
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def runtime(llama):
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        yield runtime


def hooked(model, hook, program, *args):
    """What ``program`` returns while ``hook(layer, output)`` is called after each layer (1 .. N)."""
    handles = [
        layer.register_forward_hook(lambda module, args, output, number=number: hook(number, output))
        for number, layer in enumerate(model.model.layers, 1)
    ]
    try:
        return program(model, *args)
    finally:
        for handle in handles:
            handle.remove()


def test_every_layer_is_read_and_nothing_is_held(recipe, runtime, llama, input_ids):
    """The hidden states are those that hooks see, the device is free at each look, and another session computes."""
    module = recipe("read_layers")
    expected, found, beside = [], [], []
    logits = hooked(llama, lambda layer, output: expected.append(output.clone()), module.prefill, input_ids)

    def look(layer, hidden_states):
        assert layer == len(found) + 1
        [one] = [row for row in runtime.status() if row.phase is djinn.Phase.IO_WAIT]
        assert (one.device_bytes, one.host_bytes > 0) == (0, True)
        found.append(hidden_states.clone())
        if layer == 3:
            with runtime.open().start(module.prefill, llama, input_ids) as other:
                beside.append(other.result(30))

    last = module.read_layers(runtime, llama, input_ids, look)
    assert equal(found, expected)
    assert equal([last, *beside], [logits, logits])


@pytest.mark.parametrize("layers", [(2, 5), (1, 6), (3, 4)])
def test_steering_is_what_hooks_do(recipe, runtime, llama, input_ids, layers):
    """In each decode step and not in the prefill; tokens and logits have every bit."""
    module = recipe("steer")
    vectors = {layer: torch.linspace(-1, layer, 64) for layer in layers}
    passes = []
    hooks = [dict(layer._forward_hooks) for layer in llama.model.layers]  # transformers may have left some

    def add(layer, output):
        passes.append(layer)
        if layer in vectors and len(passes) > 6:  # behind the prefill
            output += vectors[layer]

    expected = hooked(llama, add, module.generate, input_ids, STEPS)
    found = module.steer(runtime, llama, input_ids, STEPS, vectors)
    assert equal(found, expected)
    assert not torch.equal(found[1], module.generate(llama, input_ids, STEPS)[1])
    assert equal(module.steer_by_hooks(llama, runtime.layers, input_ids, STEPS, vectors), expected)
    assert [dict(layer._forward_hooks) for layer in llama.model.layers] == hooks


def test_the_vector_is_a_difference_of_two_texts(recipe, runtime, llama, input_ids):
    module = recipe("steer")
    texts, seen = (input_ids[:1], input_ids[1:]), []
    for text in texts:
        hooked(llama, lambda layer, output: seen.append(output[0, -1].clone()), module.generate, text, 1)
    assert torch.equal(module.difference(runtime, llama, *texts, 4), seen[3] - seen[6 + 3])


@pytest.mark.parametrize("position", [-1, 3])
def test_patching_is_what_hooks_do(recipe, runtime, llama, input_ids, position):
    """After each layer; the hidden states are those of either prompt, and nothing is left in a session."""
    module = recipe("patch")
    prompts, seen = (input_ids[:1], input_ids[1:]), []
    for prompt in prompts:
        hooked(llama, lambda layer, output: seen.append(output.clone()), module.prefill, prompt)
    layers = []
    for layer, mine, theirs, patched in module.patch_layers(runtime, llama, *prompts, position):
        assert equal([mine, theirs], [seen[layer - 1], seen[6 + layer - 1]])
        assert equal([patched], [module.patch_by_hook(llama, runtime.layers, *prompts, layer, position)])
        layers.append(layer)
        if (layer, position) == (6, -1):  # behind the last layer the last token alone decides
            assert torch.equal(patched, module.prefill(llama, prompts[1]))
            assert torch.equal(module.lens(llama, theirs), patched[0, -1])
    assert layers == [1, 2, 3, 4, 5, 6]
    assert not runtime.sessions


class Approvals:
    """Answers of a test: each question waits until the test gives one."""

    def __init__(self):
        self.asked = queue.Queue()

    def __call__(self, number, message):
        answer = queue.SimpleQueue()
        self.asked.put((number, message, answer))
        return answer.get()


def test_agents_wait_without_the_device_and_others_go_on(recipe, runtime, llama, input_ids):
    """One waits while another is led to its end; yes goes on bit for bit, no sends nothing and frees everything."""
    module = recipe("approval")
    sent = {1: [], 2: [], 3: []}
    expected = {}
    prompts = {1: input_ids[:1], 2: input_ids[1:], 3: input_ids[:1, :9]}
    for number, prompt in prompts.items():
        plain = []
        text = module.agent(llama, prompt, STEPS, 2, lambda message: None, plain.append)
        expected[number] = text, plain
    proposals, ask = {}, Approvals()
    sessions = {
        number: module.start(
            runtime, proposals, lambda number, message: sent[number].append(message), llama, prompt, STEPS, 2
        )
        for number, prompt in prompts.items()
    }
    threads = [threading.Thread(target=module.supervise, args=(one, proposals, ask)) for one in sessions.values()]
    for thread in threads:
        thread.start()
    first = {}
    while len(first) < 3:
        number, *first[number] = ask.asked.get(timeout=30)
    for number, session in sessions.items():
        assert torch.equal(first[number][0], expected[number][1][0])
        assert (session.phase, session.device_bytes, sent[number]) == (djinn.Phase.IO_WAIT, 0, [])
    first[2][1].put(True)
    number, message, answer = ask.asked.get(timeout=30)
    assert number == 2
    assert torch.equal(message, expected[2][1][1])
    answer.put(True)
    threads[1].join(30)
    assert torch.equal(sessions[2].result(30), expected[2][0])
    assert equal(sent[2], expected[2][1])
    assert (sessions[1].phase, sessions[1].device_bytes) == (djinn.Phase.IO_WAIT, 0)  # all the time
    first[3][1].put(False)
    threads[2].join(30)
    assert module.outcome(sessions[3]) == "was told no: its program was unwound where it waited, and sent no more"
    assert (sent[3], sessions[3].device_bytes, sessions[3].host_bytes) == ([], 0, 0)
    first[1][1].put(True)
    ask.asked.get(timeout=30)[2].put(True)
    threads[0].join(30)
    assert torch.equal(sessions[1].result(30), expected[1][0])
    assert module.outcome(sessions[1]) == f"has ended, {2 * STEPS} tokens long"


def test_the_script_reads_all_layers(script):
    """A line for each of its six layers, which holds nothing on the device."""
    head, *lines, last = script("read_layers", "--tokens", 64)
    assert head == "a prompt of 64 tokens"
    assert [line.split(" in host")[0] for line in lines] == [
        f"layer {layer}: 0 bytes on the device, {nbytes}"
        for layer, nbytes in enumerate((re.search(r"device, ([\d,]+) in", line)[1] for line in lines), 1)
    ]
    assert len(lines) == 6
    assert last.startswith("then the model says: ")


def test_the_script_steers(script):
    """Its edit changes the text, and the hooks have the same bits."""
    plain, steered, same = script("steer", "--tokens", 12)
    assert plain.split(": ", 1)[1] != steered.split(": ", 1)[1]
    assert same == "the same as with forward hooks, bit for bit: yes"


def test_the_script_patches(script):
    """At the last layer the other prompt's word is said; the hooks have the same bits."""
    mine, theirs, *layers, same = script("patch")
    word = theirs.partition(": ")[2]
    assert word != mine.partition(": ")[2]
    assert len(layers) == 6
    assert layers[-1].endswith(f"the model says {word}")
    assert same == "the same as with forward hooks, bit for bit: yes"


def test_the_script_asks(script):
    """Answers are taken in order; the agent that is told no says what happened, and the others end."""
    lines = script("approval", "--answers", "no", *["yes"] * 4)
    asked = [re.match(r"agent (\d) wants .*(yes|no)$", line) for line in lines]
    refused = next(match[1] for match in asked if match and match[2] == "no")
    assert sum(match is not None for match in asked) == 5
    assert sum(" sends: " in line for line in lines) == 4
    assert not any(line.startswith(f"agent {refused} sends") for line in lines)
    ends = dict(re.match(r"agent (\d) (.*)", line).groups() for line in lines[-3:])
    assert {number for number, end in ends.items() if end.startswith("was told no")} == {refused}
    assert sum(end == "has ended, 32 tokens long" for end in ends.values()) == 2


def test_a_checkpoint_of_ones_own(recipe, script, tmp_path):
    """Model and tokenizer are those in a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    module = recipe("checkpoint")
    model = module.tiny()
    model.lm_head.weight.mul_(-1)  # another one than that without a folder
    model.save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({chr(32 + word): word for word in range(95)}, unk_token=" "))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    loaded, encode, decode = module.load(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert torch.equal(encode("To be"), module.spell("To be"))
    assert decode(module.spell("Tobe")[0]).replace(" ", "") == "Tobe"
    assert script("steer", tmp_path, "--tokens", 4)[2].endswith("yes")
