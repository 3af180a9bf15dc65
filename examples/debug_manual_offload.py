"""Manual offload: the state is copied to pinned host memory and back by hand, and the rest of the model run by hand."""

from contextlib import suppress

import torch
from transformers import Cache, LlamaConfig, LlamaForCausalLM


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


def move(value, copy):
    """``value`` with every tensor in it replaced by ``copy(tensor)``; a KV cache is changed in place."""
    if isinstance(value, torch.Tensor):
        return copy(value)
    if isinstance(value, dict):
        return {name: move(part, copy) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(move(part, copy) for part in value)
    if isinstance(value, Cache):
        for kv in value.layers:
            kv.keys, kv.values = move(kv.keys, copy), move(kv.values, copy)
    return value


def to_host(tensor):
    """A copy in host memory, pinned if it comes from a GPU."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)


@torch.no_grad()
def run(model, input_ids, *, layer, edit):
    """Logits and tokens of ``generate``, with ``edit`` made to what decoder layer ``layer`` (1 .. N) returned."""
    state = {}

    def stop(module, args, kwargs, output):
        handle.remove()  # stop in the prefill, not again at every token
        state.update(kwargs, hidden_states=output)
        raise Stop

    handle = model.model.layers[layer - 1].register_forward_hook(stop, with_kwargs=True)
    with suppress(Stop):
        generate(model, input_ids)
    state = move(state, to_host)
    edit(state["hidden_states"])  # the program waits here, its device memory free
    state = move(state, lambda tensor: tensor.to(model.device, non_blocking=True))
    hidden_states = state.pop("hidden_states")
    for later in model.model.layers[layer:]:
        hidden_states = later(hidden_states, **state)
    logits = model.lm_head(model.model.norm(hidden_states))
    return logits, decode(model, logits, state["past_key_values"])


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
