"""The cell of a record, and what an error says in it."""

import pytest

from evaluation.measure.cell import cell, first_line
from evaluation.study.plan import Workload

WORKLOAD = Workload(name="session", batch=1, tokens=8, kv_cache=True)


def test_a_cell_that_was_not_measured_has_no_samples():
    """The format's keys, with a reason."""
    assert cell(WORKLOAD, outcome="unsupported", message="it needs a GPU") == {
        "workload": "session",
        "variant": "default",
        "headline": True,
        "drawn": True,
        "outcome": "unsupported",
        "message": "it needs a GPU",
        "frontier_bytes": 0,
        "state_bytes": 0,
        "recompute_flops": None,
        "reserved_bytes": 0,
        "validation_samples": 0,
        "samples": [],
    }


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore", "CUDA out of memory. Tried to allocate 20.00 MiB."),
        ("", "OSError"),
        ("/home/ann/.venv/lib/libcudart.so.13: cannot open", "libcudart.so.13: cannot open"),
        ("cannot import name 'x' from 'y' (/home/ann/y/__init__.py)", "cannot import name 'x' from 'y' (__init__.py)"),
        ("no such file: '/data/models'", "no such file: 'models'"),
        ("error at:/tmp", "error at:tmp"),
        ("25 GB/s, torch/csrc/cuda.cpp and ../examples", "25 GB/s, torch/csrc/cuda.cpp and ../examples"),
        ("see https://pytorch.org/docs/cuda.html#memory", "see https://pytorch.org/docs/cuda.html#memory"),
        ("1 / 2 and a trailing /", "1 / 2 and a trailing /"),
    ],
)
def test_what_an_error_says_is_one_line_without_folders(said, found):
    """A record tells nobody where a machine keeps its files; ratios, relative paths and URLs are left alone."""
    assert first_line(OSError(said)) == found
