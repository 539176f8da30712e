"""Results painted over the images they are about.

Every function takes an RGB image that is already upright and returns a new one. Small images are enlarged by
a whole number so that text is legible; lines and text grow with the picture.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from retinue_client._palette import Colour, colour_of_class, colour_table, heat_table, text_colour_on

_SMALLEST_PICTURE = 480
_PANEL_COLOUR = (24, 26, 31)
_PANEL_TEXT = (236, 238, 242)
_PANEL_FAINT = (58, 62, 72)
_MASK_OPACITY = 0.5
_HEAT_OPACITY = 0.65
_DIMMED = 0.75
_MOST_ROWS = 12
_MOST_LEGEND_ENTRIES = 256
# Wider than any picture, and soon measured.
_MOST_CHARACTERS = 256

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes in pixels that suit a picture."""

    line: int
    text: int
    padding: int
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont

    @classmethod
    def of(cls, picture: Image.Image) -> "_Style":
        longest = max(picture.size)
        text = max(14, round(longest / 42))
        return cls(
            line=max(2, round(longest / 300)),
            text=text,
            padding=max(3, round(text / 4)),
            font=ImageFont.load_default(size=text),
        )

    @property
    def row(self) -> int:
        """Height of a line of text with what surrounds it."""
        return self.text + 2 * self.padding

    def fit(self, text: str, width: float) -> str:
        """The text on one line, cut short with an ellipsis where it is wider than so many pixels."""
        text = _one_line(text)
        if self.font.getlength(text) <= width:
            return text
        while text and self.font.getlength(text + "…") > width:
            text = text[:-1]
        return text.rstrip() + "…"


def draw_classification(image: Image.Image, classes: Sequence[tuple[int, str, float]]) -> Image.Image:
    """Sets a panel of class names, bars and percentages below the image.

    Args:
        image: RGB, upright.
        classes: Class id, name and score in [0, 1], best first.
    """
    image = _enlarge(image)
    style = _Style.of(image)
    shown = classes[:_MOST_ROWS]
    canvas, draw, top = _with_panel(image, style, rows=max(1, len(shown)))
    margin = 2 * style.padding
    if not shown:
        draw.text((margin, top + style.row / 2), "no class", _PANEL_TEXT, style.font, anchor="lm")
    names_width = min(
        0.45 * canvas.width, max((style.font.getlength(_one_line(name)) for _, name, _ in shown), default=0.0)
    )
    number_width = style.font.getlength("100.0 %")
    bar_left = margin + names_width + margin
    bar_right = max(bar_left + 1, canvas.width - 2 * margin - number_width)
    for row, (class_id, name, score) in enumerate(shown):
        middle = top + (row + 0.5) * style.row
        half = style.text * 0.3
        draw.text((margin, middle), style.fit(name, names_width + 1), _PANEL_TEXT, style.font, anchor="lm")
        draw.rounded_rectangle((bar_left, middle - half, bar_right, middle + half), half, _PANEL_FAINT)
        length = (bar_right - bar_left) * min(1.0, max(0.0, score))
        if length >= 2 * half:
            draw.rounded_rectangle(
                (bar_left, middle - half, bar_left + length, middle + half), half, colour_of_class(class_id)
            )
        elif length > 0:
            # A bar shorter than its round ends is a dot as wide as it is high.
            draw.ellipse(
                (bar_left, middle - half, bar_left + 2 * half, middle + half), colour_of_class(class_id)
            )
        draw.text(
            (canvas.width - margin, middle),
            score_text(score),
            _PANEL_TEXT,
            style.font,
            anchor="rm",
        )
    return canvas


def draw_detections(
    image: Image.Image,
    boxes: npt.NDArray[np.floating],
    class_ids: npt.NDArray[np.integer],
    labels: Sequence[str],
    scores: npt.NDArray[np.floating],
    keypoints: Sequence[npt.NDArray[np.floating]] = (),
) -> Image.Image:
    """Frames each object and names it.

    Args:
        image: RGB, upright.
        boxes: float [D, 4], x_min, y_min, x_max, y_max in the image's pixels.
        class_ids: int [D].
        labels: D names.
        scores: float [D], in [0, 1], descending.
        keypoints: Of each object float [K, 2], x and y in the image's pixels; empty where there are none.
    """
    enlarged = _enlarge(image)
    scale = enlarged.width / image.width
    boxes = boxes * scale
    canvas = enlarged.copy() if enlarged is image else enlarged
    style = _Style.of(canvas)
    draw = ImageDraw.Draw(canvas)
    order = range(len(labels))
    # The surest last, so that nothing lies over it.
    for index in reversed(order):
        colour = colour_of_class(int(class_ids[index]))
        _draw_box(draw, boxes[index].tolist(), colour, style.line)
        for x, y in keypoints[index] * scale if keypoints else ():
            draw.circle((x, y), 1.5 * style.line, colour, text_colour_on(colour))
    taken: list[Rectangle] = []
    for index in order:
        text = style.fit(f"{labels[index]} {scores[index]:.2f}", canvas.width - 2 * style.padding)
        width = style.font.getlength(text) + 2 * style.padding
        place = _place_label(boxes[index].tolist(), width, style.row, canvas.size, taken)
        taken.append(place)
        colour = colour_of_class(int(class_ids[index]))
        draw.rounded_rectangle(place, style.padding, colour)
        centre = (place[0] + width / 2, (place[1] + place[3]) / 2)
        draw.text(centre, text, text_colour_on(colour), style.font, anchor="mm")
    return canvas


def draw_masks(
    image: Image.Image, masks: Iterable[npt.NDArray[np.bool_]], class_ids: npt.NDArray[np.integer]
) -> Image.Image:
    """Tints the pixels that show each object.

    Args:
        image: RGB, upright.
        masks: D of bool [h, w], the surest first, of any size: each is scaled to the image. A pixel of several
            belongs to the surest.
        class_ids: int [D].
    """
    coloured = image.copy()
    painted = np.zeros((image.height, image.width), np.bool_)
    for mask, class_id in zip(masks, class_ids, strict=True):
        shown = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST)) & ~painted
        painted |= shown
        coloured.paste(colour_of_class(int(class_id)), mask=Image.fromarray(shown))
    # Where nothing is painted both are the image, and so is their blend.
    return Image.blend(image, coloured, _MASK_OPACITY)


def draw_segmentation(
    image: Image.Image,
    class_map: npt.NDArray[np.integer],
    classes: Sequence[tuple[int, str, float]],
    first_coloured: int = 0,
) -> Image.Image:
    """Tints the pixels of each class, outlines them, and sets a legend of the largest below the image.

    Args:
        image: RGB, upright.
        class_map: uint8, uint16 or int32 [h, w] of any size: it is scaled to the image.
        classes: Id, name and share of the pixels in [0, 1] of the classes to paint, largest first.
        first_coloured: The class that has the palette's first colour; none below it is painted.
    """
    image = _enlarge(image)
    style = _Style.of(image)
    scaled = np.asarray(Image.fromarray(class_map).resize(image.size, Image.Resampling.NEAREST))
    painted = np.isin(scaled, [class_id for class_id, _, _ in classes])
    # Class 0 of this map is "nothing", so that one unsigned map says all.
    full = np.where(painted, scaled.astype(np.uint32) + 1, 0)
    unpainted = np.zeros((1 + first_coloured, 3), np.uint8)
    table = np.concatenate((unpainted, colour_table(int(full.max(initial=0)) - first_coloured)))
    colours = Image.fromarray(table[full])
    mask = Image.fromarray(np.where(full > 0, np.uint8(255), np.uint8(0)))
    tinted = Image.composite(Image.blend(image, colours, _MASK_OPACITY), image, mask)
    tinted.paste(colours, mask=_outline(full, mask, style.line))
    legend = [
        (colour_of_class(class_id - first_coloured), f"{name} {_percent(share)}")
        for class_id, name, share in classes[:_MOST_LEGEND_ENTRIES]
    ]
    return _with_legend(tinted, legend, style)


def draw_heatmap(image: Image.Image, heatmap: npt.NDArray[np.uint8], name: str) -> Image.Image:
    """Lays the colours of a heatmap over the image in dim grey, the more opaque the hotter; name and scale below it.

    Args:
        image: RGB, upright.
        heatmap: uint8 [h, w] of any size: it is scaled to the image.
        name: What it is the heatmap of, or "".
    """
    image = _enlarge(image)
    style = _Style.of(image)
    levels = Image.fromarray(heatmap).resize(image.size, Image.Resampling.BICUBIC)
    table = heat_table()
    colours = Image.fromarray(table[np.asarray(levels)])
    dim = image.convert("L").point([round(level * _DIMMED) for level in range(256)]).convert("RGB")
    opacity = levels.point([round(level * _HEAT_OPACITY) for level in range(256)])
    canvas, draw, top = _with_panel(Image.composite(colours, dim, opacity), style, rows=1)
    margin = 2 * style.padding
    width, height = round(canvas.width * 0.3), round(style.text * 0.6)
    ramp = np.broadcast_to(table[np.linspace(0, 255, width).astype(np.intp)], (height, width, 3))
    left = canvas.width - margin - width
    canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), (left, round(top + (style.row - height) / 2)))
    text = style.fit(name, left - 2 * margin)
    draw.text((margin, top + style.row / 2), text, _PANEL_TEXT, style.font, anchor="lm")
    return canvas


def score_text(score: float) -> str:
    """A score in [0, 1] as people read it: "12.3 %"."""
    return f"{100 * score:.1f} %"


def _one_line(text: str) -> str:
    """As much of a text as a picture may have room for."""
    return " ".join(text[:_MOST_CHARACTERS].split())


def _enlarge(image: Image.Image) -> Image.Image:
    """The image, by a whole number larger where it is too small for text on it."""
    longest = max(image.size)
    if longest >= _SMALLEST_PICTURE:
        return image
    factor = -(-_SMALLEST_PICTURE // longest)
    smooth = longest >= _SMALLEST_PICTURE // 4
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return image.resize((image.width * factor, image.height * factor), resample)


def _with_panel(image: Image.Image, style: _Style, rows: int) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """A canvas with the image and so many rows below it, and the y of the first row."""
    canvas = Image.new(
        "RGB", (image.width, image.height + rows * style.row + 2 * style.padding), _PANEL_COLOUR
    )
    canvas.paste(image, (0, 0))
    return canvas, ImageDraw.Draw(canvas), image.height + style.padding


def _with_legend(image: Image.Image, entries: Sequence[tuple[Colour, str]], style: _Style) -> Image.Image:
    """The image with coloured squares and names below it, as many in a row as there is room for."""
    if not entries:
        return image
    margin = 2 * style.padding
    square = round(style.text * 0.8)
    gap = round(1.5 * style.padding)
    widest = image.width - 2 * margin - square - gap
    x, row = float(margin), 0
    places: list[tuple[float, int, Colour, str]] = []
    for colour, full_text in entries:
        text = style.fit(full_text, widest)
        width = square + gap + style.font.getlength(text)
        if x > margin and x + width > image.width - margin:
            x, row = float(margin), row + 1
        places.append((x, row, colour, text))
        x += width + 3 * margin
    canvas, draw, top = _with_panel(image, style, rows=row + 1)
    for left, line, colour, text in places:
        middle = top + (line + 0.5) * style.row
        box = (left, middle - square / 2, left + square, middle + square / 2)
        draw.rounded_rectangle(box, max(2, square // 5), colour)
        draw.text((left + square + gap, middle), text, _PANEL_TEXT, style.font, anchor="lm")
    return canvas


def _draw_box(draw: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, line: int) -> None:
    """A frame of one colour between two thin dark ones, so that it is seen on any background."""
    x_min, y_min, x_max, y_max = (round(value) for value in box)
    x_max, y_max = max(x_min, x_max - 1), max(y_min, y_max - 1)
    edge = max(1, line // 3)
    draw.rectangle(
        (x_min - edge, y_min - edge, x_max + edge, y_max + edge), outline=(0, 0, 0), width=line + 2 * edge
    )
    draw.rectangle((x_min, y_min, x_max, y_max), outline=colour, width=line)


def _place_label(
    box: Sequence[float], width: float, height: float, size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Where a box's label goes: above it, inside its top, below it or inside its bottom.

    The first of these that covers no other label, else the first; always inside the picture.
    """
    x_min, y_min, _, y_max = box
    left = max(0.0, min(x_min, size[0] - width))
    candidates: list[Rectangle] = []
    for wanted in (y_min - height, y_min, y_max, y_max - height):
        top = max(0.0, min(wanted, size[1] - height))
        candidates.append((left, top, left + width, top + height))
    for place in candidates:
        if not any(_overlap(place, other) for other in taken):
            return place
    return candidates[0]


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _outline(classes: npt.NDArray[np.uint32], mask: Image.Image, line: int) -> Image.Image:
    """The painted pixels within `line` of another class, as a mask of 0 and 255."""
    edges = np.zeros(classes.shape, dtype=np.uint8)
    below = classes[1:] != classes[:-1]
    beside = classes[:, 1:] != classes[:, :-1]
    edges[1:][below] = 255
    edges[:-1][below] = 255
    edges[:, 1:][beside] = 255
    edges[:, :-1][beside] = 255
    grown = Image.fromarray(edges)
    if line >= 2:
        grown = grown.filter(ImageFilter.MaxFilter(2 * (line // 2) + 1))
    return Image.fromarray(np.minimum(np.asarray(grown), np.asarray(mask)))


def _percent(share: float) -> str:
    return "<1 %" if 0 < share < 0.01 else f"{share * 100:.0f} %"
