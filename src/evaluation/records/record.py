"""What records of all kinds share: the model, where the record comes from, and the study that it belongs to."""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from evaluation.records.asked import Asked
from evaluation.records.conditions import Conditions
from evaluation.records.fields import Commit, Digest, Positive, Strict, Text, Unavailable


class Provenance(Strict):
    """Where a record comes from. What could not be told is None.

    ``sitting``: a digest of the GPU and of the boot of its machine, the same for all records of one sitting.
    """

    started: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|\+00:00)$")]
    command: Text
    git: Commit | Unavailable
    source_sha256: Digest
    device: Literal["cuda", "cpu"]
    device_name: Text
    driver: Text | Unavailable | None = None  # of the GPU
    versions: dict[str, Text]
    sitting: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    conditions: Conditions | None = None


class ModelEntry(Strict):
    """The model that was measured; ``weights``: random with a seed, or a checkpoint by name."""

    name: Text
    weights: Text
    dtype: Text
    attention: Text
    layers: Positive
    hidden_size: Positive
    parameter_bytes: Positive


class Record(Strict):
    """What all kinds share; ``needed``: the keys of the study without which a record cannot be checked."""

    needed: ClassVar[tuple[str, ...]] = ()

    schema_: Annotated[Literal[1], Field(alias="schema")]
    study: dict[str, Any]
    model: ModelEntry
    provenance: Provenance

    @property
    @abstractmethod
    def place(self) -> str:
        """Where this record lies in its run."""

    def check_asked(self, study: Asked) -> None:
        """Raise ValueError unless this is what ``study`` asks for."""
        for key in ("name", "dtype", "attention"):
            if getattr(self.model, key) != getattr(study.model, key):
                raise ValueError(f"model.{key} is {getattr(self.model, key)}, the study's {getattr(study.model, key)}")
        if self.provenance.device != study.device:
            raise ValueError(f"mixed run: another device (GPU or CPU) than study.json asks for: {study.device}")
        self._asked(study)

    @abstractmethod
    def _asked(self, study: Asked) -> None:
        """Raise ValueError unless this holds as much of each thing as ``study`` asks for."""
