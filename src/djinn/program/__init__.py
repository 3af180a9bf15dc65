"""The user's call on a thread of its own: how it passes through the model, parks, and computes in its turn."""
