"""Numbers for people, three digits and a unit."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def metric(value: float, unit: str = "") -> str:
    """As "3.49 M" or, of a unit, "7.04 MB"; below a thousand the number as it is."""
    for factor, prefix in _PREFIXES:
        # What would be rounded to 1000 of one prefix is 1 of the next.
        if abs(value) >= 0.9995 * factor:
            scaled = value / factor
            return f"{_three_digits(scaled)} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()


def percent(share: float) -> str:
    """As "12.3 %": one decimal, and never all or nothing where it is only nearly so."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def printable(text: str) -> str:
    """The text without characters that would steer a terminal or cannot be seen, a mark in the place of each."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _three_digits(value: float) -> str:
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}"
