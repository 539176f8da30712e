"""The foreign file itself in ONNX Runtime, which is what its bundle must agree with."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from retinue_export import parity
from retinue_export.adoption.heads import Head
from retinue_export.adoption.reading import Foreign
from retinue_export.adoption.wrapping import Pixels
from retinue_export.errors import ExportError
from retinue_export.parity import Outputs, Runner
from retinue_server.runtime.session import explain
from retinue_server.vision.spec import InputSpec

_MOST_IMAGES_AT_ONCE = 1024
_MOST_LEVELS_AT_ONCE = 2**27
"""Numbers: 512 MB as float32, to which comes what the graph computes of them."""


class Original:
    """A foreign file that runs, image by image, or by as many as it was exported for.

    Args:
        foreign: the file.
        pixels: what it wants to be fed with.

    Raises:
        ExportError: ONNX Runtime cannot load it, or what it takes would fill the memory.
    """

    def __init__(self, foreign: Foreign, pixels: Pixels) -> None:
        _check_sizes(foreign, pixels.spec)
        self._foreign = foreign
        self._pixels = pixels
        try:
            self._session = parity.session(foreign.model.SerializeToString())
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise ExportError(f"ONNX Runtime cannot load {foreign.path}: {explain(error)}.") from error

    def answers(self, images: NDArray[np.uint8]) -> Outputs:
        """The file's own outputs that have a row an image, by their names.

        Args:
            images: uint8 [N,H,W,C].

        Raises:
            ExportError: it cannot be run on them.
        """
        step = self._foreign.batch or 1
        parts = [self._run(images[start : start + step]) for start in range(0, len(images), step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def runner(self, head: Head) -> Runner:
        """What the bundle must answer; an image that was seen before is not run again.

        Raises, when it runs:
            ExportError: the file answers with what is not a number.
        """
        seen: dict[bytes, Outputs] = {}

        def run(images: NDArray[np.uint8]) -> Outputs:
            keys = [hashlib.sha256(image).digest() for image in images]
            for key, image in zip(keys, images, strict=True):
                if key not in seen:
                    seen[key] = head.reference(self._numbers(self.answers(image[np.newaxis])))
            names = seen[keys[0]]
            return {name: np.concatenate([seen[key][name] for key in keys]) for name in names}

        return run

    def _run(self, images: NDArray[np.uint8]) -> Outputs:
        foreign = self._foreign
        size = foreign.batch or len(images)
        filled = images[np.arange(size) % len(images)]
        pixels = self._pixels.prepare(filled, foreign.channels_first)
        kind = helper.tensor_dtype_to_np_dtype(foreign.image.kind)
        fed: dict[str, NDArray[np.generic]] = {foreign.image.name: pixels.astype(kind)}
        for mask in foreign.masks:
            assert mask.shape is not None
            spec = self._pixels.spec
            sides = [told or own for told, own in zip(mask.shape[1:], (spec.height, spec.width), strict=True)]
            fed[mask.name] = np.ones((size, *sides), helper.tensor_dtype_to_np_dtype(mask.kind))
        names = [output.name for output in foreign.outputs]
        try:
            answers = self._session.run(names, fed)
        except Exception as error:  # likewise
            raise ExportError(
                f"{foreign.path} cannot be run on {self._described(pixels)}: {explain(error)}."
            ) from error
        return {
            name: answer[: len(images)]
            for name, answer in zip(names, answers, strict=True)
            if isinstance(answer, np.ndarray) and answer.ndim and len(answer) == size
        }

    def _described(self, pixels: NDArray[np.float32]) -> str:
        return f"float [{','.join(map(str, pixels.shape))}]"

    def _numbers(self, answers: Outputs) -> Outputs:
        for name, answer in answers.items():
            if np.issubdtype(answer.dtype, np.floating) and np.isnan(answer).any():
                raise ExportError(
                    f"{self._foreign.path} answers a photo with NaN in `{name}`: check --mean and --std, or export it "
                    "again."
                )
        return answers


def _check_sizes(foreign: Foreign, spec: InputSpec) -> None:
    """Refuses what would fill the memory: the file's own batch, and those by which its bundle is compared with it."""
    levels = spec.height * spec.width * spec.channels
    batch = foreign.batch or 1
    if batch > _MOST_IMAGES_AT_ONCE or (batch > 1 and batch * levels > _MOST_LEVELS_AT_ONCE):
        raise ExportError(
            f"{foreign.path} takes {batch} images at once, which would fill the memory: export it with batch 1."
        )
    if max(parity.FEW_BATCH_SIZES) * levels > _MOST_LEVELS_AT_ONCE:
        raise ExportError(
            f"{foreign.path} takes images of {spec.height}x{spec.width} pixels, of which a few would fill the memory: "
            "export it for smaller ones."
        )
