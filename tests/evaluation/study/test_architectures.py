"""The sizes of the models, built in or of a checkpoint folder, whose faults are said by name."""

import json

import pytest

from evaluation.study.architectures import LLAMA_2, from_checkpoint
from evaluation.study.plan import ConfigError
from evaluation.study.resolve import resolve

SIZES = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 128,
}


def test_architectures_have_the_published_sizes():
    """Parameters of Llama-2, and the KV cache of 2048 tokens at 13B: 1600 MiB."""
    assert LLAMA_2["llama-2-7b"].parameters == 6_738_415_616
    assert LLAMA_2["llama-2-13b"].parameters == 13_015_864_320
    assert LLAMA_2["llama-2-70b"].parameters == 68_976_648_192
    assert LLAMA_2["llama-2-13b"].kv_bytes(2048, "bfloat16") == 1600 << 20
    assert LLAMA_2["llama-2-13b"].weight_bytes("bfloat16") == 2 * 13_015_864_320


@pytest.fixture
def folder(tmp_path):
    """A checkpoint folder called ``mine``, and what writes its config.json."""
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


def test_checkpoint_is_read_from_its_config(folder):
    """A Llama's config.json gives its sizes, and what else stands there does not matter."""
    (folder / "config.json").write_text(json.dumps({**SIZES, "rope_theta": 1e4, "num_key_value_heads": None}))
    found = from_checkpoint(folder)
    assert (found.name, found.layers, found.kv_heads, found.max_positions) == ("mine", 3, 4, 4096)
    (folder / "config.json").write_text(json.dumps({**SIZES, "tie_word_embeddings": True}))
    assert from_checkpoint(folder).parameters == found.parameters - 128 * 64  # the head is the embedding


FAULTS = {
    "absent": (None, "is no checkpoint folder with a readable config.json"),
    "no json": (b"{", "is no checkpoint folder with a readable config.json"),
    "another encoding": ('{"é": 1}'.encode("utf-16"), "is no checkpoint folder with a readable config.json"),
    "too deep": (b"[" * 5000 + b"]" * 5000, "is no checkpoint folder with a readable config.json"),
    "a list": (b"[]", "config.json is not a JSON object"),
    "another model": ({**SIZES, "model_type": "gpt2"}, "holds a 'gpt2' model; the study's baselines know llama"),
    "no model": ({}, "holds a None model"),
    "missing": ({key: SIZES[key] for key in SIZES if key != "vocab_size"}, "config.json: vocab_size: is missing"),
    "text": ({**SIZES, "num_hidden_layers": "3"}, "config.json: num_hidden_layers: '3' should be a valid integer"),
    "fraction": ({**SIZES, "hidden_size": 64.0}, "config.json: hidden_size: 64.0 should be a valid integer"),
    "zero": (
        {**SIZES, "num_attention_heads": 0},
        "config.json: num_attention_heads: 0 should be greater than",
    ),
    "negative": ({**SIZES, "hidden_size": -64}, "config.json: hidden_size: -64 should be greater than or equal to 1"),
    "huge": ({**SIZES, "intermediate_size": 10**400}, "config.json: intermediate_size: "),
    "heads": ({**SIZES, "num_attention_heads": 5}, "config.json: hidden_size 64, num_attention_heads 5"),
    "kv heads": ({**SIZES, "num_key_value_heads": 3}, "config.json: hidden_size 64, num_attention_heads 4, num_key"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_checkpoint_has_its_message(folder, fault):
    """One line that names model.path, the file and the key."""
    content, message = FAULTS[fault]
    if content is not None:
        written = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "config.json").write_bytes(written)
    with pytest.raises(ConfigError) as caught:
        resolve({"device": "cpu", "model": {"path": str(folder)}})
    assert str(caught.value).startswith("config: model.path: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
