"""The pieces that sections are made of."""

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from retinue_client._score.report.chart import bar
from retinue_client._score.report.markup import Content, Html, clip, element, join

Column: TypeAlias = tuple[str, Literal["text", "number", "bar"]]
"""The name of a table's column and what is in it."""

_MOST_VALUE_CHARACTERS = 600


def section(title: str, *content: Content) -> Html:
    """A part of the page with a heading of its own."""
    return element("section", element("h2", title), *content)


def table(caption: str, columns: Sequence[Column], rows: Iterable[Html]) -> Html:
    """A table of these rows; the caption is for those who do not see the page."""
    heads = [
        element("td") if kind == "bar" else element("th", name, scope="col", class_=_class(kind))
        for name, kind in columns
    ]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
    )


def row(*cells: Html) -> Html:
    """A row of a table."""
    return element("tr", *cells)


def row_header(*content: Content) -> Html:
    """What a row is about."""
    return element("th", *content, scope="row")


def text_cell(*content: Content) -> Html:
    """A cell of words."""
    return element("td", *content)


def number_cell(text: str) -> Html:
    """A cell of figures, which stand below one another."""
    return element("td", text, class_="number")


def bar_cell(share: float) -> Html:
    """A cell with a bar of so much of its room, in [0, 1]."""
    return element("td", bar(share), class_="barred")


def remark(text: str) -> Html:
    """What is said in a low voice."""
    return element("p", text, class_="note")


def aside(text: str) -> Html:
    """The same within a cell, on a line of its own."""
    return element("span", text, class_="aside")


def facts_list(values: dict[str, str]) -> Html:
    """Names and what they stand for, those without a value left out."""
    items = [
        join(element("dt", name), element("dd", clip(value, _MOST_VALUE_CHARACTERS)))
        for name, value in values.items()
        if value
    ]
    return element("dl", *items, class_="facts")


def _class(kind: str) -> str | None:
    return "number" if kind == "number" else None
