"""The growth of the host arena: makes host memory ready piece by piece, on a thread of its own.

Page-locking takes 0.1 to 0.4 s a GiB. So the caller waits for a first piece only, and the rest follows meanwhile.
Nothing here knows what makes a piece ready, or who uses it.

The thread ends by itself: when all is ready, when the system refuses a piece, at :meth:`Growth.stop`, and when the
interpreter ends. It is no daemon: the interpreter would end that inside the driver, and the process would abort.
"""

import threading
from collections.abc import Callable

from djinn.interrupts import Bell

FIRST_BYTES = 256 << 20  # what the caller waits for
# A smaller piece disturbs others for a shorter time (see ``page_lock``). A larger one leaves less unused at its end,
# where the next storage does not fit: of 21 MB each, 0.4 % of a GiB and 6 % of a quarter.
PIECE_BYTES = 1 << 30
_STOP_SECONDS = 10.0  # for the piece under way


class Growth:
    """Makes ``nbytes`` ready by calls of ``prepare(offset, bytes)``, or at once if there is nothing to ``prepare``.

    ``pieces`` are the arguments of these calls, in their order; ``ready_bytes`` tells how far it has come. ``warn`` is
    called as ``logging.warning`` is, when a later piece is refused.
    """

    def __init__(self, nbytes: int, prepare: Callable[[int, int], None] | None, warn: Callable[..., None]) -> None:
        self._nbytes = nbytes
        self._prepare = prepare
        self._warn = warn
        self._stopped = False
        self._working = True  # until the thread has ended
        self._afterwards: Callable[[], None] | None = None
        self._bell = Bell()
        self._thread = threading.Thread(target=self._work, name="djinn-arena", daemon=False)
        starts = [0, *range(FIRST_BYTES, nbytes, PIECE_BYTES)] if prepare is not None else [0]
        ends = [*starts[1:], nbytes]
        self.pieces = tuple((start, end - start) for start, end in zip(starts, ends, strict=True))
        self.ready_bytes = nbytes if prepare is None else 0
        self.refusal: BaseException | None = None  # why no further piece is ready

    @property
    def growing(self) -> bool:
        """Whether more will be ready."""
        return self.ready_bytes < self._nbytes and self.refusal is None and not self._stopped

    @property
    def limit(self) -> int:
        """Bytes that are ready in the end: fewer than asked for, if the system has refused a piece."""
        return self._nbytes if self.refusal is None else self.ready_bytes

    def start(self) -> None:
        """Start the thread, and wait for the first piece.

        Raises what ``prepare`` raises for it, and ``RuntimeError`` if the system refuses the thread.
        """
        if self.growing:
            self._thread.start()
            self.wait_for_more(than=0)
            if not self.ready_bytes and self.refusal is not None:
                raise self.refusal

    def wait_for_more(self, than: int, timeout: float | None = None) -> bool:
        """Block until more bytes are ready ``than`` these, or no more will be; False after ``timeout`` seconds."""
        return self._bell.wait(lambda: self.ready_bytes > than or not self.growing, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until no more will be ready; False after ``timeout`` seconds."""
        return self._bell.wait(lambda: not self.growing, timeout)

    def stop(self) -> None:
        """Begin no further piece, and wait for the one under way."""
        self._stopped = True
        self._bell.ring()
        self._bell.wait(self._has_ended, _STOP_SECONDS)

    def leave(self, then: Callable[[], None]) -> None:
        """Begin no further piece; call ``then()`` after the one under way, without waiting for it here."""
        self._afterwards = then
        self._stopped = True
        if self._has_ended():
            then()

    def _has_ended(self) -> bool:
        # A thread that has not begun will see that it was stopped.
        return self._thread.ident is None or not self._working

    def _work(self) -> None:
        for offset, nbytes in self.pieces:
            if not self.growing or not threading.main_thread().is_alive():
                break
            self._take(offset, nbytes)
            self._bell.ring()
        self._working = False
        self._bell.ring()
        if self._afterwards is not None:
            self._afterwards()

    def _take(self, offset: int, nbytes: int) -> None:
        assert self._prepare is not None
        try:
            self._prepare(offset, nbytes)
            self.ready_bytes = offset + nbytes
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing more will be ready
            self.refusal = error
            if offset:
                self._warn("the host arena stays at %d of %d bytes: %s", offset, self._nbytes, str(error))
