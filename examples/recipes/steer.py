"""Steers a model at two layers in every decode step, and compares with plain forward hooks that do the same.

    python examples/recipes/steer.py
    python examples/recipes/steer.py CHECKPOINT --prompt "I think that" --plus "I love you" --minus "I hate you"

The vector that is added after a layer is the difference of two texts there: that of their last tokens' hidden states.
A session has one breakpoint at a time. So each stop sets the next: the other layer, in this step or in the next one.
"""

import functools
from contextlib import ExitStack

import torch
from checkpoint import load, parser

import djinn


@torch.no_grad()
def generate(model, input_ids, steps):
    """Greedy tokens after ``input_ids`` ([1, n]), [1, steps], and the logits of the last step."""
    output = model(input_ids, use_cache=True)
    tokens = [output.logits[:, -1:].argmax(-1)]
    while len(tokens) < steps:
        output = model(tokens[-1], past_key_values=output.past_key_values, use_cache=True)
        tokens.append(output.logits[:, -1:].argmax(-1))
    return torch.cat(tokens, dim=1), output.logits


def difference(runtime, model, plus, minus, layer):
    """What separates two texts after ``layer``: their last tokens' hidden states, subtracted ([features])."""
    found = []
    for input_ids in (plus, minus):
        with runtime.open(breakpoint=layer) as session:
            session.start(generate, model, input_ids, 1).wait()
            found.append(session.state["hidden_states"][0, -1].clone())
    return found[0] - found[1]


def steer(runtime, model, input_ids, steps, vectors):
    """Do what ``generate`` does, and add ``vectors[layer]`` after each such layer, in every decode step."""
    layers = sorted(vectors)
    following = dict(zip(layers, [*layers[1:], layers[0]], strict=True))
    with runtime.open(breakpoint=layers[0], visit=2) as session:  # hit 1 is the prompt
        session.start(generate, model, input_ids, steps)
        while session.wait() is djinn.Phase.PAUSED:
            session.state["hidden_states"] += vectors[session.layer]
            session.break_at(following[session.layer])
            session.resume()
        return session.result()


def steer_by_hooks(model, names, input_ids, steps, vectors):
    """Do the same in plain PyTorch; ``names`` are those of all decoder layers."""

    def add(module, args, output, vector):
        hidden_states = output[0] if isinstance(output, tuple) else output
        if hidden_states.shape[1] == 1:  # a decode step
            hidden_states += vector

    with ExitStack() as hooks:
        for layer, vector in vectors.items():
            module = model.get_submodule(names[layer - 1])
            hooks.callback(module.register_forward_hook(functools.partial(add, vector=vector)).remove)
        return generate(model, input_ids, steps)


def main(arguments=None):
    """Print the text without steering, steered, and whether hooks give the same bits."""
    options = parser(__doc__)
    options.add_argument("--prompt", default="I think that you are")
    options.add_argument("--plus", default="I love you", help="the text to steer to")
    options.add_argument("--minus", default="I hate you", help="the text to steer from")
    options.add_argument("--strength", type=float, default=1.0, help="the vectors are multiplied by it")
    options.add_argument("--layers", type=int, nargs=2, help="1 .. N; by default a third and two thirds of N")
    options.add_argument("--tokens", type=int, default=24)
    chosen = options.parse_args(arguments)
    model, encode, decode = load(chosen.checkpoint)
    input_ids, plus, minus = (encode(text) for text in (chosen.prompt, chosen.plus, chosen.minus))
    with djinn.Runtime(model) as runtime:
        names = runtime.layers
        layers = chosen.layers or (len(names) // 3, 2 * len(names) // 3)
        vectors = {layer: difference(runtime, model, plus, minus, layer) * chosen.strength for layer in layers}
        tokens, logits = steer(runtime, model, input_ids, chosen.tokens, vectors)
    plain, _ = generate(model, input_ids, chosen.tokens)
    hooked_tokens, hooked_logits = steer_by_hooks(model, names, input_ids, chosen.tokens, vectors)
    same = torch.equal(tokens, hooked_tokens) and torch.equal(logits, hooked_logits)
    print(f"as it is: {chosen.prompt}{decode(plain[0])}")
    print(f"steered after layers {layers[0]} and {layers[1]}: {chosen.prompt}{decode(tokens[0])}")
    print(f"the same as with forward hooks, bit for bit: {'yes' if same else 'no'}")


if __name__ == "__main__":
    main()
