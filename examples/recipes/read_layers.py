"""Reads what every layer returns for a long prompt, and holds no device memory while it looks.

    python examples/recipes/read_layers.py
    python examples/recipes/read_layers.py CHECKPOINT --prompt-file BOOK.txt

The prompt is computed once. After each layer its state leaves the device, and the hidden states are read where they lie
in host memory. Only one layer's are there at a time. Meanwhile others may use the GPU, for as long as the look takes.
"""

from pathlib import Path

import torch
from checkpoint import load, parser

import djinn


@torch.no_grad()
def prefill(model, input_ids):
    """Logits of the last token, [1, 1, words]; no cache is kept, and no logits of the other tokens."""
    return model(input_ids, use_cache=False, logits_to_keep=1).logits


def read_layers(runtime, model, input_ids, look):
    """Call ``look(layer, hidden_states)`` after each layer (1 .. N); return the logits of the last token.

    The hidden states ([1, tokens, features]) are in host memory. They are void when ``look`` returns: clone() them.
    """
    with runtime.open(breakpoint=1) as session:
        phase = session.start(prefill, model, input_ids).wait()
        while phase is djinn.Phase.PAUSED:
            session.io_wait()
            look(session.layer, session.state["hidden_states"])
            phase = session.step()
        return session.result()


def main(arguments=None):
    """Print a line for each layer, and the word that the model says next."""
    options = parser(__doc__)
    options.add_argument("--prompt-file", type=Path, help="a text; the README of Djinn by default")
    options.add_argument("--tokens", type=int, default=2048, help="so many of it are read")
    chosen = options.parse_args(arguments)
    model, encode, decode = load(chosen.checkpoint)
    prompt = (chosen.prompt_file or Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    input_ids = encode(prompt)[:, : chosen.tokens]
    print(f"a prompt of {input_ids.shape[1]} tokens")
    last = {}
    with djinn.Runtime(model) as runtime:

        def look(layer, hidden_states):
            [session] = runtime.status()
            last[layer] = hidden_states[0, -1].clone().float()
            turned = ""
            if layer > 1:
                cosine = torch.cosine_similarity(last[layer], last[layer - 1], dim=0)
                turned = f", cosine with that of layer {layer - 1}: {cosine:.3f}"
            print(
                f"layer {layer}: {session.device_bytes} bytes on the device, {session.host_bytes:,} in host memory; "
                f"norm of the last token {last[layer].norm():.2f}{turned}"
            )

        logits = read_layers(runtime, model, input_ids, look)
    print(f"then the model says: {decode(logits[0, -1:].argmax(-1))!r}")


if __name__ == "__main__":
    main()
