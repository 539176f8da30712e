"""What a stream of frames takes and gives, the same for both clients."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from retinue_client._calls import Call, classify_call, detect_call, segment_call
from retinue_client._errors import DeadlineExceededError, ImageError, OverloadedError, RetinueError
from retinue_client._images import ImageSource, describe, is_image_source
from retinue_client._models import Task

ResultT = TypeVar("ResultT")

DEFAULT_MAX_IN_FLIGHT = 4

# What one frame meets and the next may not: each is a request of its own.
OF_ONE_FRAME = (OverloadedError, DeadlineExceededError)

_CALLS: dict[Task, Any] = {"classify": classify_call, "detect": detect_call, "segment": segment_call}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Frame(Generic[ResultT]):
    """One frame of a stream, and what became of it.

    Attributes:
        index: Which frame it is, counted from 0. Those of a live stream that were skipped are counted, too.
        image: The frame as it was given.
        outcome: Its result, or the error in its place.
    """

    index: int
    image: ImageSource
    outcome: ResultT | ImageError

    def __repr__(self) -> str:
        return f"<Frame {self.index}: {self.outcome!r}>"


def stream_call(question: Task, max_in_flight: int, options: dict[str, Any]) -> Call[Any]:
    """The question that is asked about each frame.

    Raises:
        InvalidRequestError: An option is of the wrong type or too large a number to be sent.
        TypeError: There is no such option.
        ValueError: There is no such question, or max_in_flight is not at least 1.
    """
    if question not in _CALLS:
        raise ValueError(f"A stream asks {', '.join(map(repr, _CALLS))}, not {question!r}.")
    if max_in_flight < 1:
        raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}.")
    call: Call[Any] = _CALLS[question](**options)
    return call


def check_frames(frames: object, kinds: type | tuple[type, ...]) -> None:
    """Refuses what is no collection of frames.

    Raises:
        TypeError: It is a single image, or not to be iterated over.
    """
    # An array of four dimensions is a video: [frames, height, width, channels].
    if is_image_source(frames) and not (isinstance(frames, np.ndarray) and frames.ndim == 4):
        raise TypeError(
            f"{type(frames).__name__} is one image, not frames: ask about it without a stream. A video file has to be "
            "decoded first, with PyAV or OpenCV for example."
        )
    if not isinstance(frames, kinds):
        raise TypeError(f"{type(frames).__name__} is no iterable of frames.")


def as_image_error(error: RetinueError, image: ImageSource) -> ImageError:
    """The failure of a frame's request as the outcome of the frame."""
    made = ImageError(
        error.message,
        source=describe(image),
        code=error.code,
        reason=error.reason,
        retry_after_seconds=error.retry_after_seconds,
    )
    made.__cause__ = error
    return made
