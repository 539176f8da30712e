"""Numbers as people read them."""

import math


def many(count: int, one: str, several: str = "") -> str:
    """So many of something: "1 image", "2,000 images"."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def percent(share: float) -> str:
    """A share in [0, 1]: "42 %", "4.2 %", "<0.1 %"."""
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def part_of(count: int, total: int) -> str:
    """How many of all: "all", "none" or a percentage."""
    if count == total:
        return "all"
    return percent(count / total) if count else "none"


def milliseconds(value: float | None) -> str:
    """Three digits, or a dash where there is no value."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def span(seconds: float) -> str:
    """How long something took: "9.0 seconds", "34 minutes", "2 h 05 min"."""
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60:02} min"
