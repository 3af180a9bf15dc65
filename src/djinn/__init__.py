"""Djinn pauses an unmodified PyTorch model after any decoder layer, swaps the session out, and resumes it.

```python
runtime = djinn.Runtime(model, host_memory_bytes=4 << 30)
session = runtime.open(breakpoint=20).start(model.generate, input_ids, max_new_tokens=32)
session.wait()                              # parked after layer 20
session.io_wait()                           # state in pinned host memory, its device memory free
session.state["hidden_states"][0, -1] += 1  # a host tensor: edit it
session.resume()                            # returns when layer 21 can be computed
tokens = session.result()
session.close()
```

The model's code and the call stay as they are. Nothing here knows of the evaluation.
"""

from djinn.core import (
    DeviceMemoryFull,
    DiskFailed,
    DjinnError,
    HostMemoryFull,
    IllegalMove,
    LayersNotFound,
    NotRestored,
    Phase,
    SessionCancelled,
)
from djinn.front import debug
from djinn.program.waiting import waiting
from djinn.resumes import Resume
from djinn.runtime import Runtime
from djinn.save_all import Saved
from djinn.session import Session
from djinn.state.state_page import StateEntry
from djinn.state.state_view import StateView
from djinn.state.storages import LeftBehind
from djinn.status import Status, StatusTable

__version__ = "0.1.0"  # the only place: the build reads it here

__all__ = [
    "DeviceMemoryFull",
    "DiskFailed",
    "DjinnError",
    "HostMemoryFull",
    "IllegalMove",
    "LayersNotFound",
    "LeftBehind",
    "NotRestored",
    "Phase",
    "Resume",
    "Runtime",
    "Saved",
    "Session",
    "SessionCancelled",
    "StateEntry",
    "StateView",
    "Status",
    "StatusTable",
    "debug",
    "waiting",
]
