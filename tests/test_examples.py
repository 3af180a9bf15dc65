"""The example programs: each runs as a script, and ends as an uninterrupted run with the same edit does."""

import importlib.util
import inspect
import runpy
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

FOLDER = Path(__file__).parents[1] / "examples"
METHODS = ["vanilla", "recompute", "recompute_replay", "manual_offload", "djinn"]
LAYER = 3


def example(method):
    """The example program of ``method``, as a module."""
    path = FOLDER / f"debug_{method}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steer(hidden_states):
    """An edit that no part of the model can undo."""
    hidden_states[:, -1] *= 1.5
    hidden_states[0, -1] += torch.linspace(-1, 1, hidden_states.shape[-1])


def uninterrupted(model, input_ids, layer=None, edit=None, steps=8):
    """Logits of a prefill and greedy tokens of one run that never stops; an edit is made by a plain forward hook."""
    if edit is None:
        output = model(input_ids, use_cache=True)
    else:
        handle = model.model.layers[layer - 1].register_forward_hook(lambda module, args, output: edit(output))
        output = model(input_ids, use_cache=True)
        handle.remove()
    logits, last, tokens = output.logits, output.logits, []
    for _ in range(steps):
        tokens.append(last[:, -1].argmax(-1))
        output = model(tokens[-1][:, None], past_key_values=output.past_key_values, use_cache=True)
        last = output.logits
    return logits, torch.stack(tokens, dim=1)


def same(run, other):
    return all(torch.equal(a, b) for a, b in zip(run, other, strict=True))


def hooks_of(model):
    return {(name, key) for name, module in model.named_modules() for key in module._forward_hooks}


def resident_bytes(storages):
    """Bytes of those storages that still exist and are not emptied."""
    alive = (torch.UntypedStorage._new_with_weak_ptr(storage.cdata) for storage in storages)
    return sum(storage.nbytes() for storage in alive if storage is not None)


@pytest.fixture
def watched(llama):
    """Storages of the hidden states and the KV cache as layer LAYER of the prefill leaves them; holds none alive."""
    storages = []

    def watch(module, args, kwargs, output):
        if not storages:
            kv_layers = kwargs["past_key_values"].layers[:LAYER]
            tensors = [output, *(tensor for kv in kv_layers for tensor in (kv.keys, kv.values))]
            storages.extend(StorageWeakRef(tensor.untyped_storage()) for tensor in tensors)

    handle = llama.model.layers[LAYER - 1].register_forward_hook(watch, with_kwargs=True)
    yield storages
    handle.remove()


@pytest.mark.parametrize("method", METHODS)
def test_script_prints_tokens(method, capsys):
    """As a script it prints the tokens; all but plain recompute print others after the edit."""
    with torch.enable_grad():  # as in a new interpreter
        runpy.run_path(str(FOLDER / f"debug_{method}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    tokens = dict(line.split(": ") for line in printed.splitlines() if line.startswith("tokens "))
    assert "norm of the last token" in printed
    edit_survives = tokens["tokens after the edit"] != tokens["tokens without the edit"]
    assert edit_survives == (method != "recompute")


@pytest.mark.parametrize("layer", [1, LAYER, 6])
@pytest.mark.parametrize("method", ["vanilla", "recompute_replay", "manual_offload", "djinn"])
def test_edit_survives(method, layer, llama, input_ids):
    """Every bit is that of an uninterrupted run with the edit, and the model is left as it was."""
    before = hooks_of(llama)
    found = example(method).run(llama, input_ids, layer=layer, edit=steer)
    assert same(found, uninterrupted(llama, input_ids, layer, steer))
    assert not same(found, uninterrupted(llama, input_ids))
    assert hooks_of(llama) == before


@pytest.mark.parametrize("layer", [1, LAYER, 6])
def test_recompute_loses_the_edit(layer, llama, input_ids):
    """Every bit is that of the run without the edit, and the model is left as it was."""
    before = hooks_of(llama)
    lost = example("recompute").run(llama, input_ids, layer=layer, edit=steer)
    assert same(lost, uninterrupted(llama, input_ids))
    assert not same(lost, uninterrupted(llama, input_ids, layer, steer))
    assert hooks_of(llama) == before


@pytest.mark.parametrize("method", ["vanilla", "manual_offload", "djinn"])
def test_what_the_pause_keeps(method, llama, input_ids, watched):
    """While the user edits, vanilla keeps all that the device held; the offload methods keep nothing of it."""
    seen = []
    example(method).run(llama, input_ids, layer=LAYER, edit=lambda _: seen.append(resident_bytes(watched)))
    batch, tokens = input_ids.shape
    hidden, kv = 64, 2 * LAYER * 2 * 16  # 2 heads of 16 in keys and in values
    assert seen == [batch * tokens * (hidden + kv) * 4 if method == "vanilla" else 0]


@pytest.mark.parametrize("method", ["recompute", "recompute_replay"])
def test_recompute_keeps_nothing(method, llama, input_ids, watched):
    """When recompute starts again, nothing of the first run is left."""
    seen = []
    handle = llama.model.embed_tokens.register_forward_pre_hook(lambda *_: seen.append(resident_bytes(watched)))
    example(method).run(llama, input_ids, layer=LAYER, edit=lambda _: seen.append(resident_bytes(watched)))
    handle.remove()
    first_start, at_the_edit, second_start, *_ = seen
    assert first_start == second_start == 0
    assert at_the_edit > 0


def test_model_code_is_the_same():
    """The user's model code and the edit are the same text in every example."""
    for name in ("build_model", "decode", "generate", "amplify"):
        assert len({inspect.getsource(getattr(example(method), name)) for method in METHODS}) == 1, name
