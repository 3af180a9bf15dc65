"""A synthetic results folder with its tables, for the tests of what draws and writes the paper."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evaluation.analysis.aggregate import aggregate
from evaluation.analysis.depth import Depth
from evaluation.analysis.findings import Findings
from evaluation.analysis.material import Material
from evaluation.paper.__main__ import main
from evaluation.records.runs import CHECKSUMS, Run, load_run, sha256
from tests.evaluation.synthetic import Synthetic, edit, record_path


@dataclass(frozen=True, kw_only=True)
class Results:
    """This machine's run below ``root / "results"``, and its tables."""

    root: Path

    @classmethod
    def make(cls, root: Path, recipe: Synthetic) -> "Results":
        """Write the run of ``recipe`` and its tables under ``root``."""
        results = cls(root=root)
        recipe.write(results.folder)
        results.aggregate()
        return results

    def add_quicker_rerun(self, *layers: int) -> None:
        """A second form of recompute, ``compiled``, which takes half of the first one's time."""

        def halve(record: Any) -> None:
            for cell in [cell for cell in record["cells"] if cell["headline"]]:
                quick = [{**one, "ready_ms": one["ready_ms"] / 2} for one in cell["samples"]]
                record["cells"].append({**cell, "variant": "compiled", "headline": False, "samples": quick})

        for layer in layers:
            edit(record_path(self.folder, "recompute", layer), halve)
        self.aggregate()

    @property
    def folder(self) -> Path:
        """Where the records are."""
        return self.root / "results" / "local"

    @property
    def summary(self) -> Path:
        """The summary; other tables lie beside it."""
        return self.root / "results" / "tables" / "local" / "summary.csv"

    @property
    def machine(self) -> Path:
        """The probe's file."""
        return self.folder / "machine.json"

    def aggregate(self) -> None:
        """Write the tables from the records as they are now."""
        aggregate(self.run(), self.summary.parent)

    def run(self) -> Run:
        """The run, read again."""
        return load_run(self.folder)

    def material(self) -> Material:
        """What draws and writes is given, with nothing read yet."""
        return Material(name="local", results=self.root / "results", outputs=self.root / "figures" / "local")

    def findings(self) -> Findings:
        """The rows of the run."""
        return self.material().findings

    def depth(self) -> Depth:
        """Its lines over depth."""
        return Depth(self.findings(), self.run())

    def draw(self, *names: str, run: str = "local", leading: str = "") -> int:
        """Draw by the command, into ``root / "figures" / "local"``; its exit status."""
        options = {"--run": run, "--results": self.root / "results", "--figures": self.root / "figures"}
        arguments = [str(part) for option in options.items() for part in option]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["paper", *names, *arguments, "--leading", leading])
            return main()

    def drawn(self, file: str) -> bytes:
        """What was drawn into ``file``."""
        return (self.root / "figures" / "local" / file).read_bytes()


def publish(root: Path, name: str, recipe: Synthetic) -> Path:
    """Write the run of ``recipe`` as a published one beside that of :class:`Results`, with its tables; its folder."""
    folder = recipe.write(root / "results" / "published" / name)
    files = [path for path in folder.rglob("*") if path.is_file()]
    (folder / CHECKSUMS).write_text("".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files))
    aggregate(load_run(folder), root / "results" / "tables" / name)
    return folder
