"""A run as those who draw and write read it: its records and its tables, each read once, when it is asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evaluation.analysis.findings import Findings
from evaluation.analysis.table import AnyRow, read_table
from evaluation.records.runs import Json, Run, RunError, is_own, load_run, read_object, run_folder, run_of_table


@dataclass(frozen=True, kw_only=True)
class Material:
    """The run ``name`` below the folder ``results``; its tables are in ``results/tables/NAME``.

    ``outputs`` is the folder where what is made of it goes. ``leading`` is the published run that the paper is drawn
    from; None for that run itself, or where there is none. Reading raises :class:`RunError` or
    :class:`evaluation.analysis.table.TableError`.
    """

    name: str
    results: Path
    outputs: Path
    leading: "Material | None" = None

    @property
    def folder(self) -> Path:
        """Where the records lie."""
        return run_folder(self.results, self.name)

    @property
    def further(self) -> bool:
        """Whether it is a published run that is drawn beside the leading one."""
        return self.leading is not None and not is_own(self.name)

    @cached_property
    def run(self) -> Run:
        """All records, checked."""
        return load_run(self.folder)

    @cached_property
    def machine(self) -> Json:
        """The probe of the machine."""
        machine = read_object(self.folder / "machine.json")
        if not isinstance(machine.get("functional"), bool):
            raise RunError(f"{self.folder / 'machine.json'}: does not say whether the run is functional")
        return machine

    @cached_property
    def study(self) -> Json:
        """The settings, as they were resolved for the machine."""
        return read_object(self.folder / "study.json")

    @property
    def functional(self) -> bool:
        """Whether the run was made without a GPU, so that its times mean nothing."""
        return bool(self.machine["functional"])

    @cached_property
    def findings(self) -> Findings:
        """The rows of the summary."""
        return Findings.read(self.results / "tables" / self.name / "summary.csv", self.name)

    def rows(self, table: str, kind: type[AnyRow]) -> list[AnyRow]:
        """The rows of another table, as ``capacity``; those of another run where that stands for this one."""
        run = run_of_table(self.results, self.name, table)
        return read_table(self.results / "tables" / run / f"{table}.csv", kind)
