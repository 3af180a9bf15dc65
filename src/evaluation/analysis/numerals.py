"""How many digits of a number are shown."""


def decimals(value: float, digits: int = 3) -> int:
    """How many decimals show ``value`` to ``digits`` significant digits."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return max(digits - 1 - exponent, 0)


def significant(value: float, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits, without exponent; none before the point is dropped."""
    return f"{value:.{decimals(value, digits)}f}"
