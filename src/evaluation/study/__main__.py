"""Prints the study that a configuration means on this machine, as ``results/local/study.json`` has it."""

import json
import sys
from pathlib import Path

from evaluation.command import parser, run
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for what cannot be run."""
    commands = parser("study", __doc__)
    commands.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    given = commands.parse_args()
    return run(lambda: print(json.dumps(resolve(load_config(given.config)).published(), indent=1)))


if __name__ == "__main__":
    sys.exit(main())
