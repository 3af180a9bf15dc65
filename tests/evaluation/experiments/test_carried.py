"""A session that is carried to another machine goes on exactly there, or is refused by name."""

import json
import sys

import pytest
import torch

from djinn import session as saving
from djinn.durable.machine import machine_of
from evaluation.experiments import carried, durable
from tests.evaluation.synthetic import edit


@pytest.fixture
def folder(monkeypatch, tmp_path, shallow):
    """What is carried: a session with a prompt of 8 tokens."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({"device": "cpu", "djinn": {"host_arena_gib": 0.02}}))
    return tmp_path / "carried"


@pytest.fixture
def carry(monkeypatch, folder, capsys):
    """Runs the command: its exit status and what it says."""

    def run(verb, *options):
        monkeypatch.setattr(sys, "argv", ["carried", verb, str(folder), *options])
        status = carried.main()
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_it_goes_on_exactly_or_is_refused_for_other_weights(carry, folder):
    """With the name of what differs; the file is as it was."""
    assert carry("save", "--tokens", "8")[0] == 0
    for _ in range(2):
        status, said = carry("restore")
        assert (status, "exact: every bit of workload session, 8 tokens, after layer 5" in said) == (0, True)
    edit(folder / "carried.json", lambda about: about["study"]["model"].update(seed=1))
    status, said = carry("restore")
    assert status == 2
    assert "refused: " in said
    assert "lm_head.weight" in said


def test_another_machine_is_refused_unless_it_is_accepted(monkeypatch, carry):
    """By the name of its GPU, say."""
    monkeypatch.setattr(saving, "machine_of", lambda device: {**machine_of(device), "GPU": "another"})
    carry("save", "--tokens", "8")
    status, said = carry("restore")
    assert status == 2
    assert "the machine differs in GPU" in said
    assert carry("restore", "--allow-other")[0] == 0


def test_a_bit_that_differs_is_told(monkeypatch, carry):
    """From which of the two machines' uninterrupted runs."""
    carry("save", "--tokens", "8")
    monkeypatch.setattr(durable.Side, "uninterrupted", lambda self, workload: [torch.zeros(1, 8, 512)])
    status, said = carry("restore")
    assert status == 1
    assert "it differs from the uninterrupted run here;" in said
