"""``djinn.waiting()``: a program gives up its turn while it waits for something else than its model.

Between two layers, or inside one, the program keeps the device from all others, even where it only waits for a queue.
In the block others compute. At its end the program takes the turn again, with all that is its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from djinn.program.program import current_program


@contextmanager
def waiting() -> Iterator[None]:
    """Give up the turn in this block, in which a program waits: for a queue, a lock, another session.

    For example: ``with djinn.waiting(): request = requests.get()``. In the block the program may not call its model:
    :class:`djinn.IllegalMove`. If it is cancelled meanwhile, it is unwound at the end of the block. On a thread that
    runs no session, and within another such block, this does nothing.
    """
    program = current_program()
    if program is None or not program.turn.held:
        yield
    else:
        with program.aside():
            yield
