"""Writes the reference of the runtime's front door from its docstrings: ``python .ci/api_reference.py``."""

import enum
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import djinn

_HEAD = """# The API of djinn

Made from the docstrings by `python .ci/api_reference.py`; a test holds it to them. How a pause works, step by
step, is in [how it works](../../docs/how-it-works.md#life-of-a-pause).

The snippets below are run by a test, which compares what they print. `model` is any model with 24 layers, `input_ids`
and `prompts` are tokens for it.

## A session, step by step

```python
import djinn

print(djinn.__version__)  # prints 0.1.0
runtime = djinn.Runtime(model, host_memory_bytes=64 << 20)
print(runtime)  # prints <Runtime of LlamaForCausalLM: 24 layers, 0 sessions, 0.0 MiB of 64.0 MiB of host memory in use>

with runtime.open(breakpoint=20) as session:
    session.start(model.generate, input_ids, max_new_tokens=2)
    print(session.wait())  # prints Phase.PAUSED
    print(session)  # prints <Session 1: paused after layer 20, ... MiB on the device>
    print(session.step(), session.layer)  # prints Phase.PAUSED 21
    session.io_wait()
    print(session)  # prints <Session 1: io_wait after layer 21, ... MiB in host memory>
    session.state["hidden_states"].mul_(1.5)
    session.break_at(1)
    session.resume()
    print(session.last_resume)  # prints Resume(nbytes=..., ready_seconds=..., resident_seconds=...)
    print(session.wait(), session.layer)  # prints Phase.PAUSED 1
    session.resume()
    print(session.result().shape)  # prints torch.Size([1, 10])
print(session)  # prints <Session 1: closed>
```

## What is refused

```python
try:
    runtime.open(breakpoint=1.5)
except TypeError as error:
    print(error)  # prints breakpoint 1.5 is not a whole number: pass a layer as an int, 1 to 24

try:
    session.resume()
except djinn.IllegalMove as error:
    print(error)  # prints RESUME is possible while a session is parked; this one is closed: open another session
```

## Several sessions

```python
sessions = [runtime.open(breakpoint=12).start(model.generate, prompt, max_new_tokens=2) for prompt in prompts]
for _ in range(4):  # each of the two stops, and ends
    session = runtime.wait_any()
    if session.phase is djinn.Phase.PAUSED:
        session.io_wait()
        session.resume()
print([session.result().shape[1] for session in sessions])  # prints [10, 14]
print([session.phase.value for session in sessions])  # prints ['finished', 'finished']
```

In an event loop:

```python
import asyncio


async def generate(prompt):
    session = runtime.open().start(model.generate, prompt, max_new_tokens=2)
    await session.wait_async()
    return session.result().shape[1]


async def main():
    return await asyncio.gather(*(generate(prompt) for prompt in prompts))


print(asyncio.run(main()))  # prints [10, 14]
runtime.close()
```

## The log

`logging.getLogger("djinn")` is silent until the program asks for lines. INFO has moves, RESUMEs and evictions. WARNING
has sessions of whose state most stayed on the device, and errors that nobody asked for. DEBUG has each tensor that
stayed. A handler runs on a thread of the runtime's, so it may be slow, look at sessions and signal them.

```python
import logging
import sys

log = logging.getLogger("djinn")
log.addHandler(logging.StreamHandler(sys.stdout))
log.setLevel(logging.INFO)
with djinn.Runtime(model, host_memory_bytes=64 << 20) as runtime:  # its end waits for all lines
    session = runtime.open(breakpoint=20).start(model.generate, input_ids, max_new_tokens=1)
    session.wait()
    session.io_wait()
# prints session 1: created -> running, to stop after layer 20
# prints session 1: running -> paused after layer 20, ... MiB on the device
# prints session 1: paused -> io_wait after layer 20, ... MiB in host memory
# prints session 1: io_wait -> running, cancelled
# prints session 1: running -> cancelled
# prints session 1: failed -> closed
```
"""


def reference() -> str:
    """The reference as Markdown: every public name of ``djinn`` with its signature, members and docstrings."""
    front = ["Runtime", "Session"]
    names = [*front, *(name for name in djinn.__all__ if name not in front)]
    return "\n".join([_HEAD, *(line for name in names for line in _of(name, getattr(djinn, name)))])


def _of(name: str, value: Any) -> Iterator[str]:
    return _of_class(name, value) if isinstance(value, type) else _of_function(name, value)


def _of_function(name: str, value: Callable[..., object]) -> Iterator[str]:
    yield f"## {name}{_signature(value)}\n"
    yield _plain(inspect.getdoc(value))


def _of_class(name: str, kind: type) -> Iterator[str]:
    yield f"## {name}\n"
    if "__init__" in vars(kind) and name == "Runtime":
        yield f"`{name}{_signature(kind)}`\n"
    yield _plain(inspect.getdoc(kind))
    if issubclass(kind, enum.Enum):
        yield ", ".join(f"`{member.name}`" for member in kind) + "\n"
    for member, value in vars(kind).items():
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            yield f"### {name}.{member}\n"
            yield _plain(value.__doc__)
        elif inspect.isfunction(value):
            yield f"### {name}.{member}{_signature(value)}\n".replace("(self, ", "(").replace("(self)", "()")
            yield _plain(value.__doc__)


def _signature(value: Callable[..., object]) -> str:
    signature = inspect.signature(value)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _plain(docstring: str | None) -> str:
    """Cleaned, with the roles of cross-references as plain code."""
    text = inspect.cleandoc(docstring or "")
    for role in ("class", "meth", "func", "mod", "attr"):
        text = text.replace(f":{role}:`", "`")
    return text.replace("``", "`") + "\n"


def main() -> int:
    """Command line: write the page beside the package."""
    Path(djinn.__file__).with_name("API.md").write_text(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
