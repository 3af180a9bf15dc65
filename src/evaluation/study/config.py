"""``config.yaml`` checked and resolved for one machine, into the single source of what will be measured.

Everything that is wrong is said before anything runs, in one message that names the key and what is allowed.
"""

import argparse
import difflib
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from evaluation.records.atomic import write_json
from evaluation.study.architectures import LLAMA_2, Architecture
from evaluation.study.devices import DeviceError, Gpu, choose_device, visible_gpu
from evaluation.study.plan import (
    Capacity,
    ConfigError,
    Load,
    Measurement,
    ModelChoice,
    Overhead,
    Peers,
    Study,
    Sweep,
    Workload,
    architecture_of,
)

SCHEMA = Path(__file__).parents[3] / "rules" / "config.schema.yaml"


def load_config(path: Path) -> dict[str, Any]:
    """The configuration file as a dictionary, unchecked; raises :class:`ConfigError` if it cannot be read."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no configuration: it holds no keys")
    return config


def check(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the schema's defaults filled in; raises :class:`ConfigError` for what the schema refuses."""
    schema = yaml.safe_load(SCHEMA.read_text())
    error = jsonschema.exceptions.best_match(_validator(schema).iter_errors(config))
    if error is not None:
        raise ConfigError(_explain(error))
    known = sorted(
        path.stem.removeprefix("benchmark_") for path in (Path(__file__).parents[1] / "methods").glob("benchmark_*.py")
    )
    if unknown := sorted(set(config.get("methods", ())) - set(known)):
        raise ConfigError(f"config: methods: {unknown[0]!r} is not a method. Allowed: {', '.join(known)}")
    filled: dict[str, Any] = _with_defaults(config, schema)
    return filled


def _validator(schema: Mapping[str, Any]) -> jsonschema.protocols.Validator:
    """As JSON Schema has it, but 30.0 is no count, and infinity, which JSON does not have, is no number."""
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda checker, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda checker, value: (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            ),
        }
    )
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)(schema)


def _explain(error: jsonschema.ValidationError) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = sorted(set(error.instance) - set(known))[0]
        key = f"{place}.{unknown}" if place else unknown
        close = difflib.get_close_matches(unknown, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"config: {key} is not a known key.{hint} Allowed: {', '.join(known)}"
    if error.validator == "required":
        return f"config: {place or 'the configuration'} lacks a key: {error.message}"
    allowed = error.schema.get("description", "")
    return f"config: {place or 'the configuration'}: {error.message}" + (f". Allowed: {allowed}" if allowed else "")


def _with_defaults(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping) and "properties" in schema:
        parts = schema["properties"]
        filled = {key: part["default"] for key, part in parts.items() if "default" in part and key not in value}
        return {key: _with_defaults(part, parts[key]) for key, part in {**filled, **value}.items()}
    return value


def resolve(config: Mapping[str, Any], gpu: Gpu | None = None) -> Study:
    """The study that ``config`` describes on this machine, or on one with ``gpu``.

    Raises :class:`ConfigError` or :class:`evaluation.study.devices.DeviceError`, each with one message.
    """
    filled = check(config)
    gpu = gpu or visible_gpu()
    device = choose_device(filled["device"], gpu)
    measurement = dict(filled["measurement"])
    workloads = [dict(workload) for workload in filled["workloads"]]
    overhead, load, capacity, sweep = (filled[name] for name in ("overhead", "load", "capacity", "sweep"))
    peers = filled["peers"]
    rounds, load_host_arena_gib = filled["rounds"], filled["djinn"]["load_host_arena_gib"]
    if device == "cpu":
        smaller = dict(filled["functional"])
        rounds, tokens = smaller.pop("rounds"), smaller.pop("tokens")
        overhead, load, capacity, sweep = (smaller.pop(name) for name in ("overhead", "load", "capacity", "sweep"))
        peers = {**peers, **smaller.pop("peers")}
        load_host_arena_gib = filled["djinn"]["host_arena_gib"]
        measurement.update(smaller)
        workloads = [{**workload, "tokens": tokens} for workload in workloads]
    if measurement["other_samples"] > measurement["samples"]:
        block = "functional" if device == "cpu" else "measurement"
        raise ConfigError(
            f"config: {block}.other_samples: {measurement['other_samples']} is more than {block}.samples, "
            f"{measurement['samples']}"
        )
    names = [workload["name"] for workload in workloads]
    if len(set(names)) < len(names):
        raise ConfigError(f"config: workloads: each name may stand once; there are {', '.join(names)}")
    if without := [one["name"] for one in workloads if one.get("decode_step") and not one["kv_cache"]]:
        raise ConfigError(f"config: workloads: {without[0]}: a decode_step needs kv_cache: true")
    model = dict(filled["model"])
    if model["path"] is not None:
        model["name"] = architecture_of("", model["path"]).name
    elif model["name"] == "auto":
        model["name"] = _largest_that_fits(model["dtype"], workloads, device, gpu)
    architecture = architecture_of(model["name"], model["path"])
    sizes = [{"name": f"sweep {size['batch']}x{size['tokens']}", "kv_cache": False, **size} for size in sweep["sizes"]]
    _check_fit(architecture, model["dtype"], [*workloads, *sizes], device, gpu)
    _layers(sweep["layers"], architecture, parts=1, key="sweep.layers")
    return Study(
        device=device,
        model=ModelChoice(**model),
        methods=tuple(filled["methods"]),
        layers=_layers(filled["layers"], architecture, parts=2 if device == "cpu" else 4),
        rounds=rounds,
        order_seed=filled["order_seed"],
        workloads=tuple(Workload(**workload) for workload in workloads),
        measurement=Measurement(**measurement),
        host_arena_gib=filled["djinn"]["host_arena_gib"],
        overhead=Overhead(**overhead),
        load=tuple(Load(**row) for row in load),
        load_host_arena_gib=load_host_arena_gib,
        capacity=Capacity(**capacity),
        sweep=Sweep.of(sweep),
        peers=Peers.of(peers),
    )


def _layers(wanted: str | list[int], architecture: Architecture, *, parts: int, key: str = "layers") -> tuple[int, ...]:
    depth = architecture.layers
    if isinstance(wanted, str):
        return tuple(sorted({1, *(max(1, depth * part // parts) for part in range(1, parts + 1))}))
    beyond = [layer for layer in wanted if layer > depth]
    if beyond:
        raise ConfigError(f"config: {key}: {beyond[0]} is beyond {architecture.name}; allowed: 1 to {depth}, or auto")
    return tuple(sorted(wanted))


def bytes_needed(architecture: Architecture, dtype: str, workload: Mapping[str, Any]) -> int:
    """Device memory that one measurement takes, roughly.

    Weights; the KV cache, three times (the session's, and what decode steps make anew); activations of one layer; the
    logits of the run and of the reference.
    """
    tokens = int(workload["batch"]) * int(workload["tokens"])
    kv = 3 * architecture.kv_bytes(tokens, dtype) if workload["kv_cache"] else 0
    activations = 4 * tokens * (8 * architecture.hidden_size + 3 * architecture.intermediate_size)
    logits = 8 * tokens * architecture.vocab_size
    return architecture.weight_bytes(dtype) + kv + activations + logits


def _largest_that_fits(dtype: str, workloads: list[dict[str, Any]], device: str, gpu: Gpu | None) -> str:
    if device == "cpu" or gpu is None:
        return "llama-2-tiny"
    for name in ("llama-2-13b", "llama-2-7b"):
        if all(bytes_needed(LLAMA_2[name], dtype, workload) <= gpu.memory_bytes for workload in workloads):
            return name
    raise ConfigError(
        f"config: model.name: auto: not even llama-2-7b fits the {gpu.memory_bytes / 2**30:.0f} GiB of the {gpu.name} "
        "with these workloads; ask for fewer tokens, or for llama-2-tiny"
    )


def _check_fit(
    architecture: Architecture, dtype: str, workloads: list[dict[str, Any]], device: str, gpu: Gpu | None
) -> None:
    if device == "cuda" and gpu is not None:
        where, memory_bytes = f"the {gpu.name}", gpu.memory_bytes
    else:
        where, memory_bytes = "this machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for workload in workloads:
        longest = workload["tokens"]
        if longest >= architecture.max_positions:
            raise ConfigError(
                f"config: workloads: {workload['name']}: {longest} tokens; {architecture.name} takes fewer than "
                f"{architecture.max_positions}"
            )
        needed = bytes_needed(architecture, dtype, workload)
        if needed > memory_bytes:
            raise ConfigError(
                f"config: model.name: {architecture.name} needs about {needed / 2**30:.0f} GiB for workload "
                f"{workload['name']}; {where} has {memory_bytes / 2**30:.0f} GiB. Allowed: a smaller model, "
                "fewer tokens, or auto"
            )


def main() -> int:
    """Resolve a configuration for this machine and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.study.config", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    parser.add_argument("--out", type=Path, required=True, help="where the resolved study goes")
    arguments = parser.parse_args()
    try:
        write_json(arguments.out, resolve(load_config(arguments.config)).to_json())
    except (ConfigError, DeviceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
