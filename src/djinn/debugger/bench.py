"""The bench: what every front of the debugger shows and does, without any front.

What is shown are values of one moment (``desk``, ``values``). What is done is a line, such as ``break 15``
(``commands``). Values may be read on one thread while a command runs on another.
"""

from collections.abc import Callable

from djinn.debugger.commands import perform
from djinn.debugger.desk import Desk
from djinn.debugger.values import Outcome


class Bench(Desk):
    """A desk that takes lines."""

    def do(self, line: str, *, confirmed: bool = False, say: Callable[[str], None] = lambda text: None) -> Outcome:
        """Do what ``line`` asks for; ``say`` gets lines of progress meanwhile. Never raises what a command raises.

        Without ``confirmed`` a command that would lose something only asks (``Outcome.question``). It may take long:
        :meth:`interrupt`, from another thread, and Ctrl-C make it return.
        """
        self.begin()
        return perform(self, line, confirmed=confirmed, say=say)
