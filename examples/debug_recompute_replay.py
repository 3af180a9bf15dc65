"""Stateless recompute: the pause deletes everything, the resume computes it again and replays the edit."""

from contextlib import suppress

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def build_model():
    """A Llama of 6 small layers with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        vocab_size=128,
        initializer_range=0.2,  # an edit changes the tokens
    )
    return LlamaForCausalLM(config).eval()


def decode(model, logits, cache, steps=8):
    """Greedy tokens after a prefill, [batch, steps]."""
    tokens = [logits[:, -1:].argmax(-1)]
    while len(tokens) < steps:
        logits = model(tokens[-1], past_key_values=cache, use_cache=True).logits
        tokens.append(logits[:, -1:].argmax(-1))
    return torch.cat(tokens, dim=1)


@torch.no_grad()
def generate(model, input_ids):
    """Logits of the prefill of ``input_ids`` ([batch, tokens]), and the greedy tokens after it."""
    output = model(input_ids, use_cache=True)
    return output.logits, decode(model, output.logits, output.past_key_values)


def amplify(hidden_states):
    """What is done at the breakpoint: look at the last token's hidden state, then scale it in place."""
    last = hidden_states[:, -1]
    print(f"norm of the last token on {hidden_states.device}: {last.norm():.4f}")
    last *= 1.5


class Stop(Exception):
    """Leaves the model at the breakpoint."""


def run(model, input_ids, *, layer, edit):
    """Logits and tokens of ``generate``, with ``edit`` made to what decoder layer ``layer`` (1 .. N) returned.

    The edit is lost with the state that it was made to; the program keeps what it did, and does it again.
    """

    def stop(module, args, output):
        handle.remove()  # stop in the prefill, not again at every token
        edit(output)
        raise Stop

    def edit_again(module, args, output):
        handle.remove()
        edit(output)

    handle = model.model.layers[layer - 1].register_forward_hook(stop)
    with suppress(Stop):
        generate(model, input_ids)
    # the program waits here, with nothing left of the run but the edit itself
    handle = model.model.layers[layer - 1].register_forward_hook(edit_again)
    return generate(model, input_ids)


def main():
    """Break after layer 4, edit, print the tokens."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model().to(device)
    input_ids = torch.arange(24, device=device)[None]
    print("tokens without the edit:", generate(model, input_ids)[1].tolist())
    _, tokens = run(model, input_ids, layer=4, edit=amplify)
    print("tokens after the edit:", tokens.tolist())


if __name__ == "__main__":
    main()
