"""Maps of features as a picture: one tile a channel, numbered."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from retinue_export.feature_maps import Layer

_SIDE = 112
"""Tiles of small maps are enlarged to about this, by a whole number."""
_LARGEST_SIDE = 224
_MOST_COLUMNS = 32
_TEXT = 12
_GAP = 6
_BACKGROUND, _INK = 24, 220


def draw(layer: Layer, maps: NDArray[np.float32], image: NDArray[np.uint8]) -> Image.Image:
    """Draws channels in grey, each from its least level, black, to its greatest, white; one that is level is black.

    Args:
        layer: what they are of, for the heading.
        maps: float32 [n,h,w], the first channels of the layer.
        image: uint8 [H,W,1 or 3], what the network was shown; it is the first tile.
    """
    width, height = _tile_size(*maps.shape[1:])
    columns = max(1, min(_MOST_COLUMNS, math.ceil(math.sqrt(1.5 * (len(maps) + 1)))))
    rows = math.ceil((len(maps) + 1) / columns)
    row_height, column_width = height + _TEXT + 2 * _GAP, width + _GAP
    top = _TEXT + 3 * _GAP
    canvas = Image.new("RGB", (columns * column_width + _GAP, top + rows * row_height), (_BACKGROUND,) * 3)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=_TEXT)
    shape = " x ".join(map(str, layer.shape))
    shown = "all channels" if len(maps) == layer.shape[0] else f"the first {len(maps)} channels"
    pen.text((_GAP, _GAP), f"{layer.name}  {layer.operator}  {shape}, {shown}", (_INK,) * 3, font)
    tiles = [(_picture(image).resize((width, height)), "input")]
    tiles += [(_tile(one, width, height), _label(number, one)) for number, one in enumerate(maps)]
    for place, (tile, label) in enumerate(tiles):
        x, y = _GAP + place % columns * column_width, top + place // columns * row_height
        canvas.paste(tile, (x, y))
        pen.text((x, y + height + _GAP // 2), label, (_INK,) * 3, font)
    return canvas


def _tile_size(rows: int, columns: int) -> tuple[int, int]:
    """Width and height: a whole multiple of a small map, or a large map made smaller."""
    longest = max(rows, columns)
    scale = _LARGEST_SIDE / longest if longest > _LARGEST_SIDE else max(1, round(_SIDE / longest))
    return max(1, round(columns * scale)), max(1, round(rows * scale))


def _tile(channel: NDArray[np.float32], width: int, height: int) -> Image.Image:
    least, greatest = float(channel.min()), float(channel.max())
    levels = np.zeros(channel.shape, np.uint8)
    if greatest > least:
        levels = np.rint((channel - least) * (255 / (greatest - least))).astype(np.uint8)
    smaller = width < channel.shape[1]
    return Image.fromarray(levels).resize(
        (width, height), Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    )


def _label(number: int, channel: NDArray[np.float32]) -> str:
    return f"{number}: {channel.min():.2g} to {channel.max():.2g}"


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
