"""The command ``djinn``: opens a checkpoint in a local folder in the debugger.

``djinn debug CHECKPOINT --prompt "The capital of France is" --break 15`` loads the model and its tokenizer, starts
``model.generate`` in a durable session, and shows it where it is parked. Bad input is one line and exit status 2,
before the model is loaded where that can be told. No hub is asked.
"""

import argparse
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch

from djinn.core import DjinnError
from djinn.debugger import plain, terminal
from djinn.debugger.bench import Bench
from djinn.debugger.values import Refused
from djinn.debugger.words import error_line
from djinn.runtime import Runtime

_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # of a decoder, in a configuration
_TOKENIZER = ("tokenizer*", "*vocab*", "*.model", "*.tiktoken")  # files of which a tokenizer's folder has one at least
_DTYPES = ("auto", "float32", "bfloat16", "float16")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None, *, lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Command line; returns the exit status. Commands are read from ``lines`` and answered to ``out`` with --plain."""
    asked = _parser().parse_args(arguments)
    try:
        done = _debug(asked, lines, out)
    except Refused as error:
        _tell(f"djinn debug: {error}")
        return 2
    except plain.OutputLost as error:
        if error.errno != errno.EPIPE:  # else whoever read it has gone
            _tell(f"djinn debug: the output cannot be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), (out or sys.stdout).fileno())  # else the interpreter's end fails too
        return 1
    except KeyboardInterrupt:
        _tell("djinn debug: interrupted")
        return 130
    return 0 if done else 1


def _tell(text: str) -> None:
    """Write a line to the standard error; to nowhere if that is closed or full."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="djinn", description="Pause a language model after any layer, and look into it.")
    commands = parser.add_subparsers(required=True, metavar="debug", parser_class=_Parser)
    debug = commands.add_parser("debug", help="open a checkpoint in the debugger", description=__doc__.split("\n\n")[1])
    debug.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a folder with a model and its tokenizer")
    debug.add_argument("--prompt", required=True, help="what the model goes on from")
    debug.add_argument(
        "--break", dest="layer", type=int, metavar="L", help="stop after this layer; else the middle one"
    )
    debug.add_argument("--max-new-tokens", type=int, default=20, metavar="N", help="20 unless said")
    debug.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="such as cuda:0 or cpu")
    debug.add_argument("--dtype", choices=_DTYPES, default="auto", help="of the weights; auto is the checkpoint's")
    debug.add_argument("--host-memory", type=float, metavar="GIB", help="for paused state; else half of what is free")
    debug.add_argument("--sample", action="store_true", help="draw tokens; else the likeliest is taken")
    debug.add_argument("--seed", type=int, default=0, help="of --sample; 0 unless said")
    debug.add_argument("--plain", action="store_true", help="lines in place of a screen, for pipes and screen readers")
    return parser


def _debug(asked: argparse.Namespace, lines: TextIO | None, out: TextIO | None) -> bool:
    """Open the debugger; return whether no command of a script failed."""
    device = _check(asked)
    _check_front(asked.plain, lines, out)
    tokenizer, prompt = _tokens(asked.checkpoint, asked.prompt)
    _tell(f"loading {asked.checkpoint}")
    model = _model(asked.checkpoint, asked.dtype, device)
    host_memory = None if asked.host_memory is None else int(asked.host_memory * 2**30)
    program = _program(model, device)
    # as arguments, which restore compares
    given = {"prompt": prompt, "max_new_tokens": asked.max_new_tokens, "sample": asked.sample}
    try:
        with Runtime(model, host_memory_bytes=host_memory) as runtime:
            layer = max(1, runtime.depth // 2) if asked.layer is None else asked.layer
            torch.manual_seed(asked.seed)
            session = runtime.open(breakpoint=layer, durable=True).start(program, **given)
            bench = Bench(runtime, tokenizer=tokenizer, call=(program, (), given), owns_runtime=True)
            try:
                what = f"waiting for layer {layer}"
                bench.wait_for(session, what, _tell)
                return _open_front(bench, asked.plain, lines, out)
            finally:
                bench.close()
    except (DjinnError, ValueError) as error:
        raise Refused(str(error)) from None


def _open_front(bench: Bench, is_plain: bool, lines: TextIO | None, out: TextIO | None) -> bool:
    if is_plain:
        if lines is None and isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # a byte that is no UTF-8 spoils its line alone
        with suppress(ImportError):  # where there is none the terminal's own keys have to do
            import_module("readline")
        return plain.run(bench, lines=lines, out=out)
    import_module("djinn.debugger.screen").run(bench)
    return True


def _check(asked: argparse.Namespace) -> torch.device:
    """Return the device, when all that can be told without the model is right. Raises :class:`Refused`."""
    if not asked.prompt.strip():
        raise Refused("the prompt is empty: --prompt says what the model goes on from")
    try:
        asked.prompt.encode()
    except UnicodeEncodeError:
        raise Refused("the prompt is no text in UTF-8: type it in a terminal whose locale is UTF-8") from None
    if not 0 <= asked.seed < 2**64:
        raise Refused(f"--seed {asked.seed} is no seed: pass 0 to {2**64 - 1}")
    if asked.max_new_tokens < 1:
        raise Refused(f"--max-new-tokens {asked.max_new_tokens} is too small: at least 1")
    if asked.host_memory is not None and not 2**-30 <= asked.host_memory < 2**20:
        raise Refused(f"--host-memory {asked.host_memory:g} is no size: pass GiB, such as 4")
    if find_spec("transformers") is None:
        raise Refused('transformers is not installed: pip install "djinn[debugger]"')
    if not asked.plain and find_spec("textual") is None:
        raise Refused('the screen needs Textual: pip install "djinn[debugger]", or type --plain')
    depth = _depth(asked.checkpoint)
    if asked.layer is not None and not 1 <= asked.layer <= (depth or asked.layer):
        raise Refused(f"--break {asked.layer} is not a layer of this model: 1 to {depth or 'its number of layers'}")
    try:
        device = torch.device(asked.device)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise Refused(f"--device {asked.device} is no device: pass cuda, cuda:0 or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Refused(f"--device {asked.device}: there are {torch.cuda.device_count()} GPUs that torch can use")
    return device


def _check_front(is_plain: bool, lines: TextIO | None, out: TextIO | None) -> None:
    try:
        plain.streams(lines, out) if is_plain else terminal.check()
    except DjinnError as error:
        raise Refused(str(error)) from None


def _depth(folder: Path) -> int | None:
    """Return the number of layers that the checkpoint in ``folder`` names; None if it names none."""
    if not folder.is_dir():
        raise Refused(f"there is no folder {folder}: pass a checkpoint that save_pretrained has written")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{folder} has no config.json: pass a checkpoint that save_pretrained has written") from None
    except (OSError, ValueError) as error:
        raise Refused(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise Refused(f"{folder / 'config.json'} is no configuration of a model")
    text = config.get("text_config", config)
    depths = (text.get(name) for name in _DEPTHS if isinstance(text, dict))
    return next((depth for depth in depths if isinstance(depth, int)), None)


def _tokens(folder: Path, prompt: str) -> tuple[Any, list[int]]:
    """Return the tokenizer, and the ids of the prompt."""
    import transformers  # noqa: PLC0415 - it takes seconds, and bad input is told before

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not any(file for pattern in _TOKENIZER for file in folder.glob(pattern)):
        raise Refused(f"{folder} has no tokenizer: write it there by the tokenizer's save_pretrained")
    tokenizer = _loaded("tokenizer", lambda: transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True))
    ids = _loaded("tokenizer", lambda: list(tokenizer(prompt)["input_ids"]))
    if not ids:
        raise Refused("the tokenizer makes no token of the prompt: type a longer one")
    return tokenizer, ids


def _model(folder: Path, dtype: str, device: torch.device) -> Any:
    import transformers  # noqa: PLC0415

    load = transformers.AutoModelForCausalLM.from_pretrained
    return _loaded("model", lambda: load(folder, local_files_only=True, dtype=dtype).to(device).eval())


def _loaded(what: str, load: Callable[[], Any]) -> Any:
    """Return ``load()``. Raises :class:`Refused` for what it raises if the folder is no checkpoint, or too large.

    That may be any error: a file's contents decide what code of others does with it.
    """
    try:
        return load()
    except Exception as error:  # noqa: BLE001
        raise Refused(f"the {what} cannot be loaded: {error_line(error)}") from None


def _program(model: Any, device: torch.device) -> Callable[..., Any]:
    """Return the program: it makes its own tensors, so that all of them are its state."""
    padding = model.generation_config.pad_token_id
    stop = model.generation_config.eos_token_id
    if padding is None:
        padding = stop[0] if isinstance(stop, list) else stop
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}

    def generate(*, prompt: list[int], max_new_tokens: int, sample: bool) -> Any:
        ids = torch.tensor([prompt], device=device)
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=padding,
            **({"do_sample": True} if sample else greedy),
        )

    return generate


if __name__ == "__main__":
    sys.exit(main())
