"""The one way to the screen."""

from typing import TextIO

from rich.console import Console

from retinue_client._plain import named, plain

__all__ = ["console_for", "named", "plain"]

# Without a terminal nobody sees the edge of the screen, and a cut table helps nobody.
_WIDTH_WITHOUT_TERMINAL = 160


def console_for(stream: TextIO) -> Console:
    """A console that takes file names and labels for what they are, whatever brackets they hold."""
    width = None if stream.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)
