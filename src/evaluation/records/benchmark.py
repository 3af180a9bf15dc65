"""What one job took of the machine, as Snakemake's benchmark file beside its record says."""

import math
from dataclasses import dataclass
from pathlib import Path

from evaluation.records.json_file import RunError

_MIB = 2**20  # what Snakemake calls MB
_NOT_SAMPLED = ("NA", "-")  # how Snakemake writes what it did not see


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What one job took: seconds of the wall clock, and the most host memory, or None where Snakemake saw none."""

    seconds: float
    peak_bytes: int | None

    @classmethod
    def read(cls, path: Path) -> "Benchmark":
        """Raises RunError if the file at ``path`` is not what Snakemake writes of one job."""
        try:
            head, values = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
            columns = dict(zip(head, values, strict=True))
            seconds, rss = _quantity(columns["s"]), columns["max_rss"]
            peak_bytes = None if rss in _NOT_SAMPLED else round(_quantity(rss) * _MIB)
        except (ValueError, KeyError) as error:
            raise RunError(
                f"{path}: damaged; Snakemake writes a head and a row, seconds in s, MB in max_rss"
            ) from error
        return cls(seconds=seconds, peak_bytes=peak_bytes)


def _quantity(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(text)
    return value
