"""Which modules are taken for the decoder layers, and what a refusal tells to type."""

import re

import pytest
import torch
import transformers
from torch import nn

import djinn
from djinn.state.layers import KvLayers, find_layers

# Where the layers of a family are, and how many its default configuration has.
FAMILIES = {
    "AudioFlamingo3ForConditionalGeneration": ("model.language_model.layers", 32),
    "BartForCausalLM": ("model.decoder.layers", 12),
    "BertLMHeadModel": ("bert.encoder.layer", 12),
    "BloomForCausalLM": ("transformer.h", 2),
    "EncoderDecoderModel": ("decoder.bert.encoder.layer", 12),
    "GPT2LMHeadModel": ("transformer.h", 12),
    "Gemma3ForConditionalGeneration": ("model.language_model.layers", 26),
    "GitForCausalLM": ("git.encoder.layer", 6),
    "JambaForCausalLM": ("model.layers", 32),
    "LongcatFlashForCausalLM": ("model.layers", 28),
    "Mamba2ForCausalLM": ("backbone.layers", 64),
    "MixtralForCausalLM": ("model.layers", 32),
    "ModernBertDecoderForCausalLM": ("model.layers", 22),
    "NllbMoeForConditionalGeneration": ("model.decoder.layers", 12),
    "Phi4MultimodalForCausalLM": ("model.layers", 32),
    "ProphetNetForConditionalGeneration": ("prophetnet.decoder.layers", 12),
    "RwkvForCausalLM": ("rwkv.blocks", 32),
    "SeamlessM4TForTextToText": ("text_decoder.layers", 24),
    "T5ForConditionalGeneration": ("decoder.block", 6),
    "xLSTMForCausalLM": ("backbone.blocks", 32),
}


def meta(kind, **settings):
    """A model of a family without memory, by its default configuration and ``settings``."""
    cls = getattr(transformers, kind)
    if kind == "EncoderDecoderModel":
        bert = transformers.BertConfig()
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(bert, bert)
    else:
        config = cls.config_class(**settings)
    with torch.device("meta"):
        return cls(config)


def paths(model, layers=None):
    names = {module: name for name, module in model.named_modules()}
    return [names[layer] for layer in find_layers(model, layers)]


@pytest.mark.parametrize("kind", FAMILIES)
def test_families(kind):
    """The decoder's stack is found wherever a family keeps it, whatever else the model has."""
    stack, depth = FAMILIES[kind]
    assert paths(meta(kind)) == [f"{stack}.{index}" for index in range(depth)]


SMALL = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 64}


@pytest.mark.parametrize(
    ("kind", "settings", "stack", "depth"),
    [
        *(
            ("T5ForConditionalGeneration", {"num_layers": above, "num_decoder_layers": depth}, "decoder.block", depth)
            for above, depth in [(6, 2), (3, 6), (3, 2), (2, 3), (1, 1)]
        ),
        *(
            (kind, {**SMALL, "encoder_layers": encoder, "decoder_layers": decoder}, "model.decoder.layers", decoder)
            for kind in ("BartForConditionalGeneration", "WhisperForConditionalGeneration")
            for encoder, decoder in [(12, 6), (32, 4), (2, 1)]
        ),
        ("BartForCausalLM", {**SMALL, "encoder_layers": 3, "decoder_layers": 2}, "model.decoder.layers", 2),
    ],
)
def test_an_encoder_of_another_depth(kind, settings, stack, depth):
    """The decoder's own depth counts, and no list inside one of its layers is taken for the layers."""
    assert paths(meta(kind, **settings)) == [f"{stack}.{index}" for index in range(depth)]


def block(width=8):
    return nn.Sequential(nn.Linear(width, width), nn.Tanh())


class Config:
    def __init__(self, depth):
        self.n_layer = depth


class Model(nn.Module):
    """A model of the test's own: whatever it is made of, by name."""

    def __init__(self, config=None, **parts):
        super().__init__()
        if config is not None:
            self.config = config
        for name, part in parts.items():
            self.add_module(name, part)


def stack(depth, width=8):
    return nn.ModuleList(block(width) for _ in range(depth))


class Mixture(nn.Module):
    """A layer with a longer list of experts than there are layers."""

    def __init__(self):
        super().__init__()
        self.experts = stack(8)


def embedding():
    part = Model(blocks=stack(2))
    part.get_input_embeddings = lambda: None
    return part


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        # A head of single operators is no stack, however heavy.
        (Model(layers=stack(2), score=nn.Sequential(nn.Linear(8, 900), nn.Tanh(), nn.Linear(900, 1))), "layers"),
        (Model(layers=nn.ModuleList([Mixture(), Mixture()])), "layers"),
        # A head that looks like a stack: the configuration decides.
        (Model(Config(3), layers=stack(3), score=stack(2, 90)), "layers"),
        # A depth that the configuration gives in other words is no obstacle, where nothing is to be decided.
        (Model(Config(7), layers=stack(3)), "layers"),
        # An encoder that knows its own depth, in a decoder that knows its own.
        (Model(Config(3), image=Model(Config(2), layers=stack(2)), layers=stack(3)), "layers"),
        # The layers of a model that is in another one, as in a wrapper with a value head.
        (Model(inner=Model(Config(2), layers=stack(2)), value=stack(4)), "inner.layers"),
        # A model that is written as one sequence: its layers are a part of it.
        (nn.Sequential(nn.Embedding(8, 8), nn.Sequential(block(), block()), nn.Linear(8, 8)), "1"),
        (Model(transformer=nn.ModuleDict({"wte": nn.Embedding(8, 8), "h": stack(2)})), "transformer.h"),
    ],
)
def test_structure(model, expected):
    """What is a stack of layers is seen from its structure; the configuration decides between several."""
    found = find_layers(model)
    assert paths(model) == [f"{expected}.{index}" for index in range(len(found))]


def test_a_layer_may_be_run_several_times():
    """A stack that repeats a layer is as deep as it is run."""
    shared = block()
    model = Model(layers=nn.ModuleList([shared, shared, block()]))
    assert [layer is shared for layer in find_layers(model)] == [True, True, False]


def test_get_decoder_that_gives_no_stack():
    """A model whose ``get_decoder`` returns its head is searched as a whole."""
    model = Model(decoder=nn.Linear(8, 8), layers=stack(2))
    model.get_decoder = lambda: model.decoder
    assert paths(model) == ["layers.0", "layers.1"]


@pytest.mark.parametrize(
    ("model", "stacks"),
    [
        (Model(left=stack(2), right=stack(3)), {"left": 2, "right": 3}),
        (Model(Config(2), left=stack(2), right=stack(2)), {"left": 2, "right": 2}),
        (nn.ModuleList([embedding(), embedding()]), {"0.blocks": 2, "1.blocks": 2}),
        (Model(odd=nn.ModuleDict({"a-b": stack(2), "c": stack(2)})), {"odd.a-b": 2, "odd.c": 2}),
        ("HrmTextForCausalLM", {"model.L_module.layers": 16, "model.H_module.layers": 16}),
        ("XLMWithLMHeadModel", {"transformer.attentions": 12, "transformer.ffns": 12}),
    ],
)
def test_several_stacks_are_listed(model, stacks):
    """The refusal lists each with what to type, and that is accepted."""
    model = meta(model) if isinstance(model, str) else model
    with pytest.raises(djinn.LayersNotFound) as caught:
        find_layers(model)
    lines = re.findall(r"layers=(\S+)  \((\d+) of \w+\)", str(caught.value))
    assert stacks == {
        path: int(depth)
        for (typed, depth), path in zip(lines, stacks, strict=True)
        if find_layers(model, eval(typed)) == list(model.get_submodule(path))
    }


@pytest.mark.parametrize("model", [nn.LSTM(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), nn.Module()])
def test_no_stack(model):
    """The refusal says what was looked for, and what to type."""
    with pytest.raises(djinn.LayersNotFound, match=r"no ModuleList.*layers=\[model.first, model.second\]"):
        find_layers(model)


def test_named_layers_must_be_parts():
    """Modules of another model, and none at all, are refused."""
    for layers in ([nn.Linear(8, 8)], [], nn.ModuleList()):
        with pytest.raises(djinn.LayersNotFound, match="must name modules"):
            find_layers(Model(layers=stack(2)), layers)


def test_named_layers_are_beside_each_other():
    """One inside another would park a call of the outer one twice, as two layers."""
    model = Model(layers=stack(2))
    for layers in ([model, model.layers[0]], [model.layers[1], model.layers[0], model.layers]):
        with pytest.raises(djinn.LayersNotFound, match="no module that is inside another"):
            find_layers(model, layers)


def test_a_runtime_shows_the_names(llama):
    """``layers`` are the paths of the decoder layers, in order; a stack may be given as it is."""
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        assert runtime.layers == tuple(f"model.layers.{index}" for index in range(runtime.depth))
    model = nn.Sequential(block(), block())
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=model) as runtime:
        assert runtime.layers == ("0", "1")


def test_which_entries_of_a_cache_a_layer_reads():
    """Those whose index its modules carry, all of them if there are several, and that of its place."""
    layers = [nn.ModuleList(nn.Linear(1, 1) for _ in range(count)) for count in (1, 2, 1)]
    for part, index in ((layers[0][0], 0), (layers[1][0], 2), (layers[1][1], 3)):
        part.layer_idx = index
    kv = KvLayers(layers)
    assert [sorted(kv.read_by(number)) for number in (1, 2, 3)] == [[0], [1, 2, 3], [2]]
