"""Text of strangers, such as labels and paths, as it may be shown."""

_MOST_CHARACTERS = 256


def plain(text: str) -> str:
    """The text with control characters, which could steer the terminal, and what is no text written as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def named(text: str) -> str:
    """What a server calls something, such as a label, plain and cut short: nothing bounds its length."""
    return plain(text) if len(text) <= _MOST_CHARACTERS else plain(text[:_MOST_CHARACTERS]) + "…"
