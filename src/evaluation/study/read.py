"""Reads ``config.yaml``, and values in its language: what YAML leaves open, as a key given twice, is refused."""

from pathlib import Path
from typing import Any

import yaml

from evaluation.study.block import ConfigError
from evaluation.study.config import check_plain
from evaluation.study.message import below

_DIGITS = 40  # of a number; Python itself refuses those of more than 4300


def load_config(path: Path) -> dict[str, Any]:
    """The configuration file as a dictionary of plain values; raises :class:`ConfigError` if it cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration in UTF-8: {error}") from error
    config = _parse(text, "", str(path))
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no configuration: it holds no keys")
    check_plain(config)
    return config


def setting(argument: str) -> dict[str, Any]:
    """The configuration that ``KEY=VALUE`` of a command line means; the value is as in the file."""
    key, _, text = argument.partition("=")
    config = {key: _parse(text, key, "--config")}
    check_plain(config)
    return config


def _parse(text: str, place: str, source: str) -> Any:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        _check(node, place, set())
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        said = "too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        where = f"{place}: " if place else ""
        raise ConfigError(f"config: {where}{source} cannot be read as a configuration: {said}") from None


def _check(node: yaml.Node | None, place: str, seen: set[int]) -> None:
    """Raise :class:`ConfigError` for a key that stands twice in a map, or a number that cannot be one."""
    if node is None or id(node) in seen:  # an alias: it was looked at where it was named
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, part in enumerate(node.value):
            _check(part, below(place, index), seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, part in node.value:
            inner = below(place, str(key.value))
            line = key.start_mark.line + 1
            if str(key.value) in lines:
                raise ConfigError(f"config: {inner} is given twice, in lines {lines[str(key.value)]} and {line}")
            lines[str(key.value)] = line
            _check(part, inner, seen)
    elif node.tag == "tag:yaml.org,2002:int" and len(node.value) > _DIGITS:
        raise ConfigError(f"config: {place}: a number of {len(node.value)} digits is too large")
