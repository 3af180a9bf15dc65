"""How every command of the evaluation takes its arguments, and how it refuses: one line, and an exit status."""

import argparse
import sys
from collections.abc import Callable
from typing import ClassVar


class Refusal(ValueError):
    """What was asked for cannot be done; the message names the input and says what is allowed."""

    status: ClassVar[int] = 2


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of ``python -m evaluation.<module>``; ``description`` is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m evaluation.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(command: Callable[[], object]) -> int:
    """Run ``command``; the exit status: 0, or that of a refusal, each line of whose message goes to stderr.

    A file that cannot be read or written is refused as well, with status 2.
    """
    try:
        command()
    except Refusal as refusal:
        print(*(f"error: {line}" for line in str(refusal).splitlines()), sep="\n", file=sys.stderr)
        return refusal.status
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return Refusal.status
    return 0
