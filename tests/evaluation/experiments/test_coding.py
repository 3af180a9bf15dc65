"""Coded state is measured beside plain state and copies by hand, bit-exact, and compared as the records say."""

import json
import sys

import pytest
import tokenizers
import torch
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluation.experiments import coding
from tests.evaluation.measuring import CONFIG, LAYERS, shallow

__all__ = ["shallow"]


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs the command in a folder with a study: its exit status and what it prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["coding", *words])
        status = coding.main()
        said = capsys.readouterr()
        return status, said.out if status == 0 else said.err

    return run


def test_forms_are_measured_and_compared(command, tmp_path):
    """Two processes of one workload and layer; what is coded has fewer bytes, and at least what no code undercuts."""
    files = [f"{number}.json" for number in (1, 2)]
    for number, file in enumerate(files, 1):
        asked = ["--layers", "3", "--workloads", "session", "--blocks", "1", "--round", str(number)]
        assert command("measure", file, *asked) == (0, "")
    records = [json.loads((tmp_path / file).read_text()) for file in files]
    (cell,) = records[0]["cells"]
    plain, coded = ({form["variant"]: form for form in cell["forms"]}[name] for name in ("default", "coded"))
    assert 11 / 16 * plain["host_bytes_paused"] < coded["host_bytes_paused"] < 0.9 * plain["host_bytes_paused"]
    assert all(sample["bit_exact"] for sample in cell["blocks"][0]["samples"])
    status, said = command("compare", *files)
    assert status == 0
    assert "session, layer 3, 2 processes" in said
    assert f"djinn coded: {coded['host_bytes_paused']} of {coded['state_bytes']} bytes in host memory" in said


def test_coded_state_beside_a_session_that_decodes(command, tmp_path):
    """Windows of plain state and of coded state, each compared; a record of pairs is of another verb."""
    assert command("beside", "one.json", "--blocks", "1") == (0, "")
    plain, coded = json.loads((tmp_path / "one.json").read_text())["cells"]
    assert (plain["variant"], coded["variant"]) == ("default", "coded")
    assert 0 < json.loads((tmp_path / "one.json").read_text())["buffer_bytes"] <= 64 << 20
    assert all(window["bit_exact"] for block in coded["blocks"] for window in block)
    status, said = command("compare", "one.json")
    assert status == 0
    first, second, *lines = said.splitlines()
    assert first == "functional CPU run: not a performance result"
    assert second == "beside a session that decodes, layer 5, 1 processes"
    assert [line.split()[0] for line in lines].count("swaps") == 4
    (tmp_path / "pairs.json").write_text(json.dumps({"cells": [1]}))
    (tmp_path / "gpu.json").write_text(json.dumps({"verb": "beside", "functional": False, "cells": [1]}))
    status, said = command("compare", "one.json", "gpu.json")
    assert (status, said) == (2, "error: FILE: the functional is False here and True there: compare what is alike\n")
    status, said = command("compare", "one.json", "pairs.json")
    assert (status, said) == (2, "error: FILE: the verb is beside here and measure there: compare what is alike\n")


def test_what_a_window_takes():
    """Of each block the median of its windows, and coded over plain from block to block."""

    def window(ms):
        swaps = [{"pause_ms": ms, "ready_ms": ms, "ended_ms": 10.0}]
        return {"window": "swaps", "token_ms": [ms, 3 * ms], "step_ends_ms": [10.0 + ms], "resumes": swaps}

    def others(block):
        return [*block, *({**block[0], "window": name} for name in ("undisturbed", "steps", "alone"))]

    times = {"coded": (1.5, 2.0, 5.0), "default": (1.0, 2.0, 4.0)}
    cells = [
        {"variant": variant, "blocks": [others([window(one), window(one)]) for one in ms]}
        for variant, ms in times.items()
    ]
    lines = list(coding.compare([{"verb": "beside", "layer": 20, "cells": cells}]))
    assert lines[0] == "beside a session that decodes, layer 20, 1 processes"
    said = [" ".join(line.split()) for line in lines]
    assert "swaps ready plain 2.000, coded 2.000 coded over plain 1.250 (1.000 to 1.500)" in said
    assert "swaps from ready to the next stop plain 2.000, coded 2.000 coded over plain 1.250 (1.000 to 1.500)" in said
    assert "swaps token of the neighbour plain 4.000, coded 4.000 coded over plain 1.250 (1.000 to 1.500)" in said


def test_what_is_compared():
    """The mean of a block's two samples, the median over all blocks, and the processes' medians beside it."""

    def block(coded, bulk):
        samples = [{"form": form, "ms": ms} for form, times in enumerate((coded, bulk)) for ms in times]
        return {"samples": [dict.fromkeys(coding._CLOCKS, one["ms"]) | {"form": one["form"]} for one in samples]}

    forms = [
        {"method": method, "variant": variant, "host_bytes_paused": 7, "state_bytes": 10}
        for method, variant in (("djinn", "coded"), ("manual_offload", "bulk"))
    ]
    cells = [
        [block((6.0, 8.0), (10.0, 10.0)), block((8.0, 8.0), (10.0, 10.0))],  # 0.7 and 0.8
        [block((9.0, 9.0), (9.0, 11.0)), block((10.0, 10.0), (10.0, 10.0))],  # 0.9 and 1.0
    ]
    records = [{"cells": [{"workload": "session", "layer": 3, "forms": forms, "blocks": blocks}]} for blocks in cells]
    records[1]["cells"].append({"workload": "activation", "layer": 3, "forms": forms[1:], "blocks": []})  # as in pairs
    lines = list(coding.compare(records))
    assert lines[:3] == [
        "session, layer 3, 2 processes",
        "  djinn coded: 7 of 10 bytes in host memory",
        "  manual_offload bulk: 7 of 10 bytes in host memory",
    ]
    resident = [line.split() for line in lines if "resident" in line]
    assert resident == [
        ["resident_ms", "djinn", "coded", "8.500"],
        ["resident_ms", "manual_offload", "bulk", "10.000", "coded", "over", "it", "0.850", "(0.750", "to", "0.950)"],
    ]


@pytest.mark.parametrize(("device", "said"), [("cpu", ["functional CPU run: not a performance result"]), ("cuda", [])])
def test_records_of_pairs_are_compared(command, tmp_path, device, said):
    """They say themselves where they were measured."""
    form = {"method": "djinn", "variant": "coded", "host_bytes_paused": 7, "state_bytes": 10}
    cell = {"workload": "session", "layer": 3, "forms": [form], "blocks": []}
    (tmp_path / "one.json").write_text(json.dumps({"provenance": {"device": device}, "cells": [cell]}))
    status, told = command("compare", "one.json")
    assert (status, told.splitlines()[:-2]) == (0, said)


def test_records_without_coded_state_are_refused(command, tmp_path):
    """As those of a study that leaves it out."""
    (tmp_path / "one.json").write_text(json.dumps({"provenance": {"device": "cuda"}, "cells": [{"forms": []}]}))
    assert command("compare", "one.json") == (2, "error: FILE: no coded state in these records\n")


@pytest.mark.parametrize("verb", ["measure", "beside"])
def test_blocks_that_are_none_are_refused(command, verb):
    """Before anything is measured."""
    assert command(verb, "one.json", "--blocks", "0") == (2, "error: --blocks 0: from 1\n")


@pytest.mark.parametrize("verb", ["measure", "beside"])
def test_what_is_never_coded_is_refused(command, tmp_path, verb):
    """Ratios of plain state over plain state would look like an answer."""
    (tmp_path / "config.yaml").write_text(json.dumps({**CONFIG, "model": {"dtype": "float32"}}))
    status, said = command(verb, "one.json")
    assert (status, said) == (2, "error: model.dtype: float32 is never coded, only bfloat16 is\n")


@pytest.mark.parametrize(
    ("text", "said"), [("[]", "no record of measure, of beside or of pairs"), ("{", "Expecting property name")]
)
def test_what_is_no_record_is_named(command, tmp_path, text, said):
    (tmp_path / "one.json").write_text(text)
    status, told = command("compare", "one.json")
    assert status == 2
    assert told.startswith(f"error: one.json: {said}")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--layers", "11"], "--layers 11: llama-2-tiny has layers 1 to 10"),
        (["--workloads", "chat"], "--workloads chat: the study has activation, session, decode"),
    ],
)
def test_what_is_not_in_the_study_is_named(command, asked, said):
    status, told = command("measure", "one.json", "--layers", "3", "--workloads", "session", *asked)
    assert status == 2
    assert said in told


def test_sizes_of_a_checkpoint_and_of_random_weights(command, tmp_path):
    """Exponents that lie apart need more bytes: the checkpoint's layers multiply by powers of two."""
    words = tokenizers.Tokenizer(WordLevel({f"{word}": word for word in range(64)}, unk_token="0"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "words.json"))
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            vocab_size=64,
            dtype=torch.bfloat16,
        )
    )
    for layer in model.model.layers:
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.weight.data *= 2.0 ** torch.randint(-20, 20, (32, 1))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "checkpoint")
    PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "words.json")).save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "prompt.txt").write_text(" ".join(str(7 * word % 64) for word in range(600)))
    (tmp_path / "config.yaml").write_text(json.dumps({**CONFIG, "model": {"path": str(tmp_path / "checkpoint")}}))
    status, said = command("sizes", "prompt.txt")
    assert status == 0, said
    ratios = [float(line.split(": ")[1].split()[0]) for line in said.splitlines()]
    assert [line.partition(",")[0] for line in said.splitlines()] == ["trained weights"] * 3 + ["random weights"] * 3
    assert [ratio for ratio in ratios[3:] if not 0.69 < ratio < 0.8] == []
    assert min(ratios[:3]) > max(ratios[3:])


def test_sizes_need_a_checkpoint(command, tmp_path):
    (tmp_path / "prompt.txt").write_text("a")
    status, said = command("sizes", "prompt.txt")
    assert (status, said) == (2, "error: model.path: a checkpoint is needed; make trained makes one\n")
