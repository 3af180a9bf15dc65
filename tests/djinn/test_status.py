"""What a runtime tells of its sessions, in a terminal and in a notebook."""

import dataclasses
import re

import pytest
from tests.djinn.tables import tables
from tests.programs import greedy, parked

import djinn

pytestmark = pytest.mark.usefixtures("without_climb")


def test_the_notebook_shows_what_the_terminal_does(runtime, llama, input_ids):
    """Each session's phase, layer, tier and bytes, and the footer: the same words, by the same numbers."""
    paused = parked(runtime, 3, greedy, llama, input_ids, 2)
    waiting = parked(runtime, 5, greedy, llama, input_ids, 2)
    waiting.io_wait()
    status = runtime.status()
    [[head, *rows]] = tables(status._repr_html_())
    printed = str(status).splitlines()
    assert [head, *rows] == [re.split(r"  +", text.strip()) for text in printed[:-1]]
    assert f">{printed[-1]}</p>" in status._repr_html_()
    said = [dict(zip(head, row, strict=True)) for row in rows]
    assert [one["phase"] for one in said] == ["paused", "io_wait"]
    assert [one["layer"] for one in said] == ["3", "5"]
    assert [one["device"] for one in said] == [f"{sum(paused.storage_sizes) / 2**20:.1f} MiB", "-"]
    assert [one["host"] for one in said] == ["-", f"{sum(waiting.storage_sizes) / 2**20:.1f} MiB"]


def test_text_of_a_status_is_escaped(runtime):
    """A program that is called what it likes breaks no table."""
    status = djinn.Status(
        number=1,
        phase=djinn.Phase.RUNNING,
        layer=None,
        device_bytes=0,
        host_bytes=0,
        disk_bytes=0,
        left_bytes=0,
        recorded_bytes=0,
        age_seconds=1.0,
        doing="<b>computes</b>",
    )
    empty = runtime.status()
    table = djinn.StatusTable([dataclasses.replace(status)], **vars(empty))
    assert tables(table._repr_html_())[0][1][-1] == "<b>computes</b>"
    assert "<b>" not in table._repr_html_()
