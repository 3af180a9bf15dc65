"""A job that is warned before its node is taken away: it saves its sessions, and the next job goes on with them.

On a cluster with SLURM, which warns five minutes ahead:

    sbatch --gpus=1 --time=4:00:00 --signal=B:USR1@300 --requeue continued_job.sh

where the script is

    python continued_job.py saved & job=$!
    trap 'kill -USR1 $job; wait $job || scontrol requeue $SLURM_JOB_ID' USR1
    wait $job
"""

import signal
import sys
import threading
from pathlib import Path

import torch
from debug_djinn import build_model

import djinn

SAVE_SECONDS = 240  # of the five minutes


@torch.no_grad()
def generate(model, input_ids, steps):
    """Greedy tokens after ``input_ids`` ([1, tokens]), as a list."""
    output = model(input_ids, use_cache=True)
    tokens = [output.logits[:, -1:].argmax(-1)]
    while len(tokens) < steps:
        output = model(tokens[-1], past_key_values=output.past_key_values, use_cache=True)
        tokens.append(output.logits[:, -1:].argmax(-1))
    return torch.cat(tokens, dim=1)[0].tolist()


def run(model, prompts, steps, folder, warned):
    """Write the tokens for each prompt to ``folder``, until the event ``warned``; return how many are still to come."""
    names = {}
    with djinn.Runtime(model, host_memory_bytes=1 << 26) as runtime:
        for number, prompt in enumerate(prompts):
            saved = folder / f"{number}.djinn"
            if (folder / f"{number}.txt").exists():
                continue
            if saved.exists():
                session = runtime.restore(saved, generate, model, prompt, steps)
                session.resume()
            else:
                session = runtime.open(durable=True).start(generate, model, prompt, steps)
            names[session] = str(number)
        while names and not warned.is_set():
            session = runtime.wait_any(names, timeout=0.5)
            if session is not None:
                (folder / f"{names.pop(session)}.txt").write_text(f"{session.result()}\n")
                session.close()
        for line in runtime.save_all(folder, names=names, within=SAVE_SECONDS):
            print(line, flush=True)
    return len(names)


def main():
    """Exit with 75, "try again", if there is more to do."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    warned = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: warned.set())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompts = [torch.arange(first, first + 16, device=device)[None] for first in (1, 40, 80)]
    sys.exit(75 if run(build_model().to(device), prompts, 200, folder, warned) else 0)


if __name__ == "__main__":
    main()
