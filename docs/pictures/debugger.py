"""Makes the README's picture of the debugger from a real session: ``python docs/pictures/debugger.py``.

Needs the trained model (``make trained``) and Textual, and takes half a minute on two CPU cores. Textual's pilot types
the keys that a user would. The picture is written only if the two continuations are, bit for bit, what the model gives
without djinn: the one with a hook that does the same edit, the other untouched.
"""

import argparse
import asyncio
import re
from pathlib import Path

import torch
from textual.pilot import Pilot
from transformers import AutoModelForCausalLM, AutoTokenizer

import djinn
from djinn.debugger.bench import Bench
from djinn.debugger.glances import standing
from djinn.debugger.screen import Debugger

HERE = Path(__file__).parent
PROMPT = "The capital of France is"
LAYER, POSITION, TOKENS = 15, 3, 12
SIZE = (96, 35)


async def settled(pilot: Pilot[None]) -> None:
    """Wait until no command runs, and the last stop is shown."""
    app = pilot.app
    assert isinstance(app, Debugger)
    while app._busy is not None or not app._look.whole or app._look.mark != standing(app.bench):
        await pilot.pause(0.05)
    await pilot.pause()


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys, and wait for what they do."""
    await pilot.press(*keys)
    await settled(pilot)


async def session(app: Debugger) -> str:
    """Use the debugger as a user would; return the picture."""
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot)
        await pilot.pause(3)
        await press(pilot, "w")
        await pilot.pause(6)  # while one thinks, the device memory is free
        await pilot.press("f")
        while len(app.screen_stack) == 1:  # the question
            await pilot.pause(0.05)
        await press(pilot, "y")
        await press(pilot, "u", "1", "enter")
        for _ in range(3):
            await press(pilot, "t")
        await press(pilot, "u", "2", "enter")
        await press(pilot, "0", *str(POSITION), "enter")
        await press(pilot, "r")
        await press(pilot, "u", "1", "enter")
        await pilot.pause(1)
        picture = app.export_screenshot(
            title=f'djinn debug results/trained/smollm2 --prompt "{PROMPT}" --break {LAYER}'
        )
        await press(pilot, "r")
    return picture


def plain(model: torch.nn.Module, ids: torch.Tensor, *, edited: bool) -> torch.Tensor:
    """Return what the model generates without djinn, with a hook for the edit."""
    calls = []

    def erase(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            output[:, POSITION] = 0
        return output

    handle = model.get_submodule(f"model.layers.{LAYER - 1}").register_forward_hook(erase) if edited else None
    try:
        return generate(model, ids)
    finally:
        if handle is not None:
            handle.remove()


def generate(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Generate greedily."""
    return model.generate(ids.clone(), attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)


def main() -> None:
    """Write the picture."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--checkpoint", type=Path, default=Path("results/trained/smollm2"))
    arguments.add_argument("--out", type=Path, default=HERE / "debugger.svg")
    asked = arguments.parse_args()
    torch.set_grad_enabled(False)
    tokenizer = AutoTokenizer.from_pretrained(asked.checkpoint, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(asked.checkpoint, local_files_only=True, dtype="auto").eval()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with djinn.Runtime(model, host_memory_bytes=256 << 20) as runtime:
        first = runtime.open(breakpoint=LAYER, durable=True).start(lambda: generate(model, ids))
        first.wait()
        bench = Bench(runtime, tokenizer=tokenizer, owns_runtime=True)
        picture = asyncio.run(session(Debugger(bench)))
        bench.close()
        _, fork = runtime.sessions
        found = [(first.result(), plain(model, ids, edited=False)), (fork.result(), plain(model, ids, edited=True))]
    for mine, other in found:
        print(repr(tokenizer.decode(mine[0])))
        assert torch.equal(mine, other)
    asked.out.write_text(alone(picture), encoding="utf-8")


def alone(svg: str) -> str:
    """Return the picture with fonts that a reader has in place of one from a server; its lines are not clipped."""
    svg = re.sub(r"\s*@font-face \{.*?\n    \}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>.*?</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="[^"]*"', "", svg)
    svg = svg.replace(
        "Fira Code, monospace", "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
    )
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE).strip() + "\n"


if __name__ == "__main__":
    main()
