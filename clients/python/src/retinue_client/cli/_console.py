"""The one way to the screen."""

from typing import TextIO

from rich.console import Console

# Without a terminal nobody sees the edge of the screen, and a cut table helps nobody.
_WIDTH_WITHOUT_TERMINAL = 160
_MOST_CHARACTERS = 256


def console_for(stream: TextIO) -> Console:
    """A console that takes file names and labels for what they are, whatever brackets they hold."""
    width = None if stream.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def plain(text: str) -> str:
    """The text with control characters, which could steer the terminal, and what is no text written as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def named(text: str) -> str:
    """What a server calls something, such as a label, plain and cut short: nothing bounds its length."""
    return plain(text) if len(text) <= _MOST_CHARACTERS else plain(text[:_MOST_CHARACTERS]) + "…"
