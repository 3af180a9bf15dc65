"""A thousand sessions later the process is as it was: no threads, files, sessions or memory are left."""

import gc
import os
import threading
import weakref

import pytest
import torch
from torch import nn

import djinn

X = torch.linspace(-1, 1, 32).reshape(4, 8)


def program(model):
    return model(model(X * 1))


def resident_bytes():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def left(runtime, sessions, others):
    """What could be left of sessions that are closed; the runtime forgets the last one when it opens another."""
    runtime.open().close()
    gc.collect()
    return {
        "threads": len(set(threading.enumerate()) - others),
        "files": len(os.listdir("/proc/self/fd")),
        "sessions": sum(one() is not None for one in sessions),
        "passages": len(runtime._interceptors._passages),
        "arena": runtime.arena.reserved_bytes,
        "disk": runtime.disk.used_bytes,
    }


@pytest.mark.usefixtures("without_climb")
def test_a_thousand_cycles(tmp_path):
    """Every end that a session can have; some are saved, forked, or spilled. After a warm-up nothing grows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    expected, path = program(model), tmp_path / "one.djinn"
    others = set(threading.enumerate())  # threads of earlier tests, which may end meanwhile
    with djinn.Runtime(model, host_memory_bytes=3 * 512, layers=list(model), disk_folder=tmp_path) as runtime:
        sessions, before, spilled = [], None, 0
        for cycle in range(1000):
            session = runtime.open(breakpoint=cycle % 2 + 1, visit=cycle // 2 % 2 + 1, durable=cycle % 10 in (0, 5))
            sessions.append(weakref.ref(session))
            session.start(program, model).wait(10)
            if cycle % 10 == 0:
                session.save(path)
                session.close()
                session = runtime.restore(path, program, model)
            if cycle % 10 == 5:
                fork = session.fork()
                session.close()
                session = fork
                del fork
            if cycle % 3:
                session.io_wait()
            if cycle % 10 == 1:
                with runtime.open(breakpoint=1).start(program, model) as other:
                    other.wait(10)
                    other.io_wait()
                    spilled += session.disk_bytes > 0
                del other
            if cycle % 7 == 0:
                session.cancel()
            else:
                session.resume()
                assert torch.equal(session.result(10), expected)
            session.close()
            del session
            if cycle == 300:
                before, bytes_before = left(runtime, sessions, others), resident_bytes()
        assert left(runtime, sessions, others) == before
        assert before["sessions"] == before["passages"] == before["arena"] == before["disk"] == 0
        assert spilled > 50
        assert resident_bytes() - bytes_before < 4 << 20
