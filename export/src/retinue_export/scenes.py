"""Generated scenes: clothing on photographic, cluttered backgrounds, with boxes and what each pixel shows.

A scene is a pure function of the split, its size and a random generator, so a seed names a test set. Scenes for
evaluation take their items from Fashion-MNIST's test split and their backgrounds from photos that training never sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retinue_export import backgrounds, fashion_mnist

SMALLEST_ITEM = 0.3
"""Length of the smallest item, as a part of the scene's shorter side."""
LARGEST_ITEM = 0.65
LEAST_VISIBLE = 0.8
"""An item is not placed where it would leave less than this part of another one, or of itself, in view."""
_ATTEMPTS = 4
_DARKEST = 6
"""Grey levels up to this are noise around an item."""
_RIM = 0.3
"""Pixels at the edge of an item that are darker than this part of its mean are blur."""

Uint8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: uint8 [H,W,3], RGB.
        boxes: float32 [K,4], x1,y1,x2,y2 in pixels of `image`, around the part of each item that is in view; x2 and
            y2 are exclusive.
        classes: int64 [K], index into `fashion_mnist.CLASSES`.
        items: int64 [K], index into the split's images.
        owner_map: uint8 [H,W], 0 for background, else 1 + the place in `items` of what the pixel shows.
    """

    image: Uint8
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    items: NDArray[np.int64]
    owner_map: Uint8

    @property
    def class_map(self) -> Uint8:
        """The class of each pixel: uint8 [H,W], 0 for background, else class + 1."""
        return np.array([0, *(self.classes + 1)], np.uint8)[self.owner_map]

    @property
    def item_map(self) -> NDArray[np.int32]:
        """The item of each pixel: int32 [H,W], 0 for background, else item + 1."""
        return np.array([0, *(self.items + 1)], np.int32)[self.owner_map]


@dataclass(slots=True)
class _Placed:
    """How many pixels of each item of a scene could be seen when it was placed, and how many still can."""

    areas: list[int] = field(default_factory=list)
    in_view: list[int] = field(default_factory=list)

    def may_hide(self, hidden: NDArray[np.int64]) -> bool:
        """Whether enough of each item stays in view.

        Args:
            hidden: int64 [K], how many pixels of each are to be hidden now.
        """
        return all(
            now - lost >= LEAST_VISIBLE * area
            for now, lost, area in zip(self.in_view, hidden.tolist(), self.areas, strict=True)
        )

    def add(self, area: int, hidden: NDArray[np.int64]) -> None:
        """Notes an item of `area` pixels, which hides `hidden` pixels of those before."""
        self.in_view = [now - lost for now, lost in zip(self.in_view, hidden.tolist(), strict=True)]
        self.areas.append(area)
        self.in_view.append(area)


@dataclass(slots=True)
class SceneSource:
    """Makes scenes of one split.

    Attributes:
        split: which items and which backgrounds.
        fewest_items: least number of items that are to be placed in a scene.
        most_items: largest number of them; the last ones may find no place.
        recolour: see `backgrounds.compose`.
        cutouts: uint8 [N,28,28,2], grey level and alpha of each item.
        labels: int64 [N], class of each item.
        photos: uint8 [h,w,3] each, RGB, in several scales.
    """

    split: fashion_mnist.Split
    fewest_items: int = 2
    most_items: int = 6
    recolour: bool = False
    cutouts: Uint8 = field(init=False)
    labels: NDArray[np.int64] = field(init=False)
    photos: list[Uint8] = field(init=False)

    def __post_init__(self) -> None:
        data = fashion_mnist.load(self.split)
        self.cutouts = np.stack([data.images, silhouettes(data.images)], axis=-1)
        self.labels = data.labels
        self.photos = backgrounds.load(self.split)

    def scene(self, height: int, width: int, random: np.random.Generator) -> Scene:
        """Makes the next scene that `random` leads to.

        Args:
            height: rows of the scene.
            width: its columns.
            random: where place, scale, brightness, tint and everything else come from.
        """
        image = backgrounds.compose(self.photos, height, width, random, recolour=self.recolour)
        owners = np.zeros((height, width), np.uint8)
        items: list[int] = []
        placed = _Placed()
        for _ in range(int(random.integers(self.fewest_items, self.most_items + 1))):
            picked = int(random.integers(len(self.labels)))
            if self._place(picked, image, owners, placed, random):
                items.append(picked)
        boxes = np.array([_box_of(owners == owner) for owner in range(1, len(items) + 1)], np.float32)
        shown = np.array(items, np.int64)
        return Scene(image, boxes.reshape(-1, 4), self.labels[shown], shown, owners)

    def scenes(self, height: int, width: int, seed: int) -> Iterator[Scene]:
        """Endless scenes of one size; the same seed gives the same scenes."""
        random = np.random.default_rng(seed)
        while True:
            yield self.scene(height, width, random)

    def _place(
        self, picked: int, image: Uint8, owners: Uint8, placed: _Placed, random: np.random.Generator
    ) -> bool:
        """Paints an item where it hides no other one too much, and notes it in `owners` and `placed`."""
        item = _resized(self.cutouts[picked], min(image.shape[:2]), random)
        opaque = item[..., 1] > 127
        # Of a small sandal no pixel may be more opaque than not.
        least = max(1, LEAST_VISIBLE * np.count_nonzero(opaque))
        for _ in range(_ATTEMPTS):
            window, part = _position(image.shape[:2], item.shape[:2], random)
            visible = opaque[part]
            own = int(np.count_nonzero(visible))
            hidden = np.bincount(owners[window][visible], minlength=len(placed.areas) + 1)[1:]
            if own >= least and placed.may_hide(hidden):
                _paint(image[window], item[part], random)
                placed.add(own, hidden)
                owners[window][visible] = len(placed.areas)
                return True
        return False


def silhouettes(images: Uint8) -> Uint8:
    """Finds which pixels belong to each item: the bright ones, and dark ones from which no straight way leads out.

    Bright is relative to the item, so that a dark one is found whole and a bright one loses its blurred rim.

    Args:
        images: uint8 [N,28,28], grey, black around the item.

    Returns:
        uint8 [N,28,28], 255 inside and 0 outside.
    """
    lit = images > _DARKEST
    mean = (images * lit).sum(axis=(1, 2)) / np.maximum(lit.sum(axis=(1, 2)), 1)
    some = images > np.maximum(_DARKEST, _RIM * mean)[:, np.newaxis, np.newaxis]
    inside = np.ones_like(some)
    for axis in (1, 2):
        inside &= np.logical_or.accumulate(some, axis=axis)
        inside &= np.flip(np.logical_or.accumulate(np.flip(some, axis), axis=axis), axis)
    return np.where(inside, 255, 0).astype(np.uint8)


def _resized(cutout: Uint8, scene_side: int, random: np.random.Generator) -> Uint8:
    """Scales an item at random, a little wider or narrower than it was, and mirrors every second one."""
    ratio = LARGEST_ITEM / SMALLEST_ITEM
    length = scene_side * SMALLEST_ITEM * ratio ** random.random()
    stretch = 1.06 ** random.uniform(-1, 1)
    size = (max(8, round(length * stretch)), max(8, round(length / stretch)))
    # Pillow resizes "LA" with premultiplied alpha, so that the black around an item does not darken its edge.
    item = np.asarray(Image.fromarray(cutout, "LA").resize(size, Image.Resampling.BICUBIC))
    return item[:, ::-1] if random.random() < 0.5 else item


def _position(
    scene: tuple[int, ...], item: tuple[int, ...], random: np.random.Generator
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where in the scene an item goes, up to an eighth of it beyond the edge, and which part of it is inside."""
    window, part = [], []
    for length, extent in zip(scene, item, strict=True):
        start = int(random.integers(-extent // 8, length - extent + extent // 8 + 1))
        window.append(slice(max(start, 0), min(start + extent, length)))
        part.append(slice(max(-start, 0), min(length - start, extent)))
    return (window[0], window[1]), (part[0], part[1])


def _paint(target: Uint8, item: Uint8, random: np.random.Generator) -> None:
    """Blends an item into the scene with a brightness and a tint of its own."""
    darkest = random.uniform(0, 40)
    brightest = random.uniform(0.6, 1.0) * random.uniform(0.8, 1.0, 3) * 255
    grey = np.arange(256)[:, np.newaxis]
    colour_of_level = (darkest * brightest / 255 + grey / 255 * (brightest * (1 - darkest / 255))).astype(
        np.uint16
    )
    alpha = item[..., 1:].astype(np.uint16)
    alpha += alpha >> 7  # 0 to 256, so that opaque is opaque
    target[...] = (target * (256 - alpha) + colour_of_level[item[..., 0]] * alpha) >> 8


def _box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
