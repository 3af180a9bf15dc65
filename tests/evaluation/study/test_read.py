"""The file config.yaml: what YAML leaves open, or cannot be read, is one message that names the key or the file."""

import pytest

from evaluation.study.config import check_plain
from evaluation.study.plan import ConfigError
from evaluation.study.read import load_config, setting

FAULTS = {
    "empty": (b"", "{file} is no configuration: it holds no keys"),
    "a list": (b"- a", "{file} is no configuration: it holds no keys"),
    "broken": (b"a: [", "config: {file} cannot be read as a configuration: while parsing"),
    "another document": (b"a: 1\n---\na: 2\n", "config: {file} cannot be read as a configuration: expected a single"),
    "a map as a key": (b"{a: 1}: x", "config: {file} cannot be read as a configuration: while constructing a mapping"),
    "an object": (b"a: !!python/name:os.system", "config: {file} cannot be read as a configuration: could not"),
    "utf-16": ("a: 1".encode("utf-16"), "{file} cannot be read as a configuration in UTF-8"),
    "latin-1": ("a: é".encode("latin-1"), "{file} cannot be read as a configuration in UTF-8"),
    "number as a key": (b"1: x", "config: the configuration: 1 is no key"),
    "null as a key": (b"model: {null: x}", "config: model: None is no key"),
    "true as a key": (b"load: [{yes: 2}]", "config: load.0: True is no key"),
    "twice": (b"rounds: 1\ndevice: cpu\nrounds: 2\n", "config: rounds is given twice, in lines 1 and 3"),
    "twice below": (b"load:\n- {sessions: 1,\n   sessions: 2}\n", "config: load.0.sessions is given twice, in lines 2"),
    "twice in a line": (b"model: {seed: 1, seed: 2}\n", "config: model.seed is given twice, in lines 1 and 1"),
    "endless": (b"model: &m {path: [*m]}", "config: model: too deep or too long"),
    "exploding": (
        b"a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: &d [*c, *c, *c, *c]\n"
        b"e: &e [*d, *d, *d, *d]\nf: &f [*e, *e, *e, *e]\ng: &g [*f, *f, *f, *f]\n",
        "config: g: too deep or too long",
    ),
    "nested": (b"layers: " + b"[" * 900 + b"]" * 900, "config: "),
    "digits": (b"order_seed: " + b"9" * 5000, "config: order_seed: a number of 5000 digits is too large"),
    "a date": (b"rounds: 2026-01-01", "config: rounds: a date is no text, number, list or map"),
    "a set": (b"layers: !!set {a, b}", "config: layers: a set is no text, number, list or map"),
    "bytes": (b"device: !!binary Y3B1", "config: device: a bytes is no text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_file_has_its_message(tmp_path, fault):
    """One line."""
    content, message = FAULTS[fault]
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(message.format(file=file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_an_alias_may_be_used_and_a_merged_key_replaced(tmp_path):
    """What YAML offers against repetition stays."""
    file = tmp_path / "config.yaml"
    file.write_text("overhead: &o {samples: 3, decode_steps: 4}\nfunctional: {overhead: {<<: *o, samples: 5}}\n")
    assert load_config(file)["functional"] == {"overhead": {"samples": 5, "decode_steps": 4}}


def test_a_setting_of_the_command_line_means_what_it_means_in_the_file():
    """Lists and maps hold numbers and truth values; only the first = separates."""
    assert setting("layers=[1, 2]") == {"layers": [1, 2]}
    assert setting("model={path: a=b, seed: 3}") == {"model": {"path": "a=b", "seed": 3}}
    with pytest.raises(ConfigError, match="config: model.seed is given twice"):
        setting("model={seed: 1, seed: 2}")
    with pytest.raises(ConfigError, match="config: layers: --config cannot be read as a configuration"):
        setting("layers=[")


def test_values_that_no_file_can_hold_are_refused():
    """As a program may pass them."""
    with pytest.raises(ConfigError, match="config: layers: a tuple is no text"):
        check_plain({"layers": (1,)})
