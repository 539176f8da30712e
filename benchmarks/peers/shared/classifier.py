"""The work that each of these servers does: from a JPEG to the five most probable classes.

It imports nothing of Retinue, since it runs in the servers' own environments. It resizes as Retinue does: by
torchvision's rule, but only what the centre crop keeps.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

CORES = len(os.sched_getaffinity(0))
_TOP = 5


class Classifier:
    """The bundle in the folder that the environment variable BUNDLE names, in a session of one thread."""

    def __init__(self) -> None:
        folder = Path(os.environ["BUNDLE"])
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self._labels: list[str] = manifest["labels"]
        self._side: int = manifest["input"]["height"]
        self._shorter_side: int = manifest["input"]["resize"]["shorter_side"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )

    def prepare(self, jpeg: bytes) -> npt.NDArray[np.uint8]:
        """Decodes and resizes: uint8 [H,W,3]."""
        with Image.open(io.BytesIO(jpeg)) as image:
            longer = int(self._shorter_side * max(image.size) / min(image.size))
            left, right = self._kept(
                image.width, longer if image.width > image.height else self._shorter_side
            )
            top, bottom = self._kept(
                image.height, longer if image.width < image.height else self._shorter_side
            )
            small = image.convert("RGB").resize(
                (self._side, self._side), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
            )
        return np.asarray(small)

    def run(self, images: npt.NDArray[np.uint8]) -> list[list[dict[str, Any]]]:
        """Classifies images, uint8 [N,H,W,3]: of each the most probable classes, the first the most."""
        (probabilities,) = self._session.run(["probabilities"], {"images": images})
        return [self._top(row) for row in probabilities]

    def classify(self, jpeg: bytes) -> list[dict[str, Any]]:
        """Does all of it for one image."""
        return self.run(self.prepare(jpeg)[None])[0]

    def _kept(self, pixels: int, resized: int) -> tuple[float, float]:
        """Where the crop begins and ends along one side of the image, which torchvision would resize first."""
        first = round((resized - self._side) / 2)
        return first / resized * pixels, (first + self._side) / resized * pixels

    def _top(self, row: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        best = np.argpartition(row, -_TOP)[-_TOP:]
        best = best[np.argsort(-row[best])]
        return [{"label": self._labels[index], "score": float(row[index])} for index in best]
