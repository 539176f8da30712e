"""Charts as inline SVG that stretch to the width they are given.

They hold no text, which would be stretched with them: what they show stands beside them, for readers of any kind. Their
colours are the style sheet's.
"""

from collections.abc import Sequence

from retinue_client._score.report.markup import Html, element, join

_GAP = 0.12


def bar(share: float) -> Html:
    """A horizontal bar of so much of its room, in [0, 1]; decoration beside a number."""
    length = round(100 * min(1.0, max(0.0, share)), 2)
    rectangle = element("rect", width=max(length, 0.5) if share > 0 else 0, height=1)
    return _svg(rectangle, "bar", 100, 1, aria_hidden="true")


def columns(counts: Sequence[int], titles: Sequence[str], label: str) -> Html:
    """Upright columns beside one another, the highest as high as the chart.

    Args:
        counts: What each stands for.
        titles: What each is, shown where it is pointed at.
        label: What the chart shows, for those who do not see it.
    """
    highest = max(1, *counts)
    drawn = []
    for place, (count, title) in enumerate(zip(counts, titles, strict=True)):
        height = round(100 * count / highest, 2)
        # What is there at all is seen.
        height = max(height, 1.0) if count else 0.0
        full = element("rect", x=place, y=0, width=1, height=100, class_="room")
        column = element(
            "rect", x=round(place + _GAP / 2, 2), y=round(100 - height, 2), width=1 - _GAP, height=height
        )
        drawn.append(element("g", element("title", title), full, column))
    return _svg(join(*drawn), "columns", len(counts), 100, role="img", aria_label=label)


def stack(shares: Sequence[tuple[str, float]], label: str) -> Html:
    """Shares of a whole in one bar.

    Args:
        shares: The style sheet's class of each, and its share, in [0, 1].
        label: What the chart shows, for those who do not see it.
    """
    left = 0.0
    drawn = []
    for name, share in shares:
        width = 100 * share
        drawn.append(
            element("rect", x=round(left, 2), width=round(max(0.0, width - 0.25), 2), height=1, class_=name)
        )
        left += width
    return _svg(join(*drawn), "stack", 100, 1, role="img", aria_label=label)


def swatch(name: str) -> Html:
    """A square of a colour of a stack."""
    return _svg(element("rect", width=1, height=1, class_=name), "swatch", 1, 1, aria_hidden="true")


def _svg(content: Html, name: str, width: int, height: int, **attributes: str) -> Html:
    view = {"viewBox": f"0 0 {width} {height}", "preserveAspectRatio": "none"}
    return element("svg", content, class_=name, **view, **attributes)
