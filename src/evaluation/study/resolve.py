"""Resolves a configuration for one machine, into the single source of what will be measured.

No ``auto`` is left, and a machine without a GPU gets the smaller numbers of ``functional``. What the machine or the
model has no room for is refused here.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.study.architectures import LLAMA_2, Architecture
from evaluation.study.config import Config, PairKeys, ThinkingKeys, check, experiments
from evaluation.study.devices import Gpu, choose_device, visible_gpu
from evaluation.study.plan import (
    ConfigError,
    Measurement,
    ModelChoice,
    Pairs,
    Peers,
    Study,
    Thinking,
    Workload,
    architecture_of,
)


def resolve(config: Mapping[str, Any], gpu: Gpu | None = None) -> Study:
    """The study that ``config`` describes on this machine, or on one with ``gpu``.

    Raises :class:`ConfigError` or :class:`evaluation.study.devices.DeviceError`, each with one message.
    """
    wanted = check(config)
    gpu = gpu or visible_gpu()
    device = choose_device(wanted.device, gpu)
    functional = device == "cpu"
    chosen = wanted.functional if functional else wanted
    measurement = _measurement(wanted, functional)
    workloads = _workloads(wanted, functional)
    model = _model(wanted, workloads, device, gpu)
    architecture = architecture_of(model.name, model.path)
    asked = tuple(experiments()) if isinstance(wanted.experiments, str) else wanted.experiments
    sizes = (
        []
        if "sweep" not in asked
        else [
            Workload(name=f"sweep {size.batch}x{size.tokens}", batch=size.batch, tokens=size.tokens, kv_cache=False)
            for size in chosen.sweep.sizes
        ]
    )
    _check_fit(architecture, model.dtype, [*workloads, *sizes], device, gpu)
    if "sweep" in asked:
        _layers(chosen.sweep.layers, architecture, parts=1, key="sweep.layers")
    layers = _layers(wanted.layers, architecture, parts=2 if functional else 4)
    return Study(
        device=device,
        model=model,
        methods=wanted.methods,
        experiments=asked,
        latency_methods=_latency_methods(wanted),
        layers=layers,
        rounds=chosen.rounds,
        order_seed=wanted.order_seed,
        strict=wanted.strict,
        workloads=workloads,
        measurement=measurement,
        host_arena_gib=wanted.djinn.host_arena_gib,
        coded=wanted.djinn.coded and model.dtype == "bfloat16" and any(one.kv_cache for one in workloads),
        pairs=_pairs(chosen.pairs, (architecture.layers,) if functional else layers, architecture),
        overhead=chosen.overhead,
        editing=chosen.editing,
        durable=chosen.durable,
        disk=chosen.disk,
        load=chosen.load,
        load_host_arena_gib=wanted.djinn.host_arena_gib if functional else wanted.djinn.load_host_arena_gib,
        capacity=chosen.capacity,
        sweep=chosen.sweep,
        thinking=_thinking(chosen.thinking, architecture),
        neighbour=chosen.neighbour,
        peers=Peers(run=wanted.peers.run, samples=chosen.peers.samples),
    )


def _latency_methods(wanted: Config) -> tuple[str, ...]:
    if isinstance(wanted.latency_methods, str):
        return wanted.methods
    if absent := [method for method in wanted.latency_methods if method not in wanted.methods]:
        allowed = ", ".join(wanted.methods)
        raise ConfigError(f"config: latency_methods: {absent[0]!r} is not among methods. Allowed: {allowed}, or all")
    return wanted.latency_methods


def _pairs(wanted: PairKeys, layers: tuple[int, ...], architecture: Architecture) -> Pairs:
    """The pairs, by default at ``layers`` and at the last two, which deciding C5 takes."""
    if isinstance(wanted.layers, str):
        found = tuple(sorted({*layers, max(1, architecture.layers - 1), architecture.layers}))
    else:
        found = _layers(wanted.layers, architecture, parts=1, key="pairs.layers")
    return Pairs(rounds=wanted.rounds, blocks=wanted.blocks, forms=wanted.forms, layers=found)


def _thinking(wanted: ThinkingKeys, architecture: Architecture) -> Thinking:
    """The waits, by default in the middle of the depth."""
    if isinstance(wanted.layers, str):
        return Thinking(layers=(max(1, architecture.layers // 2),), waits=wanted.waits)
    return Thinking(
        layers=_layers(wanted.layers, architecture, parts=1, key="thinking.layers"),
        waits=wanted.waits,
    )


def _measurement(wanted: Config, functional: bool) -> Measurement:
    found = wanted.measurement
    if functional:
        smaller = wanted.functional.present()
        found = found.but(**{key: smaller[key] for key in found.present() if key in smaller})
    if found.other_samples > found.samples:
        block = "functional" if functional else "measurement"
        raise ConfigError(
            f"config: {block}.other_samples: {found.other_samples} is more than {block}.samples, {found.samples}"
        )
    return found


def _workloads(wanted: Config, functional: bool) -> tuple[Workload, ...]:
    names = [row.name for row in wanted.workloads]
    if len(set(names)) < len(names):
        raise ConfigError(f"config: workloads: each name may stand once; there are {', '.join(names)}")
    if without := [row.name for row in wanted.workloads if row.decode_step and not row.kv_cache]:
        raise ConfigError(f"config: workloads: {without[0]}: a decode_step needs kv_cache: true")
    smaller = {"tokens": wanted.functional.tokens} if functional else {}
    return tuple(Workload(**{**row.present(), **smaller}) for row in wanted.workloads)


def _model(wanted: Config, workloads: Sequence[Workload], device: str, gpu: Gpu | None) -> ModelChoice:
    name, path = wanted.model.name, wanted.model.path
    if path is not None:
        named = architecture_of("", path).name
    elif name == "auto":
        named = _largest_that_fits(wanted.model.dtype, workloads, device, gpu)
    else:
        named = name
    return ModelChoice(**{**wanted.model.present(), "name": named})


def _layers(
    wanted: str | tuple[int, ...], architecture: Architecture, *, parts: int, key: str = "layers"
) -> tuple[int, ...]:
    depth = architecture.layers
    if wanted == "three":
        return tuple(sorted({1, max(1, depth // 2), max(1, depth - 1)}))
    if isinstance(wanted, str):
        shares = (depth * part // parts for part in range(1, parts + 1))
        return tuple(sorted({1, *(max(1, layer) for layer in (*shares, depth - 1))}))
    beyond = [layer for layer in wanted if layer > depth]
    if beyond:
        raise ConfigError(f"config: {key}: {beyond[0]} is beyond {architecture.name}; allowed: 1 to {depth}, or auto")
    return tuple(sorted(wanted))


def bytes_needed(architecture: Architecture, dtype: str, workload: Workload) -> int:
    """Device memory that one measurement takes, roughly.

    Weights; the KV cache, three times (the session's, and what decode steps make anew); activations of one layer; the
    logits of the run and of the reference.
    """
    tokens = workload.batch * workload.tokens
    kv = 3 * architecture.kv_bytes(tokens, dtype) if workload.kv_cache else 0
    activations = 4 * tokens * (8 * architecture.hidden_size + 3 * architecture.intermediate_size)
    logits = 8 * tokens * architecture.vocab_size
    return architecture.weight_bytes(dtype) + kv + activations + logits


def _largest_that_fits(dtype: str, workloads: Sequence[Workload], device: str, gpu: Gpu | None) -> str:
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
    architecture: Architecture, dtype: str, workloads: Sequence[Workload], device: str, gpu: Gpu | None
) -> None:
    if device == "cuda" and gpu is not None:
        where, memory_bytes = f"the {gpu.name}", gpu.memory_bytes
    else:
        where, memory_bytes = "this machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for workload in workloads:
        longest = workload.tokens
        if longest >= architecture.max_positions:
            raise ConfigError(
                f"config: workloads: {workload.name}: {longest} tokens; {architecture.name} takes fewer than "
                f"{architecture.max_positions}"
            )
        needed = bytes_needed(architecture, dtype, workload)
        if needed > memory_bytes:
            raise ConfigError(
                f"config: model.name: {architecture.name} needs about {needed / 2**30:.0f} GiB for workload "
                f"{workload.name}; {where} has {memory_bytes / 2**30:.0f} GiB. Allowed: a smaller model, "
                "fewer tokens, or auto"
            )
