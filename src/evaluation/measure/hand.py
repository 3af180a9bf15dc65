"""Hands the logits of a program's last token to its caller: the clocks ``usable`` and ``next_token``.

The program calls :meth:`Hand.give` after each pass. It copies the last token's logits into host memory that was made
before. It waits for an event of the compute stream, so for this copy and not for those on other streams. Then it waits
until the caller has them. A program that computed on would keep the interpreter from a caller on another thread for up
to 5 ms. Where program and caller are one thread the caller has them at once. So the clocks mean the same for all
methods. What a pass before the resume returns is nobody's business.
"""

from collections.abc import Iterator
from queue import SimpleQueue

import torch

from evaluation.measure.stopwatch import now_ms


class Hand:
    """Takes the logits, [batch, 1, vocabulary], of ``wanted`` passes after a resume; made before anything is timed.

    ``like`` are logits of the program's, [batch, tokens, vocabulary].
    """

    def __init__(self, like: torch.Tensor, wanted: int) -> None:
        self._cuda = like.device.type == "cuda"
        shape = (like.shape[0], 1, like.shape[2])
        self._host = [torch.empty(shape, dtype=like.dtype, pin_memory=self._cuda) for _ in range(wanted)]
        self._offered: SimpleQueue[bool] = SimpleQueue()
        self._taken: SimpleQueue[None] = SimpleQueue()
        self._aside = False
        self._left = 0
        self.times_ms: list[float] = []  # of those that the caller has, by its clock

    def open(self, *, aside: bool) -> None:
        """From now on what is given is wanted; ``aside``: the program has a thread of its own, the caller takes."""
        self._offered, self._taken = SimpleQueue(), SimpleQueue()  # a program that failed may have left something
        self._aside = aside
        self.times_ms = []
        self._left = len(self._host)

    def give(self, logits: torch.Tensor) -> None:
        """The program's thread: hand over the last token's of ``logits``, and return when the caller has them."""
        if not self._left:
            return
        host = self._host[len(self._host) - self._left]
        self._left -= 1
        host.copy_(logits[:, -1:], non_blocking=True)
        if self._cuda:
            event = torch.cuda.Event()
            event.record()
            event.synchronize()
        if not self._aside:
            self.times_ms.append(now_ms())
            return
        self._offered.put(True)
        self._taken.get()

    def take(self) -> Iterator[None]:
        """Take each, and let the program go on when the next is asked for; ends early if the program ends."""
        for _ in self._host:
            if not self._offered.get():
                return
            self.times_ms.append(now_ms())
            yield
            self._taken.put(None)

    def end(self) -> None:
        """The program has ended, whatever it has given."""
        self._offered.put(False)

    def close(self) -> None:
        """Nothing is wanted any more: a program that waits in :meth:`give` goes on."""
        self._left = 0
        self._taken.put(None)

    @property
    def wanted(self) -> int:
        """How many passes are handed over."""
        return len(self._host)

    @property
    def logits(self) -> list[torch.Tensor]:
        """What the caller has taken, in host memory."""
        return self._host[: len(self.times_ms)]
