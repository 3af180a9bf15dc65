"""The methods and variants of the paper: one row each, with the names, looks and deeds that all its outputs use.

A method that has no row is shown all the same, by its plain name and without deeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One variant of a method.

    ``primary``: the paper leads with it. ``label`` and ``style`` (for ``Axes.plot``) are for figures; ``drawn`` is its
    place in the order of drawing, None where it is not drawn over depth. ``wall`` is its shape in the memory wall.
    ``heading``: the method's name in the two lines that a table gives it, as LaTeX. ``deeds``, as LaTeX: what it does
    on pause and on resume, and what ready waits for. ``rate``: the ceiling of the machine that its clock ready follows.
    """

    method: str
    name: str = "default"
    primary: bool = False
    label: str = ""
    style: Mapping[str, Any] = field(default_factory=dict)
    drawn: int | None = None
    wall: Mapping[str, Any] = field(default_factory=dict)
    heading: tuple[str, str] | None = None
    deeds: tuple[str, str, str] | None = None
    rate: str = ""

    @property
    def key(self) -> tuple[str, str | None]:
        """How figures ask for its rows: by the method alone for the primary variant."""
        return self.method, None if self.primary else self.name


ORDERED = "ordered"  # the best hand-written offload where there is history
BULK = ("pinned", "bulk")  # all of the state by hand at once: the least that there is, or all that Djinn moves
KEPT = "kept"  # Djinn with the frontier kept on the device
CODED = "coded"  # Djinn with state that is coded in host memory
FUSED = "compiled"  # recompute with its small operators fused, in a prefill
GRAPHED = "graphed"  # the same, launched as one CUDA graph
ONE_TOKEN = "kv_offloaded"  # recompute of one token behind its KV cache, in a decode step

# In print without colour: 0.07, 0.27, 0.33, 0.49, 0.67, 0.46 and 0.66 of the way from black to white. Lines that come
# to lie side by side have inks that are 0.15 apart.
BLACK, NAVY, RED, BLUE, SKY = "#111111", "#1B4F8A", "#B3330E", "#3C8FCB", "#86B3D9"
GREY, PALE = "#757575", "#A8A8A8"
_TO_PINNED = "copies all state to pinned host memory"
_KEPT = "the same, but for the frontier, which stays on the device"
_IN_ORDER = "copies the frontier back, then the rest behind the computation, in order of need"
_RERUN = ("deletes all state", "runs the program again up to layer $L$", "the rerun")

# In the order of tables. In figures manual offload and Djinn coincide, or one token rerun: so the former is wide and
# light, the latter small and drawn later, and each shows through the other. Markers and dashes differ, so that colour
# alone tells no line. Markers have a face, which is hollow where there are too few samples. In the memory wall all
# coincide: the wider lines lie under the narrower ones.
VARIANTS = (
    Variant(
        method="vanilla",
        primary=True,
        label="Vanilla",
        style={"color": GREY, "marker": "X", "linestyle": (0, (4, 1.5, 1, 1.5)), "markersize": 4.5},
        drawn=9,
        heading=("Vanilla", "PyTorch"),
        deeds=("nothing: all state stays on the device", "nothing", "an idle device"),
    ),
    Variant(
        method="vanilla",
        name="own_process",
        label="Vanilla, own weights",
        style={"color": GREY, "marker": "X", "linestyle": (0, (1, 1.4)), "markersize": 4.5},
    ),
    Variant(
        method="recompute",
        primary=True,
        label="Recompute",
        style={"color": RED, "marker": "^", "linestyle": "-", "markersize": 4},
        drawn=1,
        wall={"linewidth": 3.0, "markersize": 5},
        heading=("Recompute", ""),
        deeds=_RERUN,
        rate="matrix_tflops_bf16",
    ),
    Variant(
        method="recompute",
        name=FUSED,
        label="Fused layers",
        style={"color": RED, "marker": "<", "linestyle": (0, (5, 1.2)), "markersize": 3.5},
        drawn=2,
        deeds=(_RERUN[0], f"{_RERUN[1]}, small operators fused by TorchInductor", _RERUN[2]),
    ),
    Variant(
        method="recompute",
        name=GRAPHED,
        label="Fused, one graph",
        style={"color": RED, "marker": ">", "linestyle": (0, (1, 1.2)), "markersize": 3.5},
        drawn=3,
        deeds=(
            f"{_RERUN[0]}; the graph keeps the memory that it writes",
            f"{_RERUN[1]}, fused layers launched as one CUDA graph",
            _RERUN[2],
        ),
    ),
    Variant(
        method="recompute",
        name=ONE_TOKEN,
        label="Rerun one token",
        style={"color": RED, "marker": "v", "linestyle": "--", "markersize": 3.5},
        drawn=6,
        deeds=(
            "copies the KV cache to pinned host memory, deletes the rest",
            "copies KV back and runs one token again behind it, up to layer $L$; KV of later layers follows",
            "the rerun, and KV up to layer $L{+}1$",
        ),
    ),
    Variant(
        method="manual_offload",
        name="pinned",
        primary=True,
        label="Manual offload",
        style={"color": BLUE, "marker": "s", "linestyle": "-", "linewidth": 2.0, "markersize": 6},
        drawn=4,
        wall={"linewidth": 1.8, "markersize": 5},
        heading=("Manual", "Offload"),
        deeds=(_TO_PINNED, "copies all back", "all state"),
        rate="pinned_h2d_gbps",
    ),
    Variant(
        method="manual_offload",
        name="pageable",
        label="Manual, pageable",
        style={"color": SKY, "marker": "P", "linestyle": (0, (3, 1.2)), "linewidth": 1.0, "markersize": 5.5},
        deeds=("copies all state to pageable host memory", "copies all back", "all state"),
    ),
    Variant(
        method="manual_offload",
        name=ORDERED,
        label="Manual, ordered",
        style={"color": NAVY, "marker": "D", "linestyle": "--", "linewidth": 2.0, "markersize": 5.5},
        drawn=5,
        deeds=(_TO_PINNED, _IN_ORDER, "the frontier"),
    ),
    Variant(
        method="manual_offload",
        name="async",
        deeds=(_TO_PINNED, f"{_IN_ORDER}; waits for nothing, the streams do", "nothing: it has no such clock"),
    ),
    Variant(
        method="manual_offload",
        name="bulk",
        deeds=(_TO_PINNED, r"copies all back, the very sizes that \sys{} moves", "all state"),
    ),
    Variant(
        method="manual_offload",
        name="offloaded_cache",
        deeds=(
            "nothing: KV is on the host, but for that of layer $L{+}1$",
            "nothing: each layer's KV comes for its use",
            "an idle device",
        ),
    ),
    Variant(
        method="djinn",
        primary=True,
        label="Djinn",
        style={"color": BLACK, "marker": "o", "linestyle": "-", "linewidth": 0.8, "markersize": 3},
        drawn=7,
        heading=(r"\sys{}", "(Ours)"),
        deeds=(f"{_TO_PINNED}, frees it in place", _IN_ORDER, "the frontier"),
        rate="pinned_h2d_gbps",
    ),
    Variant(
        method="djinn",
        name=KEPT,
        label="Djinn, kept",
        style={"color": BLACK, "marker": "h", "linestyle": (0, (1, 1.2)), "linewidth": 0.8, "markersize": 3.5},
        drawn=8,
        deeds=(_KEPT, "copies the rest behind the computation, in order of need", "the frontier, which is there"),
    ),
    Variant(
        method="djinn",
        name=CODED,
        label="Djinn, coded",
        style={"color": BLACK, "marker": "p", "linestyle": (0, (4, 1.2)), "linewidth": 0.8, "markersize": 3.5},
        deeds=(
            "codes KV without loss on its way to pinned host memory, frees it in place",
            f"{_IN_ORDER}; KV is decoded on the device",
            "the frontier",
        ),
    ),
)
BY_KEY = {variant.key: variant for variant in VARIANTS}
PRIMARY = {variant.method: variant for variant in VARIANTS if variant.primary}
METHODS = tuple(PRIMARY)  # in the order of the paper; others come after them
DRAWN = sorted((one for one in VARIANTS if one.drawn is not None), key=lambda one: one.drawn or 0)


# Peers as a sentence calls them.
PEERS = {"memory_saver": "torch_memory_saver", "process_checkpoint": "the driver's process checkpoint"}


def plain_name(method: str) -> str:
    """How a method is called that the paper does not know: ``my_method`` is My method."""
    return method.replace("_", " ").capitalize()
