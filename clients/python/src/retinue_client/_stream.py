"""Frames, such as those of a video, asked about one after the other while others are under way."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

import grpc

from retinue_client._calls import Call
from retinue_client._classification import Classification
from retinue_client._detections import Detections
from retinue_client._errors import ImageError
from retinue_client._frames import (
    DEFAULT_MAX_IN_FLIGHT,
    OF_ONE_FRAME,
    Frame,
    as_image_error,
    check_frames,
    stream_call,
)
from retinue_client._images import ImageSource
from retinue_client._job import Job
from retinue_client._models import Task
from retinue_client._options import ClassifyOptions, DetectOptions, SegmentOptions
from retinue_client._segmentation import Segmentation

ResultT = TypeVar("ResultT")


class Pending(Generic[ResultT]):
    """A question about one image whose answer is on its way.

    Args:
        job: The question.
        future: The call that answers it. None where the image could not be read, so that there is none.
        settle: Waits for the call and hands its answer to the job.
        cancel: Gives the answer up.
    """

    def __init__(
        self,
        job: Job[ResultT],
        future: "grpc.Future[Any] | None" = None,
        settle: Callable[[], object] = lambda: None,
        cancel: Callable[[], object] = lambda: None,
    ) -> None:
        self.cancel = cancel
        self._job, self._future, self._settle = job, future, settle

    def outcome(self) -> ResultT | ImageError:
        """Waits for the answer.

        Raises:
            RetinueError: The call has none.
        """
        self._settle()
        return self._job.outcomes()[0]

    def done(self) -> bool:
        """Whether there is nothing to wait for."""
        return self._future is None or self._future.done()

    def when_done(self, tell: Callable[[], None]) -> None:
        """Has `tell` be called, in any thread, as soon as there is nothing to wait for."""
        if self._future is None:
            tell()
        else:
            self._future.add_done_callback(lambda _: tell())


class Streams(ABC):
    """What asks about frames, of `Client`."""

    @overload
    def stream(
        self,
        question: Literal["classify"],
        frames: Iterable[ImageSource],
        *,
        max_in_flight: int = ...,
        live: bool = ...,
        **options: Unpack[ClassifyOptions],
    ) -> Generator[Frame[Classification], None, None]: ...

    @overload
    def stream(
        self,
        question: Literal["detect"],
        frames: Iterable[ImageSource],
        *,
        max_in_flight: int = ...,
        live: bool = ...,
        **options: Unpack[DetectOptions],
    ) -> Generator[Frame[Detections], None, None]: ...

    @overload
    def stream(
        self,
        question: Literal["segment"],
        frames: Iterable[ImageSource],
        *,
        max_in_flight: int = ...,
        live: bool = ...,
        **options: Unpack[SegmentOptions],
    ) -> Generator[Frame[Segmentation], None, None]: ...

    def stream(
        self,
        question: Task,
        frames: Iterable[ImageSource],
        *,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        live: bool = False,
        **options: Any,
    ) -> Generator[Frame[Any], None, None]:
        """Asks about frames as they come, and gives them back with their results, in order, as these come.

        At most `max_in_flight` frames are read ahead of the one that is given back, so that whoever takes their time
        over it stops the reading. Leaving the loop gives up what is under way.

        Args:
            question: "classify", "detect" or "segment".
            frames: The frames, in memory of their own: one is still needed when the next are read.
            max_in_flight: How many frames may be under way at once, at least 1.
            live: Whether frames come at a pace of their own, as those of a camera do. They are then read in another
                thread, and the newest takes the place of those that had to wait. The indices of those are missing
                from what is given back; the last frame is always answered.
            **options: As for `classify`, `detect` or `segment`.

        Raises:
            TypeError: The frames are none.
            ValueError: There is no such question, or max_in_flight is not at least 1.
            InvalidRequestError: An option cannot be sent.
            RetinueError: While it is iterated over: no frame can be answered, such as where the model is unknown. What
                concerns one frame alone, also that the server had no room or no time for it, is its outcome.
        """
        call = stream_call(question, max_in_flight, options)
        check_frames(frames, Iterable)
        answer = _answer_live if live else _answer
        return answer(lambda image: self._begin(call, image), frames, max_in_flight)

    @abstractmethod
    def _begin(self, call: Call[ResultT], image: ImageSource) -> Pending[ResultT]:
        """Asks about one image and does not wait for the answer."""


class _UnderWay(Generic[ResultT]):
    """A frame that was asked about."""

    def __init__(self, index: int, image: ImageSource, pending: Pending[ResultT]) -> None:
        self._index, self._image, self.pending = index, image, pending

    def frame(self) -> Frame[ResultT]:
        """Waits for what becomes of it."""
        outcome: ResultT | ImageError
        try:
            outcome = self.pending.outcome()
        except OF_ONE_FRAME as error:
            outcome = as_image_error(error, self._image)
        return Frame(self._index, self._image, outcome)


_Begin = Callable[[ImageSource], Pending[Any]]


def _answer(
    begin: _Begin, frames: Iterable[ImageSource], max_in_flight: int
) -> Generator[Frame[Any], None, None]:
    """Reads, asks and waits in the caller's thread."""
    under_way: deque[_UnderWay[Any]] = deque()
    numbered = enumerate(frames)
    failure: Exception | None = None
    try:
        while True:
            try:
                if (numbered_image := next(numbered, None)) is None:
                    break
                index, image = numbered_image
                under_way.append(_UnderWay(index, image, begin(image)))
            except Exception as error:  # raised below, when those before it are answered
                failure = error
                break
            while under_way and (len(under_way) >= max_in_flight or under_way[0].pending.done()):
                yield under_way.popleft().frame()
        while under_way:
            yield under_way.popleft().frame()
        if failure is not None:
            raise failure
    finally:
        for one in under_way:
            one.pending.cancel()


def _answer_live(
    begin: _Begin, frames: Iterable[ImageSource], max_in_flight: int
) -> Generator[Frame[Any], None, None]:
    """Asks about the newest frame whenever there is room, and gives an answer back as soon as it is there."""
    changed = threading.Condition()
    newest = _Newest(frames, changed)
    under_way: deque[_UnderWay[Any]] = deque()
    failure: Exception | None = None

    def tell() -> None:
        with changed:
            changed.notify()

    def has_changed() -> bool:
        if under_way and under_way[0].pending.done():
            return True
        return may_take() and newest.is_there()

    def may_take() -> bool:
        return failure is None and len(under_way) < max_in_flight

    def all_is_done() -> bool:
        return (failure is not None or newest.has_ended()) and not under_way

    try:
        while True:
            with changed:
                changed.wait_for(lambda: has_changed() or all_is_done())
                if all_is_done():
                    if failure is not None:
                        raise failure
                    newest.check()
                    return
                taken = newest.take() if may_take() else None
            if taken is not None:
                try:
                    one = _UnderWay(*taken, begin(taken[1]))
                except Exception as error:  # raised above, when those before it are answered
                    failure = error
                    newest.stop()
                    continue
                under_way.append(one)
                one.pending.when_done(tell)
            if under_way and under_way[0].pending.done():
                yield under_way.popleft().frame()
    finally:
        newest.stop()
        for one in under_way:
            one.pending.cancel()


class _Newest:
    """Reads frames in a thread of its own and keeps the newest. All but `stop` is called with the condition held.

    Args:
        frames: The frames.
        changed: Is notified of a new frame, and of the end.
    """

    def __init__(self, frames: Iterable[ImageSource], changed: threading.Condition) -> None:
        self._changed = changed
        self._newest: tuple[int, ImageSource] | None = None
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        # A camera may never give another frame, and no program should wait for that at its end.
        threading.Thread(target=self._read, args=(frames,), name="retinue-frames", daemon=True).start()

    def is_there(self) -> bool:
        """Whether there is a frame to take."""
        return self._newest is not None

    def has_ended(self) -> bool:
        """Whether there is none and none will come."""
        return self._ended and not self.is_there()

    def take(self) -> tuple[int, ImageSource] | None:
        """The newest frame and its index, if there is one that was not taken."""
        taken, self._newest = self._newest, None
        return taken

    def check(self) -> None:
        """Says, at the end, why there are no more.

        Raises:
            BaseException: What the frames raised.
        """
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Has no frame be read after the one that is being read."""
        with self._changed:
            self._stopped = True

    def _read(self, frames: Iterable[ImageSource]) -> None:
        error: BaseException | None = None
        try:
            for numbered in enumerate(frames):
                with self._changed:
                    if self._stopped:
                        return
                    self._newest = numbered
                    self._changed.notify()
        except BaseException as raised:  # for whoever takes the frames
            error = raised
        finally:
            with self._changed:
                self._error, self._ended = error, True
                self._changed.notify()
