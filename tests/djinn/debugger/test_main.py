"""The command ``djinn debug``: a checkpoint in a folder, parked at a layer, and lines; bad input is one line."""

import io
import json
import os
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import djinn
from djinn.debugger import main as command
from djinn.debugger.main import main

PROMPT = "the capital of France is"
WORDS = ["the", "capital", "of", "France", "is", "Paris", "[UNK]", "a", "in", "and"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a Llama of 6 layers and ten words, and its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=len(WORDS),
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run(checkpoint):
    """Runs the command on the checkpoint with ``--plain``; returns its status and what it has written."""

    def run(lines, *more, prompt=PROMPT, folder=checkpoint, out=None):
        is_text, out = out is None, out or io.StringIO()
        asked = ["debug", str(folder), "--prompt", prompt, "--plain", "--host-memory", "0.01", "--device", "cpu", *more]
        status = main(asked, lines=io.StringIO("\n".join(lines)), out=out)
        return status, out.getvalue() if is_text else None

    return run


def generated(checkpoint, **more):
    """The words that plain transformers goes on with."""
    model = LlamaForCausalLM.from_pretrained(checkpoint).eval()
    ids = torch.tensor([[0, 1, 2, 3, 4]])
    torch.manual_seed(7)
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, pad_token_id=0, **more)
    return " ".join(WORDS[one] for one in whole[0])


@pytest.mark.parametrize("sample", [False, True])
def test_a_session_goes_from_the_prompt_to_the_plain_continuation(run, checkpoint, sample):
    """It is parked at the layer; its tokens are the prompt's; resumed it ends as plain ``generate`` does."""
    flags = ["--sample", "--seed", "7"] if sample else []
    status, out = run(["tokens", "resume"], "--break", "5", "--max-new-tokens", "6", *flags)
    assert status == 0
    assert ">  1  paused       5" in out
    assert "sequence 1 of 1, 5 tokens" in out
    assert "'the capital of France is'" in out
    assert "session 1: finished\nsequence 1 of 1, 11 tokens: the result\n" in out
    assert repr(generated(checkpoint, do_sample=sample)) in out


def test_a_script_s_failure_is_in_the_exit_status(run):
    """The commands behind it still run."""
    status, out = run(["break 99", "resume"])
    assert status == 1
    assert "session 1: finished" in out


def test_it_stops_at_the_middle_layer_and_can_save_and_restore(run, tmp_path):
    """The session is durable, and the program is known to ``restore`` when its first session has ended."""
    path = tmp_path / "one.djinn"
    status, out = run([f"save {path}", "resume", f"restore {path}", "resume", "quit"])
    assert status == 0
    assert ">  1  paused       3" in out
    first, second = (part.splitlines()[2] for part in out.split(": finished")[1:])
    assert first == second


OTHERS = {
    "argument prompt.3 is 6; in the first run it was 3": ("the capital of Italy is", 6),
    "argument max_new_tokens is 9; in the first run it was 6": (PROMPT, 9),
    "argument sample is True; in the first run it was False": (PROMPT, 6, "--sample"),
}


@pytest.mark.parametrize("said", OTHERS)
def test_a_session_is_restored_under_its_own_settings_alone(run, tmp_path, said):
    """Another prompt, and what decides about the tokens ahead, is named: the continuation would be another one."""
    path = tmp_path / "one.djinn"
    run([f"save {path}"], "--max-new-tokens", "6")
    prompt, new, *flags = OTHERS[said]
    _, out = run([f"restore {path}"], "--max-new-tokens", str(new), *flags, prompt=prompt)
    assert said in out
    assert "session 2" not in out


BAD = {
    "there is no folder none: pass a checkpoint that save_pretrained has written": {"folder": "none"},
    "the prompt is empty: --prompt says what the model goes on from": {"prompt": "  "},
    "--break 7 is not a layer of this model: 1 to 6": {"more": ["--break", "7"]},
    "--break 0 is not a layer of this model: 1 to 6": {"more": ["--break", "0"]},
    "--max-new-tokens 0 is too small: at least 1": {"more": ["--max-new-tokens", "0"]},
    "--host-memory 0 is no size: pass GiB, such as 4": {"more": ["--host-memory", "0"]},
    "--host-memory 1e-12 is no size: pass GiB, such as 4": {"more": ["--host-memory", "1e-12"]},
    "the prompt is no text in UTF-8: type it in a terminal whose locale is UTF-8": {"prompt": "the \udcff"},
    "--seed -1 is no seed: pass 0 to 18446744073709551615": {"more": ["--seed", "-1"]},
    "--seed 18446744073709551616 is no seed: ": {"more": ["--seed", str(2**64)]},
    "--device meta is no device: pass cuda, cuda:0 or cpu": {"more": ["--device", "meta"]},
    "--device gpu is no device: pass cuda, cuda:0 or cpu": {"more": ["--device", "gpu"]},
    "--device cuda:99: there are ": {"more": ["--device", "cuda:99"]},
    "argument --break: invalid int value: 'five'": {"more": ["--break", "five"]},
    "argument --dtype: invalid choice: 'int4'": {"more": ["--dtype", "int4"]},
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_is_one_line_before_the_model_is_loaded(run, monkeypatch, capsys, said):
    """And exit status 2."""
    monkeypatch.setattr(command, "_loaded", None)
    bad = BAD[said]
    try:
        status, _ = run([], *bad.get("more", ()), **{name: value for name, value in bad.items() if name != "more"})
    except SystemExit as left:
        status = left.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"djinn debug: {said}")


def test_a_folder_that_is_no_checkpoint_is_one_line(run, tmp_path, capsys):
    """Without a configuration, with a broken one, without a tokenizer, without weights."""
    lines = []

    def fails():
        assert run([], folder=tmp_path)[0] == 2
        lines.append(capsys.readouterr().err.splitlines()[-1])

    fails()
    config = tmp_path / "config.json"
    for text in ("{", "[]", json.dumps({"model_type": "llama", "num_hidden_layers": 6})):
        config.write_text(text)
        fails()
    (tmp_path / "tokenizer.json").write_text("{")
    fails()
    assert lines[0] == f"djinn debug: {tmp_path} has no config.json: pass a checkpoint that save_pretrained has written"
    assert lines[1].startswith(f"djinn debug: {config} cannot be read: ")
    assert lines[2] == f"djinn debug: {config} is no configuration of a model"
    what = "write it there by the tokenizer's save_pretrained"
    assert lines[3] == f"djinn debug: {tmp_path} has no tokenizer: {what}"
    assert lines[4].startswith("djinn debug: the tokenizer cannot be loaded: ")


def test_missing_packages_are_named(run, monkeypatch, capsys):
    """With what to type, before anything is loaded."""
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert run([])[0] == 2
    assert capsys.readouterr().err == 'djinn debug: transformers is not installed: pip install "djinn[debugger]"\n'


@pytest.mark.parametrize(
    ("lost", "said"),
    [("pipe", []), ("full", ["djinn debug: the output cannot be written: No space left on device"])],
)
def test_an_output_that_is_lost_is_no_traceback(run, capsys, lost, said):
    """As in a pipe to ``head``, which says nothing, and on a full disk; the file can be closed then."""
    if lost == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(writer, "w") as out:
        assert run(["status"], out=out)[0] == 1
    assert [line for line in capsys.readouterr().err.splitlines() if not line.startswith("loading")] == said


@pytest.mark.parametrize(("name", "said"), [("stdin", "standard input is"), ("stdout", "standard output is")])
def test_a_closed_stream_is_refused_before_the_model_is_loaded(checkpoint, monkeypatch, capsys, name, said):
    """By the command, and by ``djinn.debug``; a closed standard error takes no line with it to another stream."""
    monkeypatch.setattr(sys, name, None)
    monkeypatch.setattr(command, "_loaded", None)
    asked = ["debug", str(checkpoint), "--prompt", "the", "--plain", "--device", "cpu"]
    assert main(asked) == 2
    assert capsys.readouterr().err.startswith(f"djinn debug: {said} closed, and ")
    with pytest.raises(djinn.DjinnError, match=f"{said} closed"):
        command.plain.run(None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(asked) == 2
    assert name == "stdout" or capsys.readouterr().out == ""


def test_a_byte_that_is_no_text_spoils_its_own_line_only(checkpoint, monkeypatch, capsys):
    """Of the standard input, in a locale that is UTF-8."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fly\xff\nbreak 4\n"), encoding="utf-8"))
    asked = ["debug", str(checkpoint), "--prompt", "the", "--plain", "--host-memory", "0.01", "--device", "cpu"]
    assert main(asked) == 1
    out = capsys.readouterr().out
    assert "there is no command fly\\udcff: " in out
    assert "is to stop once after layer 4" in out


def test_whatever_a_broken_file_makes_of_loading_is_one_line(run, monkeypatch, capsys):
    """Libraries in Rust raise errors of their own classes."""

    class OfTheirOwn(Exception):
        pass

    def breaks(*args):
        raise OfTheirOwn("incomplete\nmetadata")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *args, **kwargs: breaks())
    assert run([])[0] == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "djinn debug: the model cannot be loaded: OfTheirOwn: incomplete"


def test_ctrl_c_while_it_loads_is_a_line(run, monkeypatch, capsys):
    """And the status that a shell gives it."""

    def strikes(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_model", strikes)
    assert run([])[0] == 130
    assert capsys.readouterr().err.splitlines()[-1] == "djinn debug: interrupted"


def test_a_process_ends_with_that_status(interpreters):
    """As the console script calls it."""
    ended = interpreters.run(
        """
        import sys
        from djinn.debugger.main import main
        sys.exit(main(["debug", "none", "--prompt", "x", "--plain"]))
        """
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("djinn debug: there is no folder none: ")
