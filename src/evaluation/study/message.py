"""Says in one line what is wrong with a value, where it stands and what is allowed there."""

import difflib
import re
from typing import Any

from pydantic_core import ErrorDetails

Json = dict[str, Any]


def below(place: str, key: str | int) -> str:
    """The place of ``key`` in what stands at ``place``, in one line."""
    name = str(key)
    name = name if name.isprintable() and 0 < len(name) <= 60 else repr(name[:60])
    return f"{place}.{name}" if place else name


def reason(error: ErrorDetails) -> str:
    """What pydantic found wrong, in one line that begins with the value."""
    shown = repr(error["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:40]} ... {shown[-20:]}"
    return re.sub(r"^(Input|String|Tuple)\b", lambda match: shown, error["msg"])


def explain(errors: list[ErrorDetails], schema: Json) -> str:
    """The message of the first thing that is wrong, and of it of the innermost."""
    of_first = [error for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    places = [_place(error["loc"][: -1 if error["type"] == "missing" else None], schema) for error in of_first]
    deepest = max(range(len(places)), key=lambda index: places[index][0].count("."))
    error, (place, node) = of_first[deepest], places[deepest]
    where = place or "the configuration"
    keys = sorted(node.get("properties", ()))
    if error["type"] in ("unexpected_keyword_argument", "unknown_key"):
        context = error.get("ctx", {})
        unknown, known = str(context.get("key", error["loc"][-1])), sorted(context.get("known", keys))
        close = difflib.get_close_matches(unknown, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"config: {below(place, unknown)} is not a known key.{hint} Allowed: {', '.join(known)}"
    if error["type"] == "missing":
        return f"config: {where} lacks a key: {error['loc'][-1]!r}. Allowed: {', '.join(keys)}"
    alike = sum(1 for other, _ in places if other == place)
    said = reason({**error, "msg": "Input is not allowed"} if alike > 1 and "anyOf" in node else error)
    allowed = f"the keys {', '.join(keys)}" if keys else node.get("description", "")
    return f"config: {where}: {said}" + (f". Allowed: {allowed}" if allowed and "Allowed:" not in said else "")


def _place(location: tuple[int | str, ...], schema: Json) -> tuple[str, Json]:
    """Where in the file ``location`` is, and what the schema says there; it describes the nearest list."""
    place, node = "", _resolved(schema, schema)
    for part in location:
        inner = [node, *(_resolved(one, schema) for one in node.get("anyOf", ()))]
        if isinstance(part, int):
            found = next((one["items"] for one in inner if "items" in one), None)
        else:
            found = node.get("properties", {}).get(part) or node.get("additionalProperties")
        if not isinstance(found, dict):
            continue
        place = below(place, part)
        node = {"description": node.get("description", ""), **_resolved(found, schema)}
    return place, node


def _resolved(node: Json, schema: Json) -> Json:
    reference = node.get("$ref", "").rpartition("/")[2]
    return {**schema["$defs"][reference], **node} if reference else node
