"""``djinn.debug()``: opens the debugger in a program. It is loaded at the call, and not with the runtime."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from djinn.runtime import Runtime


def debug(runtime: Runtime, *, plain: bool = False, tokenizer: Any = None) -> None:
    """Open the debugger on the sessions of ``runtime``; returns when the user quits, and leaves them as they are then.

    It shows sessions, tokens, state and device memory, and takes commands such as ``step`` and ``edit``
    (``docs/debugger.md``). It is a screen in the terminal, by Textual: ``pip install "djinn[debugger]"``. With
    ``plain`` it is lines instead, and needs nothing. ``tokenizer`` turns ids into words: anything with
    ``decode(ids)``. Raises ``ModuleNotFoundError`` if Textual is wanted and missing, ``TypeError`` for an argument of
    another kind, and :class:`djinn.DjinnError` where there is no terminal for a screen, or no stream for lines.
    """
    if not isinstance(runtime, Runtime):
        raise TypeError(f"debug() takes a djinn.Runtime, as djinn.Runtime(model), not a {type(runtime).__name__}")
    if tokenizer is not None and not callable(getattr(tokenizer, "decode", None)):
        raise TypeError(f"tokenizer has no decode(ids), and is a {type(tokenizer).__name__}")
    if not plain and find_spec("textual") is None:
        raise ModuleNotFoundError('the screen needs Textual: pip install "djinn[debugger]", or debug(..., plain=True)')
    bench = import_module("djinn.debugger.bench").Bench(runtime, tokenizer=tokenizer)
    try:
        import_module("djinn.debugger.plain" if plain else "djinn.debugger.screen").run(bench)
    finally:
        bench.close()
