"""The tiny runs of the workflow's tests: settings, and what a copy of the repository needs."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = {
    "device": "cpu",
    "layers": [3],
    # All but E11, whose two processes compute and import for 25 s.
    "experiments": [
        *("pairs", "capacity", "capabilities", "editing", "disk", "load", "overhead", "sweep", "thinking"),
        *("neighbour", "peers"),
    ],
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 16, "kv_cache": False},
        {"name": "session", "batch": 1, "tokens": 16, "kv_cache": True},
    ],
    "functional": {
        "tokens": 16,
        "samples": 2,
        "other_samples": 2,
        "warmup_samples": 0,
        "validation_samples": 1,
        "think_time_ms": 0,
        "pairs": {"rounds": 2, "blocks": 1, "layers": [3]},
        "overhead": {"samples": 2, "decode_steps": 1},
        "editing": {"blocks": 1},
        "disk": {"sessions": 3, "host_arena_gib": 0.0001},
        "load": [{"sessions": 2, "resumes": 2}],
        "capacity": {"sessions": 2, "processes": 1},
        "sweep": {"layers": [1, 3], "samples": 2, "sizes": [{"batch": 1, "tokens": 8}]},
        "thinking": {"waits": [{"think_time_ms": 0, "blocks": 1}]},
        "neighbour": {"blocks": 1, "tokens": 2, "swaps": 1},
    },
}
# The same for configs/ten_minutes.yaml, which names its own layers.
QUICK = {key: TINY["functional"][key] for key in ("samples", "other_samples", "warmup_samples", "think_time_ms")} | {
    "tokens": 16
}
PARTS = (
    "Snakefile",
    "config.yaml",
    "configs",
    "rules",
    "src",
    "examples",
    "envs",
    "profiles",
    "results/published",
    "paper_figures",
)
