"""What a model's graph takes beside images, made for each batch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from retinue.v1 import manifest_pb2 as pb

from retinue_server.errors import RetinueError
from retinue_server.results import DetectOptions, TensorOptions, Work
from retinue_server.runtime import contract
from retinue_server.vision import regions
from retinue_server.vision.resize import Frame

Arrays = Mapping[str, npt.NDArray[Any]]


class Feeds:
    """Makes the inputs of a graph that are no images.

    Args:
        manifest: Says which there are.
    """

    def __init__(self, manifest: pb.ModelManifest) -> None:
        self._detect = manifest.detect
        self._whole_input = (0, 0, manifest.input.width, manifest.input.height)

    def make(self, asked: Sequence[Work], frames: Iterable[Frame | RetinueError], batch_size: int) -> Arrays:
        """Makes them for a batch whose images may run together.

        Args:
            asked: What came with each image.
            frames: How each image lies in the input, or why it could not be read.
            batch_size: How many rows the batch has; what lies in those past the images is of no interest.
        """
        made: dict[str, npt.NDArray[Any]] = {}
        if self._detect.adjustable_thresholds:
            wanted = [one.options for one in asked if isinstance(one.options, DetectOptions | TensorOptions)]
            made[contract.SCORE_THRESHOLD] = np.ones(batch_size, np.float32)
            made[contract.SCORE_THRESHOLD][: len(wanted)] = [one.score_threshold for one in wanted]
            made[contract.IOU_THRESHOLD] = np.array([wanted[0].iou_threshold], np.float32)
        if rows := self._detect.max_regions:
            made[contract.REGIONS] = np.zeros((batch_size, rows, 4), np.float32)
            for row, one, frame in zip(made[contract.REGIONS][: len(asked)], asked, frames, strict=True):
                if one.regions is not None and isinstance(frame, Frame):
                    row[: len(one.regions)] = regions.to_input(one.regions, frame)
        return made

    def typical(self, images: int) -> Arrays:
        """Makes them for images of which nobody asks for anything special; regions are the whole input."""
        made: dict[str, npt.NDArray[Any]] = {}
        if self._detect.adjustable_thresholds:
            threshold = self._detect.default_score_threshold
            made[contract.SCORE_THRESHOLD] = np.full(images, threshold, np.float32)
            made[contract.IOU_THRESHOLD] = np.array([self._detect.nms_iou_threshold], np.float32)
        if rows := self._detect.max_regions:
            made[contract.REGIONS] = np.tile(np.array(self._whole_input, np.float32), (images, rows, 1))
        return made
