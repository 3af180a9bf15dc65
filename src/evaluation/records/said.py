"""What a record holds, in a few lines for whoever measured by hand.

Decides nothing: tables and claims come from analysis.
"""

from collections.abc import Iterator
from statistics import median

from evaluation.records.json_file import Json

_CLOCKS = ("ready", "usable", "resident")


def said(record: Json) -> Iterator[str]:
    """Of what leads in each cell a line; of a kind that is read only beside others, how much there is."""
    if record["provenance"]["device"] == "cpu":
        yield "A functional run on the CPU: no time says anything."
    cells, kind = record["cells"], record.get("kind", "measure")
    headline = [cell for cell in cells if cell.get("headline")]
    for cell in headline:
        layer = f", layer {cell['layer']}" if "layer" in cell else ""
        method = f"{cell['method']} " if "method" in cell else ""
        yield f"{cell.get('workload') or kind}{layer}, {method}{cell['variant']}: {_found(cell)}"
    for cell in cells if kind == "overhead" else ():
        passes = [one["passes"] for one in cell["pairs"]]
        djinn, bare = (median(ms for one in passes for ms in one[name]) for name in ("djinn_ms", "bare_ms"))
        yield f"{cell['name']}: {_ms(djinn)} with Djinn, {_ms(bare)} without, medians"
    if kind != "overhead" and (others := len(cells) - len(headline)):
        yield f"{'and ' if headline else ''}{others} {'more' if headline else 'cells'}, for tables and claims"


def _found(cell: Json) -> str:
    """What its kind of cell says first."""
    if cell.get("outcome", "ok") != "ok":
        return f"{cell['outcome']}: {cell['message']}"
    if "sessions" in cell:
        return f"{cell['sessions']} paused sessions, stopped by {cell['stopped_by']}"
    if "edit_survives" in cell:
        return f"an edit {'survives' if cell['edit_survives'] else 'is lost'}, {cell['state_lines']} lines"
    samples = cell["samples"]
    times = {clock: [sample[f"{clock}_ms"] for sample in samples] for clock in _CLOCKS if f"{clock}_ms" in samples[0]}
    words = [f"{clock} {_ms(median(ms))}" for clock, ms in times.items() if None not in ms]
    return f"{', '.join(words)}, medians of {len(samples)}, all bit-exact"


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 1000 else f"{value:.3g} ms"
