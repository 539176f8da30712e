"""Batches of generated scenes in the shape the letterbox rule gives: any aspect ratio on a grey square."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from retinue_export.packaging import Normalisation
from retinue_export.scenes import Scene, SceneSource
from retinue_server.vision.spec import InputSpec, ResizeMode

SIDE = 128
"""Rows and columns of the scenes that are learned from.

Models take somewhat more, since the items of a photo that is not square become smaller when it is fitted in.
"""
PAD_VALUE = 114
"""Grey level around a scene that is not square."""
NORMALISATION = Normalisation((0.5,) * 3, (64 / 255,) * 3)
"""What `networks.blocks.normalised` does, for the graph."""
TEST_SCENES = 1000
PARITY_SCENES = 64


def spec(side: int) -> InputSpec:
    """Scenes of any size, fitted into a square of `side` rows and columns."""
    return InputSpec(
        height=side,
        width=side,
        grey=False,
        resize_mode=ResizeMode.LETTERBOX,
        resample=Image.Resampling.BILINEAR,
        pad_value=PAD_VALUE,
    )


def batches(
    source: SceneSource, size: int, side: int, seed: int
) -> Iterator[tuple[NDArray[np.uint8], list[Scene]]]:
    """Makes endless batches.

    Yields:
        images: uint8 [size,side,side,3];
        scenes: what is in them, boxes and maps in the frame of `images`.
    """
    random = np.random.default_rng(seed)
    while True:
        framed = [framed_scene(source, side, random) for _ in range(size)]
        yield np.stack([scene.image for scene in framed]), framed


def framed_scene(source: SceneSource, side: int, random: np.random.Generator) -> Scene:
    """Makes a scene, every second one softened, and every second one narrower or lower than the input, on grey."""
    height = width = side
    if random.random() < 0.5:
        short = int(random.integers(side * 5 // 8, side))
        height, width = (short, width) if random.random() < 0.5 else (height, short)
    scene = _softened(source.scene(height, width, random), random)
    if height == width:
        return scene
    top, left = (side - height) // 2, (side - width) // 2
    inside = (slice(top, top + height), slice(left, left + width))
    image = np.full((side, side, 3), PAD_VALUE, np.uint8)
    image[inside] = scene.image
    owner_map = np.zeros((side, side), np.uint8)
    owner_map[inside] = scene.owner_map
    offset = np.array([left, top, left, top], np.float32)
    return replace(scene, image=image, boxes=scene.boxes + offset, owner_map=owner_map)


def _softened(scene: Scene, random: np.random.Generator) -> Scene:
    """Blurs every second scene a little: larger pictures are softer once they were made small."""
    if random.random() < 0.5:
        return scene
    blurred = Image.fromarray(scene.image).filter(ImageFilter.BoxBlur(random.uniform(0, 0.8)))
    return replace(scene, image=np.asarray(blurred))
