"""Programs as a user writes them, for the tests of the runtime."""


def prefill(model, input_ids):
    """Logits of one forward pass without a cache."""
    return model(input_ids, use_cache=False).logits


def greedy(model, input_ids, steps):
    """Logits of a prefill and of ``steps`` greedy decode steps."""
    output = model(input_ids, use_cache=True)
    logits = [output.logits]
    for _ in range(steps):
        output = model(logits[-1][:, -1:].argmax(-1), past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits)
    return logits
