"""Stateless recompute: pause deletes every intermediate, resume runs the model from the embedding to layer L again."""

import sys

from evaluation.device_memory import synchronize
from evaluation.job import run_job
from evaluation.method import ByHand


class Recompute(ByHand):
    """Delete everything, run it again."""

    variant = "default"
    headline = True

    def pause(self) -> None:
        """Drop the state."""
        del self.stopped

    def resume(self) -> None:
        """Run up to the breakpoint again and wait for the device."""
        self.prepare()
        synchronize(self.subject.device)

    def flops(self) -> float:
        """Operations from the embedding to layer L: the floor of this method is these over the matrix rate.

        Two per weight and token in the matrix products, and the causal half of the attention's two products.
        """
        config = self.subject.model.config
        layer = self.subject.layers[0]
        weights = sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() == 2)
        batch, tokens = self.workload.batch, self.workload.tokens
        attention = 2 * tokens * tokens * config.num_attention_heads * config.head_dim
        return float(self.layer * batch * (2 * weights * tokens + attention))


if __name__ == "__main__":
    sys.exit(run_job("recompute", __doc__, lambda workload: [Recompute]))
