"""`Client.stream` for asyncio."""

import asyncio
import functools
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any, Literal, TypeAlias, TypeVar, Unpack, overload

from retinue_client._calls import Call
from retinue_client._classification import Classification
from retinue_client._deadline import bounded
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
from retinue_client._models import Task
from retinue_client._options import ClassifyOptions, DetectOptions, SegmentOptions
from retinue_client._segmentation import Segmentation

ResultT = TypeVar("ResultT")
Frames: TypeAlias = AsyncIterable[ImageSource] | Iterable[ImageSource]
# Each frame with its index comes in a list, out of which it is taken at the moment when it is sent: of a live stream it
# is the newest until then.
_Numbered: TypeAlias = AsyncGenerator[list[tuple[int, ImageSource]], None]

_END = object()


class AsyncStreams(ABC):
    """What asks about frames, of `AsyncClient`."""

    @overload
    def stream(
        self,
        question: Literal["classify"],
        frames: Frames,
        *,
        max_in_flight: int = ...,
        live: bool = ...,
        **options: Unpack[ClassifyOptions],
    ) -> AsyncGenerator[Frame[Classification], None]: ...

    @overload
    def stream(
        self,
        question: Literal["detect"],
        frames: Frames,
        *,
        max_in_flight: int = ...,
        live: bool = ...,
        **options: Unpack[DetectOptions],
    ) -> AsyncGenerator[Frame[Detections], None]: ...

    @overload
    def stream(
        self,
        question: Literal["segment"],
        frames: Frames,
        *,
        max_in_flight: int = ...,
        live: bool = ...,
        **options: Unpack[SegmentOptions],
    ) -> AsyncGenerator[Frame[Segmentation], None]: ...

    def stream(
        self,
        question: Task,
        frames: Frames,
        *,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        live: bool = False,
        **options: Any,
    ) -> AsyncGenerator[Frame[Any], None]:
        """`Client.stream`, for `async for`.

        The frames may be an asynchronous iterable, too. A plain one is read in another thread, so that a camera that is
        waited for holds nothing up. What is under way is given up a moment after the loop was left; within
        `contextlib.aclosing` it is at the end of the block.

        Raises:
            TypeError: The frames are none.
            ValueError: There is no such question, or max_in_flight is not at least 1.
            InvalidRequestError: An option cannot be sent.
            RetinueError: While it is iterated over: no frame can be answered.
        """
        call = stream_call(question, max_in_flight, options)
        check_frames(frames, (AsyncIterable, Iterable))

        async def ask(image: ImageSource) -> Any:
            # Where the code around has no time left, nothing is sent, and no other frame has any either.
            bounded(None)
            try:
                outcomes: Any = await self._ask(call, [image])
            except OF_ONE_FRAME as error:
                return as_image_error(error, image)
            return outcomes[0]

        numbered = _numbered(frames)
        return _answer(ask, _newest(numbered) if live else numbered, max_in_flight)

    @abstractmethod
    async def _ask(
        self, call: Call[ResultT], images: ImageSource | Iterable[ImageSource]
    ) -> ResultT | list[ResultT | ImageError]:
        """Asks about one image or several."""


async def _answer(
    ask: Callable[[ImageSource], Coroutine[Any, Any, Any]], frames: _Numbered, max_in_flight: int
) -> AsyncGenerator[Frame[Any], None]:
    under_way: deque[tuple[int, ImageSource, asyncio.Task[Any]]] = deque()
    reading: asyncio.Task[list[tuple[int, ImageSource]] | None] | None = None
    failure: Exception | None = None
    ended = False
    try:
        while True:
            if reading is None and not ended and len(under_way) < max_in_flight:
                reading = asyncio.create_task(_next(frames))
            waiting = [task for task in (reading, under_way[0][2] if under_way else None) if task is not None]
            if not waiting:
                if failure is not None:
                    raise failure
                return
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                try:
                    taken = reading.result()
                except Exception as error:  # raised above, when those before it are answered
                    taken, failure = None, error
                reading = None
                if taken is None:
                    ended = True
                else:
                    index, image = taken.pop()
                    under_way.append((index, image, asyncio.create_task(ask(image))))
            if under_way and under_way[0][2].done():
                index, image, task = under_way.popleft()
                yield Frame(index, image, task.result())
    finally:
        left = [*([reading] if reading is not None else []), *(task for _, _, task in under_way)]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await frames.aclose()


async def _next(frames: _Numbered) -> list[tuple[int, ImageSource]] | None:
    return await anext(frames, None)


async def _numbered(frames: Frames) -> _Numbered:
    """The frames in order, with their indices."""
    index = 0
    async with AsyncExitStack() as stack:
        if not isinstance(frames, AsyncIterable):
            frames = await stack.enter_async_context(aclosing(_read_in_a_thread(frames)))
        async for image in frames:
            yield [(index, image)]
            index += 1


async def _read_in_a_thread(frames: Iterable[ImageSource]) -> AsyncGenerator[ImageSource, None]:
    """Reads one frame whenever one is wanted, in a thread of its own.

    So no number of cameras takes the threads in which the event loop has other things done, and one that never gives
    another frame keeps no program from ending.
    """
    loop = asyncio.get_running_loop()
    wanted: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()
    iterator = iter(frames)

    def read() -> None:
        while (answer := wanted.get()) is not None:
            try:
                tell = functools.partial(_tell, answer.set_result, answer, next(iterator, _END))
            except BaseException as error:  # for whoever takes the frames
                tell = functools.partial(_tell, answer.set_exception, answer, error)
            with suppress(RuntimeError):  # the event loop ended meanwhile
                loop.call_soon_threadsafe(tell)

    threading.Thread(target=read, name="retinue-frames", daemon=True).start()
    try:
        while True:
            answer = loop.create_future()
            wanted.put(answer)
            if (image := await answer) is _END:
                return
            yield image
    finally:
        wanted.put(None)


def _tell(how: Callable[[Any], None], answer: asyncio.Future[Any], what: Any) -> None:
    """Settles what is still waited for."""
    if not answer.done():
        how(what)


async def _newest(numbered: _Numbered) -> _Numbered:
    """Of the frames that came since the last was taken, the newest."""
    newest: list[tuple[int, ImageSource]] = []
    changed = asyncio.Event()

    async def read() -> None:
        try:
            async for one in numbered:
                newest[:] = one
                changed.set()
        finally:
            changed.set()

    reading = asyncio.create_task(read())
    try:
        while True:
            while not newest and not reading.done():
                changed.clear()
                await changed.wait()
            if not newest:
                reading.result()
                return
            yield newest
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
