"""The front of lines: commands in, lines out, also where the streams are odd."""

import io
import sys

import pytest

import djinn
from djinn.debugger import plain
from djinn.debugger.bench import Bench


class Typed(io.StringIO):
    """Lines that a person types at a terminal."""

    def isatty(self):
        return True


def answers(bench, text, lines=io.StringIO):
    """What the front writes when it is given ``text``."""
    out = io.StringIO()
    plain.run(bench, lines=lines(text), out=out)
    return out.getvalue().splitlines()


def test_it_greets_does_each_line_and_quits(bench, started):
    """Nothing is done behind quit; an empty line does nothing; a line that fails is followed by the next."""
    session = started()
    said = answers(bench, "\nfly\nstep\nquit\nstep\n")
    assert said[0].split() == ["no", "phase", "layer", "device", "host", "disk", "age"]
    assert said[1].startswith(">  1  paused")
    assert said[2:4] == ["help lists the commands, quit ends", "there is no command fly: help lists them"]
    assert said[4].startswith("session 1: paused after layer 3")
    assert said[5:] == ["1 session left parked"]
    assert session.layer == 3


def test_the_end_of_the_input_quits_and_says_what_is_lost(runtime, started):
    """Without a question that nobody can answer."""
    started()
    said = answers(Bench(runtime, owns_runtime=True), "sessions")
    assert said[-1].startswith("the input has ended, and lost is session 1: paused after layer 2")
    assert answers(Bench(runtime), "sessions")[-1] == "the input has ended"  # as where a notebook has none


@pytest.mark.parametrize(("answer", "ends"), [("y", True), ("YES", True), ("n", False), ("", False)])
def test_a_question_is_answered_by_the_next_line(runtime, started, answer, ends):
    """Only by yes; in a pipe too."""
    session = started()
    said = answers(Bench(runtime, owns_runtime=True), f"quit\n{answer}\nstep\n")
    assert "Quit without it? [y/N] " in said
    assert ("not done" in said) is not ends
    assert session.layer == (2 if ends else 3)


def test_the_lens_of_all_layers_is_a_table_of_lines(bench, started):
    """Behind its question; a line for each layer."""
    started(4, durable=True)
    said = answers(bench, "lens layers\ny\nquit\n")
    assert said.index("Fork? [y/N] ") < said.index("logit lens, layers 4 to 6: model.norm and lm_head, sequence 1 of 2")
    assert [line.split()[0] for line in said[-5:-2]] == ["4", "5", "6"]


def test_a_command_that_was_taken_for_an_answer_is_named(runtime, started):
    """Who gives lines by a pipe may not have reckoned with the question."""
    started()
    said = answers(Bench(runtime, owns_runtime=True), "quit\nuse 2\n")
    assert "not done: use 2 was the answer, and only y is yes" in said


def test_a_prompt_is_for_a_terminal(bench, started):
    """A pipe gets answers alone."""
    started()
    assert "(djinn) 1 session left parked" in answers(bench, "quit\n", Typed)
    assert not any("(djinn)" in line for line in answers(bench, "quit\n"))


def test_a_terminal_has_its_keys_for_editing(bench, started, monkeypatch, capsys):
    """A person's lines are read by ``input``; the end of them quits."""
    started()
    prompts, typed = [], iter(["step"])

    def reads(prompt):
        prompts.append(prompt)
        for line in typed:
            return line
        raise EOFError

    monkeypatch.setattr(sys, "stdin", Typed())
    monkeypatch.setattr("builtins.input", reads)
    plain.run(bench)
    assert prompts == ["(djinn) ", "(djinn) "]
    assert "session 1: paused after layer 3" in capsys.readouterr().out


def test_ctrl_c_at_the_prompt_does_not_end_it(bench, started):
    """It says how to end it, and reads on."""
    started()

    class Struck(io.StringIO):
        struck = False

        def readline(self, *args):
            if not self.struck:
                self.struck = True
                raise KeyboardInterrupt
            return super().readline(*args)

    said = answers(bench, "step\nquit\n", Struck)
    assert said[3] == "interrupted: quit ends the debugger"
    assert said[4].startswith("session 1: paused after layer 3")


def test_characters_that_the_stream_lacks_are_escaped(bench):
    """An ASCII terminal gets no error."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    plain.run(bench, lines=io.StringIO("flü\n"), out=out)
    assert b"there is no command fl\\xfc" in raw.getvalue()


def test_control_characters_are_escaped(bench, started):
    """So that no name, whoever gave it, moves a terminal's cursor."""
    started()
    assert answers(bench, "name a\x1b[2Jb\n")[3] == r"session 1 is called a\x1b[2Jb"


def test_debug_opens_it_in_a_program(runtime, started, monkeypatch, capsys):
    """On standard input and output; its thread ends with it, and the sessions stay."""
    session = started()
    monkeypatch.setattr(sys, "stdin", io.StringIO("tokens\nquit\n"))
    assert djinn.debug(runtime, plain=True) is None
    assert "sequence 1 of 2, 24 tokens" in capsys.readouterr().out
    assert session.phase is djinn.Phase.PAUSED


def test_without_textual_debug_says_what_to_install(runtime, monkeypatch):
    """Before anything is opened."""
    monkeypatch.setattr("djinn.front.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "djinn\[debugger\]", or debug\(\.\.\., plain=True\)'):
        djinn.debug(runtime)


def test_import_djinn_imports_nothing_of_the_debugger(interpreters):
    """Nor does a plain front import Textual."""
    ended = interpreters.run(
        """
        import sys
        import djinn
        print([name for name in sys.modules if name.startswith(("djinn.debugger", "textual", "transformers"))])
        import djinn.debugger.plain, djinn.debugger.main
        print([name for name in sys.modules if name.startswith(("textual", "transformers"))])
        """
    )
    assert ended.stdout == "[]\n[]\n", ended.stderr
