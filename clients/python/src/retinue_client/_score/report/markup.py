"""HTML in which every text from outside is text, whatever it holds."""

from html import escape
from typing import TypeAlias

from retinue_client._plain import plain

_VOID = frozenset({"img", "link", "meta"})


class Html(str):
    """HTML that `element` and `join` have made; any other string is text to them, and is escaped."""

    __slots__ = ()


Content: TypeAlias = "str | int | None"
"""Html goes in as it is; other values as text; None not at all."""


def element(name: str, /, *content: Content, **attributes: str | float | None) -> Html:
    """An element with its content.

    Args:
        name: Its name.
        content: What is in it.
        attributes: Its attributes; `class_` is "class", other underscores are hyphens, None leaves one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(plain(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    end = "" if name in _VOID else f"{join(*content)}</{name}>"
    return Html(f"<{name}{written}>{end}")


def join(*content: Content) -> Html:
    """The contents one after the other."""
    return Html("".join(_written(part) for part in content if part is not None))


def caption(text: str) -> Html:
    """The text, whose numbers are not parted from their percent signs."""
    return Html(_written(text).replace(" %", "&nbsp;%"))


def clip(text: str, most: int) -> str:
    """The text without control characters, and with an ellipsis in place of what is beyond so many characters."""
    shown = plain(text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _written(part: str | int) -> str:
    return part if isinstance(part, Html) else escape(plain(str(part)))
