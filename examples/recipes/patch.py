"""Patches one prompt's hidden states into another's, layer by layer: where does the model know the answer?

    python examples/recipes/patch.py
    python examples/recipes/patch.py CHECKPOINT --prompt "The capital of Italy is" --other "The capital of France is"

Two sessions stop after the same layer. A fork of the first gets the second's hidden states of one position, and goes on
to its logits. Then both step to the next layer. So each layer is computed once for either prompt, and after it once for
each fork. The lens shows what the layer itself would say of either: the model's own norm and head on its last token.
"""

import functools

import torch
from checkpoint import load, parser

import djinn


@torch.no_grad()
def prefill(model, input_ids):
    """Logits behind the last token, [1, 1, words]."""
    return model(input_ids, use_cache=False, logits_to_keep=1).logits


def patch_layers(runtime, model, input_ids, other_ids, position=-1):
    """Yield a layer (1 .. N), both hidden states there, and the logits ([1, 1, words]) with that position patched.

    The hidden states ([1, tokens, features]) are on the device. They are void at the next step: clone() them.
    """
    with (
        runtime.open(breakpoint=1, durable=True) as session,
        runtime.open(breakpoint=1) as other,
    ):
        session.start(prefill, model, input_ids)
        other.start(prefill, model, other_ids)
        while session.wait() is djinn.Phase.PAUSED and other.wait() is djinn.Phase.PAUSED:
            hidden_states, source = session.state["hidden_states"], other.state["hidden_states"]
            with session.fork() as fork:
                fork.state["hidden_states"][:, position] = source[:, position]
                fork.resume()
                patched = fork.result()
            yield session.layer, hidden_states, source, patched
            session.step()
            other.step()


def patch_by_hook(model, names, input_ids, other_ids, layer, position=-1):
    """Return the same logits for one layer (1 .. N), in plain PyTorch; ``names`` are those of all decoder layers."""
    kept = []

    def keep(module, args, output):
        kept.append((output[0] if isinstance(output, tuple) else output)[:, position].clone())

    def put(module, args, output):
        (output[0] if isinstance(output, tuple) else output)[:, position] = kept[0]

    module = model.get_submodule(names[layer - 1])
    for hook, ids in ((keep, other_ids), (put, input_ids)):
        handle = module.register_forward_hook(hook)
        try:
            logits = prefill(model, ids)
        finally:
            handle.remove()
    return logits


@torch.no_grad()
def lens(model, hidden_states):
    """Logits ([words]) that the model's own norm and head make of the last token's hidden states."""
    return model.lm_head(model.model.norm(hidden_states[:, -1:]))[0, -1]


def main(arguments=None):
    """Print for each layer what the lens says of both prompts, and what the patched model says in the end."""
    options = parser(__doc__)
    options.add_argument("--prompt", default="The capital of Italy is")
    options.add_argument("--other", default="The capital of France is", help="whose hidden states are put in")
    options.add_argument("--position", type=int, default=-1, help="which token's; the last one by default")
    chosen = options.parse_args(arguments)
    model, encode, decode = load(chosen.checkpoint)
    input_ids, other_ids = encode(chosen.prompt), encode(chosen.other)
    word = functools.partial(_word, decode)
    print(f"{chosen.prompt!r}: {word(prefill(model, input_ids)[0, -1])}")
    print(f"{chosen.other!r}: {word(prefill(model, other_ids)[0, -1])}")
    same = True
    with djinn.Runtime(model) as runtime:
        for layer, mine, theirs, patched in patch_layers(runtime, model, input_ids, other_ids, chosen.position):
            said = (word(lens(model, mine)), word(lens(model, theirs)), word(patched[0, -1]))
            print(f"layer {layer}: the lens says {said[0]} and {said[1]}; patched after it the model says {said[2]}")
            same &= torch.equal(
                patched, patch_by_hook(model, runtime.layers, input_ids, other_ids, layer, chosen.position)
            )
    print(f"the same as with forward hooks, bit for bit: {'yes' if same else 'no'}")


def _word(decode, logits):
    return repr(decode(logits.argmax(-1, keepdim=True)))


if __name__ == "__main__":
    main()
