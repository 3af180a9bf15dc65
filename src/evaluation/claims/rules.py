"""The claims C1 to C8 as they are stated: words, rule, margins, and what the memo says; their digest, which holds what
fixes an interval too, is in ``study.json``.

The rules stand in the design since before the first run. Earlier runs of the same experiment were seen before the later
ones were made. The digest says that none of these was changed after the study of a run was written. Decides
nothing: :mod:`evaluation.claims.decide` does.
"""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass

from evaluation.analysis import margins, resampling, statistics
from evaluation.analysis.margins import (
    AS_FAST_UP_TO,
    FLAT_WITHIN,
    NARROW,
    NARROW_MS,
    R2_AT_LEAST,
    SESSIONS,
    SLOWER_BY_MS,
    TIMES_FASTER,
)

KEY = "rules_sha256"  # of study.json
FIXED = "The rules stand in the design since before the first run. Earlier runs of the same experiment were seen."
_FLAT = (
    f"flat, which includes falling, if the upper end of the 95 % interval of the rise, slope x (N - 1), is at most "
    f"{FLAT_WITHIN * 100:g} % of the median over all layers; refuted if the lower end is above that"
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A claim: its words, the rule that decides it, what the memo says of it.

    ``experiment`` is the one of :mod:`evaluation.text.experiments` whose records decide it.
    """

    id: str
    words: str
    rule: str
    memo: str
    experiment: str


STATEMENTS = {
    one.id: one
    for one in (
        Statement(
            id="C1",
            words="Recompute grows linearly with depth",
            rule="a line goes through the medians of the layers. It counts as linear if the 95 % interval of its slope "
            f"is above 0 and that of R2 is not below {R2_AT_LEAST}. Refuted if the slope's interval is not above 0 at "
            f"all, or if R2 and its interval are below {R2_AT_LEAST}. Where each layer has one process the interval is "
            "that of the fit over its samples: what differs between processes is not in it",
            memo="a diagonal line from 5 ms at layer 1 to 800 ms at layer 40",
            experiment="E1",
        ),
        Statement(
            id="C2",
            words="Manual offload of the activation is flat in depth",
            rule=_FLAT,
            memo="a flat line at 30 to 50 ms",
            experiment="E1",
        ),
        Statement(
            id="C3",
            words="Djinn is O(1) in depth",
            rule=f"{_FLAT}. Resident moves more bytes with depth: there the same of milliseconds per GB",
            memo="a flat line at about 40 ms: O(1) resume latency",
            experiment="E1",
        ),
        Statement(
            id="C4",
            words="Djinn is as fast as the strongest hand-written offload, or faster",
            rule="paired ratio to the form by hand that keeps the same and is the quickest by the clock, same process, "
            "mirrored order: as fast if the upper end of its 95 % interval is at most "
            f"{AS_FAST_UP_TO}, faster if below 1. Every layer must hold; refuted if at any layer the lower end is "
            f"above {AS_FAST_UP_TO}. Where the frontier is kept on the device the difference decides, in the same way: "
            f"at most {SLOWER_BY_MS} ms. Undecided is fair where the interval is narrower than {NARROW * 100:g} %, or "
            f"{NARROW_MS} ms, and holds the margin; where it is wider more processes are needed. The last layer that "
            "has a next one leads. The worst layer is the one whose interval decides. What is pooled over all layers "
            "is stated beside it, and decides nothing. By the old protocol the ratio is to one hand-written offload "
            "beside each sample, in alternating order",
            memo="overlapping (or slightly below) manual offload",
            experiment="E1",
        ),
        Statement(
            id="C5",
            words=f"Djinn is at least {TIMES_FASTER} times faster than recompute at the last two layers",
            rule="paired ratio of recompute's quickest form to Djinn, same process, mirrored order, at the last layer "
            f"and the one before it: the lower end of its 95 % interval is at least {TIMES_FASTER} at both; refuted if "
            f"the upper end is below {TIMES_FASTER} at either. The layer before the last leads, or else the one that "
            "decides. By the old protocol recompute's median over Djinn's, at the last layer alone",
            memo="20 times faster for deep-layer debugging",
            experiment="E1",
        ),
        Statement(
            id="C6",
            words=f"Djinn holds {SESSIONS} or more paused sessions where vanilla PyTorch, weights shared, stops at "
            "fewer",
            rule=f"Djinn paused {SESSIONS} sessions or more and resumed all of them in every bit; vanilla with shared "
            f"weights was refused by the device below {SESSIONS}. What ended a count is named: the device, the host's "
            "memory, the host arena, or a stated cap",
            memo="Djinn 50+, vanilla 3 (crash)",
            experiment="E2",
        ),
        Statement(
            id="C7",
            words="Paused state can be edited; recompute loses the edit unless the program replays it",
            rule="an edit of the paused hidden states gives the logits of an independent oracle in every bit under "
            "vanilla, manual offload and Djinn. Under recompute it is lost, and is there in every bit if the program "
            "replays it",
            memo="vanilla, manual offload and Djinn: yes; recompute: no (impossible)",
            experiment="E3",
        ),
        Statement(
            id="C8",
            words="No change to the user's model code",
            rule="every definition of vanilla's example program stands unchanged in Djinn's, save the one function "
            "that asks for the pause. The lines that differ are counted by the tool, Djinn's own calls included",
            memo="without the user writing code (transparent)",
            experiment="E3",
        ),
    )
}


def digest() -> str:
    """SHA-256 of all statements and margins, and of what fixes an interval, in hexadecimal."""
    numbers = {name: value for name, value in vars(margins).items() if name.isupper()}
    intervals = {
        "confidence": statistics.CONFIDENCE,
        "enough": statistics.ENOUGH,
        "tail": resampling.TAIL,
        "tail_of_processes": statistics.TAIL_OF_PROCESSES,
    }
    stated = {"intervals": intervals, "margins": numbers, "statements": [asdict(one) for one in STATEMENTS.values()]}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def main() -> int:
    """Print the study that stands on the command line as JSON, with the digest of the rules that will decide it."""
    (study,) = sys.argv[1:]
    print(json.dumps({**json.loads(study), KEY: digest()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
