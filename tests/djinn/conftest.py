"""What tests of the runtime share."""

import sys

import pytest
import torch
from tests.djinn.interpreters import Interpreters
from tests.djinn.late_link import LateLink
from tests.programs import without_climb

import djinn


@pytest.fixture
def runtime(llama):
    """A runtime of the test's own; when the test has ended, its sessions have left nothing in host memory."""
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        yield runtime
        for session in runtime._sessions.values():
            session.close(30)
        assert runtime.arena.reserved_bytes == 0
        runtime.arena.check_integrity()


@pytest.fixture(name="without_climb")
def _without_climb(monkeypatch):
    """For files of tests in which it does not matter who else holds what."""
    without_climb(monkeypatch)


@pytest.fixture(scope="session")
def interpreters(tmp_path_factory):
    """Where scripts are run to the end of an interpreter."""
    interpreters = Interpreters(tmp_path_factory.mktemp("interpreters"))
    yield interpreters
    interpreters.close()


@pytest.fixture
def link(monkeypatch):
    """A link whose copies arrive when they are waited for, for all runtimes that are made."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # where something is compiled all state is waited for
    link = LateLink()
    monkeypatch.setattr("djinn.runtime.link_of", lambda device: link)
    yield link
    link.arrive()


@pytest.fixture
def late_runtime(llama, link):
    """A runtime whose copies arrive when they are waited for."""
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        yield runtime
        link.arrive()
