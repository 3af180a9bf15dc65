"""What the entries of all records are made of: strict models, their numbers and names, and how a fault is told.

Nothing is converted, no key is unknown, no number is NaN, infinite or negative. Knows no kind of record.
"""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluation.records.wording import folders_in, one_line

Milliseconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Text = Annotated[str, Field(min_length=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A JSON object of which every key is known and every value has its type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Unavailable(Strict):
    """A value that could not be had, and why."""

    unavailable: Text


class Commit(Strict):
    """The state of the sources in git."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
    dirty: bool


def checked(model: type[Model], value: object) -> Model:
    """``value`` as ``model``, without a path of some machine; raises ValueError as :func:`validated` does."""
    if (path := next(folders_in(value), None)) is not None:
        raise ValueError(f"{path}: it names a folder of some machine")
    return validated(model, value)


def validated(model: type[Model], value: object) -> Model:
    """``value`` as ``model``; raises ValueError with one line: where it is wrong, and what is."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(_keys(value, first["loc"], missing=first["type"] == "missing"))
        what = first["msg"].removeprefix("Value error, ")
        raise ValueError(one_line(f"{where}: {what}" if where else what)) from error


def _keys(value: Any, location: tuple[int | str, ...], *, missing: bool) -> list[str]:
    """Those of ``location`` that are keys in ``value``: pydantic also names the types that were tried on the way."""
    keys = []
    for key in location:
        there = key in value if isinstance(value, dict) else isinstance(value, list) and isinstance(key, int)
        if there:
            value = value[key]
        if there or (missing and key == location[-1]):
            keys.append(one_line(str(key)))
    return keys
