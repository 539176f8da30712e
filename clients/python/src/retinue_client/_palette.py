"""Colours: one for each class id, so that a class looks the same in every picture, and one for each level of heat."""

import colorsys

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]

# Picked by eye: neighbours in the list differ in hue and lightness, and all stand out on photos.
_FIRST_COLOURS: tuple[Colour, ...] = (
    (255, 82, 82),
    (41, 182, 246),
    (255, 202, 40),
    (102, 187, 106),
    (171, 71, 188),
    (255, 138, 50),
    (38, 198, 178),
    (236, 64, 142),
    (92, 107, 240),
    (198, 220, 57),
    (161, 110, 82),
    (0, 145, 234),
    (136, 14, 79),
    (0, 150, 110),
    (206, 147, 236),
    (216, 67, 21),
)
_INFERNO: tuple[Colour, ...] = (
    (0, 0, 4),
    (27, 12, 66),
    (75, 12, 107),
    (120, 28, 109),
    (165, 44, 96),
    (207, 68, 70),
    (237, 105, 37),
    (251, 154, 6),
    (247, 208, 60),
    (252, 255, 164),
)
# Consecutive multiples of the golden ratio lie far apart on the circle of hues.
_GOLDEN_RATIO = 0.618033988749895


def colour_of_class(class_id: int) -> Colour:
    """The colour of a class, as RGB in 0...255."""
    if 0 <= class_id < len(_FIRST_COLOURS):
        return _FIRST_COLOURS[class_id]
    hue = class_id * _GOLDEN_RATIO % 1.0
    lightness = (0.62, 0.48, 0.70)[class_id % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.75)
    return (round(red * 255), round(green * 255), round(blue * 255))


def colour_table(size: int) -> npt.NDArray[np.uint8]:
    """The colours of the classes 0...size-1: uint8 [size, 3], RGB."""
    return np.array([colour_of_class(class_id) for class_id in range(size)], dtype=np.uint8).reshape(size, 3)


def heat_table() -> npt.NDArray[np.uint8]:
    """The colours of the levels 0...255, from black over red to pale yellow: uint8 [256, 3], RGB.

    Equal steps of level look equally large, and lightness rises all the way.

    Source: the colour map "inferno" of S. van der Walt and N. Smith, https://bids.github.io/colormap, at ten levels.
    """
    levels = np.linspace(0, 255, len(_INFERNO))
    channels = np.array(_INFERNO, dtype=np.float64).T
    table = np.stack([np.interp(np.arange(256), levels, channel) for channel in channels], axis=1)
    rounded: npt.NDArray[np.uint8] = np.rint(table).astype(np.uint8)
    return rounded


def text_colour_on(colour: Colour) -> Colour:
    """Black or white, whichever has the higher contrast on a colour.

    Source: relative luminance and contrast ratio, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
    """
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (value / 255 for value in colour)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    contrast_with_black = (luminance + 0.05) / 0.05
    contrast_with_white = 1.05 / (luminance + 0.05)
    return (0, 0, 0) if contrast_with_black >= contrast_with_white else (255, 255, 255)
