"""An exception before a chosen line of the runtime, as Ctrl-C brings it."""

import gc
import sys
from pathlib import Path

import djinn

SOURCES = str(Path(djinn.__file__).parent)


class Interrupt:
    """Raises KeyboardInterrupt on this thread before line ``first`` of the runtime, and ``again`` lines after that.

    No garbage is collected meanwhile: a finaliser of something older would take the interrupt.
    """

    def __init__(self, first, again=0):
        self.left = first
        self.again = again
        self.raised = 0

    def __enter__(self):
        gc.disable()
        sys.settrace(self.of_call)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(None)
        gc.enable()
        return exc_info[0] is KeyboardInterrupt

    def of_call(self, frame, event, arg):
        return self.of_line if frame.f_code.co_filename.startswith(SOURCES) else None

    def of_line(self, frame, event, arg):
        if event == "line" and self.left:
            self.left -= 1
            if self.left == 0:
                self.left, self.again = self.again, 0
                self.raised += 1
                raise KeyboardInterrupt
        return self.of_line
