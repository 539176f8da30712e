"""What a front-end does with images itself: it decodes them into slots, and makes results of what comes back in them.

Both are backends of `batching`, on threads of the front-end's own: so callers take turns there as they do in front of
the network, priorities hold, and who leaves costs nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retinue_server.batching.tickets import Stop
from retinue_server.errors import EngineError, RetinueError
from retinue_server.feeds import Feeds
from retinue_server.pipeline import failure_of
from retinue_server.postprocess import Postprocess
from retinue_server.results import Answer, Options, Work
from retinue_server.runtime import contract
from retinue_server.vision.readers import InputPixels, RawPixels
from retinue_server.vision.resize import Frame, prepare
from retinue_server.vision.spec import InputSpec
from retinue_server.workers.frames import Ran
from retinue_server.workers.slots import Lease, Slots, in_use

_MOST_AT_ONCE = 16


@dataclass(slots=True)
class Undecoded:
    """An image to decode.

    Attributes:
        work: The image, and what is wanted of it.
        slot: Where it goes.
        lease: Of the request.
    """

    work: Work
    slot: int
    lease: Lease


@dataclass(slots=True)
class Decoded:
    """An image that is in its slot.

    Attributes:
        frame: How it lies in the network's input.
        seconds: What that took.
    """

    frame: Frame
    seconds: float


@dataclass(slots=True)
class Unfinished:
    """An image that has run.

    Attributes:
        slot: Where its outputs are.
        lease: Of the request.
        decoded: How it was decoded.
        options: What is wanted of it.
        ran: How it ran.
    """

    slot: int
    lease: Lease
    decoded: Decoded
    options: Options
    ran: Ran


class Decoding:
    """Decodes images into their slots.

    Args:
        slots: Of the model.
        spec: What images its network takes.
        feeds: Makes what it takes beside images.
        name: Of the model, for the log.
    """

    max_batch_size = _MOST_AT_ONCE

    def __init__(self, slots: Slots, spec: InputSpec, feeds: Feeds, name: str) -> None:
        self._arrays = slots.arrays
        self._images: npt.NDArray[np.uint8] = slots.arrays[contract.IMAGES]
        self._image_bytes = int(self._images[0].nbytes)
        self._has_feeds = len(slots.layout.inputs) > 1
        self._spec = spec
        self._feeds = feeds
        self._name = name

    def run(
        self, items: Sequence[Undecoded], stop: Stop, *, alone: bool = False
    ) -> list[Decoded | RetinueError]:
        """Decodes each; one that cannot be read gets its error and costs the others nothing."""
        with in_use(item.lease for item in items) as held:
            return [self._decode(item) if item.lease in held else _left() for item in items]

    def close(self) -> None:
        """Holds nothing."""

    def quick_bytes(self, work: Work) -> int | None:
        """The bytes of an image that only has to be copied; None where there is more to do."""
        image = work.image
        if isinstance(image, InputPixels):
            return self._image_bytes
        if isinstance(image, RawPixels) and len(image.data) == self._image_bytes:
            return self._image_bytes
        return None

    def _decode(self, item: Undecoded) -> Decoded | RetinueError:
        began = time.perf_counter()
        try:
            frame = prepare(item.work.image, self._spec, self._images[item.slot])
            if self._has_feeds:
                for name, values in self._feeds.make([item.work], [frame], 1).items():
                    if name in self._arrays:
                        self._arrays[name][item.slot] = values[0]
        except Exception as error:
            return failure_of(error, self._name)
        return Decoded(frame, time.perf_counter() - began)


class Finishing:
    """Makes each caller's result.

    Args:
        slots: Of the model.
        postprocess: Makes a result of a row of its network's outputs.
        name: Of the model, for the log.
    """

    max_batch_size = _MOST_AT_ONCE

    def __init__(self, slots: Slots, postprocess: Postprocess, name: str) -> None:
        self._arrays = slots.arrays
        self._outputs = [row.name for row in slots.layout.outputs]
        self._postprocess = postprocess
        self._name = name

    def run(
        self, items: Sequence[Unfinished], stop: Stop, *, alone: bool = False
    ) -> list[Answer | RetinueError]:
        """Makes the result of each; one that fails costs the others nothing."""
        with in_use(item.lease for item in items) as held:
            began = time.perf_counter()
            extra = frozenset().union(*(item.options.extra_outputs for item in items))
            numbers = [item.slot for item in items]
            # Copied, since results may be parts of them and live longer than the lease.
            outputs = {name: self._arrays[name][numbers] for name in (*self._outputs, *extra)}
            result_of_row = self._postprocess(outputs)
            answers: list[Answer | RetinueError] = []
            for row, item in enumerate(items):
                if item.lease not in held:
                    answers.append(_left())
                    continue
                try:
                    result = result_of_row(row, item.decoded.frame, item.options)
                except Exception as error:
                    answers.append(failure_of(error, self._name))
                    began = time.perf_counter()
                    continue
                done = time.perf_counter()
                ran = item.ran
                answers.append(
                    Answer(result, item.decoded.seconds, ran.inference_seconds, done - began, ran.batch_size)
                )
                began = done
            return answers

    def close(self) -> None:
        """Holds nothing."""


def _left() -> RetinueError:
    return EngineError("nobody waits for the image any more.")
