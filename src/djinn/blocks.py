"""The end of a ``with`` block around a runtime or a session: closes it, and lets the block's own error through."""

from collections.abc import Callable

from djinn.core import DjinnError

EXIT_SECONDS = 5.0  # for programs to reach their next layer, when the interpreter or a failed block ends


def end_block(close: Callable[[float | None], None], error: BaseException | None) -> None:
    """Call ``close(None)``; after the block's ``error`` with a timeout, and what prevents it becomes a note on it."""
    if error is None:
        return close(None)
    try:
        close(EXIT_SECONDS)
    except (TimeoutError, DjinnError) as prevented:
        error.add_note(f"djinn: {prevented}")
