"""The class that a study is made of: checked values, of which a job may be given some and not the others."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from evaluation.command import Refusal
from evaluation.study.message import Json, reason

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

_B = TypeVar("_B", bound="Block")


class ConfigError(Refusal):
    """Something in the configuration cannot be run; the message names the key and what is allowed."""


class AbsentKey(ConfigError):
    """A job read a key that the part of the study for its kind of job does not have."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def block(cls: type[_B]) -> type[_B]:
    """Make a frozen keyword-only dataclass of ``cls``, whose values pydantic checks."""
    made: Any = dataclass(cls, frozen=True, kw_only=True, config=STRICT)
    for name in made.__dataclass_fields__.keys() & vars(made).keys():
        delattr(made, name)  # a default that stands in the class would answer for a key that is absent
    return cast(type[_B], made)


class Block:
    """Base of what :func:`block` makes. One that was read from JSON has the keys that stood there and no other."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    _about: tuple[str, str]  # the kind of job, and the place in the study with a dot behind it

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say which key is absent: Python asks here for what is not found."""
            raise self.absent(name, known=name in self.__dataclass_fields__)

    def absent(self, name: str, *, known: bool) -> Exception:
        """The error that names the key ``name`` of this block and the kind of job, if it is ``known`` as a key."""
        if not known:
            return AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        kind, place = self._about
        whose = f"for {kind} jobs" if kind else "that was read"
        return AbsentKey(f"study: {place}{name} is not in the part of the study {whose}")

    def present(self) -> Json:
        """The values that are there, by key."""
        return {name: vars(self)[name] for name in self.__dataclass_fields__ if name in vars(self)}

    def but(self, **changes: Any) -> Self:
        """The same with ``changes``; what is absent stays so, unless it is among them."""
        return self._made({**self.present(), **changes}, getattr(self, "_about", ("", "")))

    def to_json(self) -> Json:
        """What is there, as plain dictionaries and lists."""
        return {name: plain(value) for name, value in self.present().items()}

    @classmethod
    def from_json(cls, given: Json, about: tuple[str, str] = ("", "")) -> Self:
        """The inverse of :meth:`to_json`; raises :class:`ConfigError` for what the class does not know."""
        if not isinstance(given, Mapping):
            raise ConfigError(f"study: {about[1].removesuffix('.') or 'the file'} is not a JSON object")
        values = {}
        for name, value in given.items():
            if name not in cls.__dataclass_fields__:
                raise ConfigError(f"study: {about[1]}{name} is not a known key")
            values[name] = _read(cls.__dataclass_fields__[name].type, value, about, name)
        return cls._made(values, about)

    @classmethod
    def _made(cls, values: Json, about: tuple[str, str]) -> Self:
        made = object.__new__(cls)
        for name, value in {**values, "_about": about}.items():
            object.__setattr__(made, name, value)
        return made


def _read(kind: Any, value: Any, about: tuple[str, str], name: str) -> Any:
    """``value`` as a field of type ``kind`` holds it."""
    job, place = about
    if isinstance(kind, type) and issubclass(kind, Block):
        return kind.from_json(value, (job, f"{place}{name}."))
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ConfigError(f"study: {place}{name}: {reason(error.errors()[0])}") from error


def plain(value: Any) -> Any:
    """``value`` as JSON has it."""
    if isinstance(value, Block):
        return value.to_json()
    return [plain(part) for part in value] if isinstance(value, tuple) else value
