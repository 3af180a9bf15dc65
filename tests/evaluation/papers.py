"""A synthetic results folder with its summary, for the tests of the tools that write the paper."""

from dataclasses import dataclass
from pathlib import Path

from evaluation.analysis.aggregate import summarise
from evaluation.analysis.findings import Findings
from evaluation.analysis.outcomes import (
    Capability,
    Capacity,
    Crossing,
    PeerMetric,
    Resumes,
    capabilities,
    capacities,
    crossings,
    peer_metrics,
    resumes,
    write_outcomes,
)
from evaluation.analysis.summary import write_summary
from evaluation.records.runs import Run, load_run
from tests.evaluation.synthetic import Synthetic


@dataclass(frozen=True, kw_only=True)
class Results:
    """The folder of one run and the summary beside it."""

    folder: Path
    summary: Path

    @classmethod
    def make(cls, root: Path, recipe: Synthetic, name: str = "local") -> "Results":
        """Write the run of ``recipe`` and its summary under ``root``."""
        results = cls(folder=recipe.write(root / "results" / name), summary=root / "results" / "summary.csv")
        results.aggregate()
        return results

    @property
    def machine(self) -> Path:
        """The probe's file."""
        return self.folder / "machine.json"

    def aggregate(self) -> None:
        """Write the tables from the records as they are now."""
        runs = [self.run()]
        write_summary(self.summary, summarise(runs))
        write_outcomes(self.summary.with_name("capacity.csv"), Capacity, capacities(runs))
        write_outcomes(self.summary.with_name("capabilities.csv"), Capability, capabilities(runs))
        write_outcomes(self.summary.with_name("sweep.csv"), Crossing, crossings(runs))
        write_outcomes(self.summary.with_name("load.csv"), Resumes, resumes(runs))
        write_outcomes(self.summary.with_name("peers.csv"), PeerMetric, peer_metrics(runs))

    def run(self) -> Run:
        """The run, read again."""
        return load_run(self.folder)

    def findings(self) -> Findings:
        """The rows of the run."""
        return Findings.read(self.summary, self.folder.name)

    def edit_summary(self, old: str, new: str) -> None:
        """Replace text in the summary; ``old`` must be there."""
        text = self.summary.read_text()
        assert old in text
        self.summary.write_text(text.replace(old, new))
