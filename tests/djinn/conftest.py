"""What tests of the runtime share."""

import pytest
from tests.djinn.interpreters import Interpreters
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
