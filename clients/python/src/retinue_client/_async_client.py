"""The client for asyncio."""

import asyncio
import contextvars
import functools
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from retinue.v1 import vision_service_pb2 as pb

from retinue_client._address import resolve_address
from retinue_client._async_stream import AsyncStreams
from retinue_client._async_transport import AsyncTransport
from retinue_client._calls import (
    Call,
    classify_call,
    detect_call,
    make_request,
    segment_call,
    version_fields,
)
from retinue_client._channel import (
    DEFAULT_MAX_REQUEST_BYTES,
    DEFAULT_MAX_REQUEST_IMAGES,
    DEFAULT_TIMEOUT_SECONDS,
    REQUESTS_IN_FLIGHT,
)
from retinue_client._classification import Classification
from retinue_client._detections import Detections
from retinue_client._errors import ImageError, RetinueError, client_closed
from retinue_client._images import ImageSource
from retinue_client._job import Job, Request, RequestLimits, as_images
from retinue_client._models import ModelInfo, Task, list_models_request, model_info
from retinue_client._options import ClassifyOptions, DetectOptions, SegmentOptions
from retinue_client._repository import (
    ModelState,
    index_request,
    load_request,
    model_states,
    unload_request,
)
from retinue_client._retries import Retries
from retinue_client._security import Security, Tls
from retinue_client._segmentation import Segmentation
from retinue_client._sending import Sending

ResultT = TypeVar("ResultT")


class AsyncClient(AsyncStreams):
    """`Client` for asyncio: the same calls, to be awaited, any number of them at once in one event loop.

    It connects at its first call, in whose event loop it then belongs.

    Args:
        address: "HOST:PORT"; several servers that serve the same take turns, as a sequence or separated by commas.
            None means the environment variable RETINUE_SERVER, or localhost:8001.
        timeout_seconds: How long one request may take where a call does not say, however often it is sent; None means
            as long as it takes. `deadline` bounds it besides.
        max_request_images: A longer list of images becomes several requests.
        max_request_bytes: So does a list of more bytes than this.
        tls: How the connection is encrypted. None means what RETINUE_TLS_CA, RETINUE_CLIENT_CERTIFICATE and
            RETINUE_CLIENT_KEY name, or that it is not.
        token: What says who calls. None means the environment variable RETINUE_TOKEN, or nothing. Without TLS it is
            sent to this machine only.
        retries: When a request that got no answer is sent again, and when a second one beside it. None means as
            `Retries()` says; `Retries.none()` never.

    Raises:
        ValueError: The address or a limit makes no sense, a file cannot be read, or the token would be sent without
            TLS.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        timeout_seconds: float | None = DEFAULT_TIMEOUT_SECONDS,
        max_request_images: int = DEFAULT_MAX_REQUEST_IMAGES,
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
        tls: Tls | None = None,
        token: str | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._address = resolve_address(address)
        self._security = Security.resolve(self._address, tls, token)
        self._timeout_seconds = timeout_seconds
        self._limits = RequestLimits(max_request_images, max_request_bytes)
        self._readers = ThreadPoolExecutor(thread_name_prefix="retinue-images")
        self._transport = AsyncTransport(self._address, self._security, retries or Retries())

    @property
    def address(self) -> str:
        """Where the server is; several are separated by commas."""
        return self._address

    @overload
    async def classify(  # type: ignore[overload-overlap]
        self, images: ImageSource, **options: Unpack[ClassifyOptions]
    ) -> Classification: ...

    @overload
    async def classify(
        self, images: Iterable[ImageSource], **options: Unpack[ClassifyOptions]
    ) -> list[Classification | ImageError]: ...

    async def classify(
        self, images: ImageSource | Iterable[ImageSource], **options: Unpack[ClassifyOptions]
    ) -> Classification | list[Classification | ImageError]:
        """Says which classes an image shows, or each of several.

        Args:
            images: One image or several.
            **options: `model`, `version`, `top_k`, `min_score`, `heatmap`, `priority`,
                `timeout_seconds`: see `ClassifyOptions`.

        Raises:
            ImageError: The one image has no answer.
            RetinueError: The call as a whole has none.
        """
        return await self._ask(classify_call(**options), images)

    @overload
    async def detect(  # type: ignore[overload-overlap]
        self, images: ImageSource, **options: Unpack[DetectOptions]
    ) -> Detections: ...

    @overload
    async def detect(
        self, images: Iterable[ImageSource], **options: Unpack[DetectOptions]
    ) -> list[Detections | ImageError]: ...

    async def detect(
        self, images: ImageSource | Iterable[ImageSource], **options: Unpack[DetectOptions]
    ) -> Detections | list[Detections | ImageError]:
        """Finds the objects in an image, or in each of several.

        Args:
            images: One image or several; `WithRegions` for a model that classifies given regions.
            **options: `model`, `version`, `score_threshold`, `max_detections`, `classes`, `iou_threshold`, `masks`,
                `classify_with`, `priority`, `timeout_seconds`: see `DetectOptions`.

        Raises:
            ImageError: The one image has no answer.
            RetinueError: The call as a whole has none.
        """
        return await self._ask(detect_call(**options), images)

    @overload
    async def segment(  # type: ignore[overload-overlap]
        self, images: ImageSource, **options: Unpack[SegmentOptions]
    ) -> Segmentation: ...

    @overload
    async def segment(
        self, images: Iterable[ImageSource], **options: Unpack[SegmentOptions]
    ) -> list[Segmentation | ImageError]: ...

    async def segment(
        self, images: ImageSource | Iterable[ImageSource], **options: Unpack[SegmentOptions]
    ) -> Segmentation | list[Segmentation | ImageError]:
        """Gives each pixel of an image, or of each of several, a class.

        Args:
            images: One image or several.
            **options: `model`, `version`, `mask_format`, `mask_size`, `classes`, `priority`,
                `timeout_seconds`: see `SegmentOptions`.

        Raises:
            ImageError: The one image has no answer.
            RetinueError: The call as a whole has none.
        """
        return await self._ask(segment_call(**options), images)

    async def list_models(
        self, task: Task | None = None, *, timeout_seconds: float | None = None
    ) -> list[ModelInfo]:
        """The models that are served, by name and then version, newest first.

        Args:
            task: Only models of this task. None means all.
            timeout_seconds: How long it may take. None means the client's own timeout.

        Raises:
            RetinueError: The call failed.
        """
        response = await self._invoke("ListModels", list_models_request(task), self._timeout(timeout_seconds))
        return [model_info(model) for model in response.models]

    async def get_model(
        self, name: str, version: int | str | None = None, *, timeout_seconds: float | None = None
    ) -> ModelInfo:
        """One model, in the version or by the label that is named, or in the one that most requests get.

        Raises:
            ModelNotFoundError: It is not served.
            InvalidRequestError: The name is no text, or the version too large a number to be sent.
            RetinueError: The call failed.
        """
        request = make_request(pb.GetModelRequest, model=name, **version_fields(version))
        return model_info((await self._invoke("GetModel", request, self._timeout(timeout_seconds))).model)

    async def list_versions(self, *, timeout_seconds: float | None = None) -> list[ModelState]:
        """All versions that the server has, served or not, by name and version.

        Raises:
            RetinueError: The call failed.
        """
        return model_states(
            await self._invoke("RepositoryIndex", index_request(), self._timeout(timeout_seconds))
        )

    async def load_model(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Has the server load what its models folder has of a model, where it is started with --model-control explicit.

        Versions that are served already stay as they are; those that are gone from the folder are taken away.

        Raises:
            ModelNotFoundError: The folder has no such model.
            ModelControlError: It cannot be loaded, or the server does not load models by calls.
            RetinueError: The call failed; the server goes on loading when only the time was up.
        """
        await self._invoke("RepositoryModelLoad", load_request(name), self._timeout(timeout_seconds))

    async def unload_model(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Has the server take a model away, when what runs on it is done.

        Raises:
            ModelNotFoundError: The server has no such model.
            ModelControlError: The server does not unload models by calls.
            RetinueError: The call failed.
        """
        await self._invoke("RepositoryModelUnload", unload_request(name), self._timeout(timeout_seconds))

    async def close(self) -> None:
        """Ends the connection; calls that are under way fail. Closing twice is fine."""
        self._readers.shutdown(wait=False)
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._address}{', closed' if self._transport.closed else ''}>"

    async def _ask(
        self, call: Call[ResultT], images: ImageSource | Iterable[ImageSource]
    ) -> ResultT | list[ResultT | ImageError]:
        self._transport.check_open()
        many, is_one = as_images(images)
        timeout_seconds = self._timeout(call.timeout_seconds)
        job = Job(call, many, self._limits, timeout_seconds)
        under_way: deque[tuple[Request, Sending]] = deque()
        try:
            async with aclosing(self._requests(job, iter(many))) as requests:
                async for request in requests:
                    sending = self._transport.prepare(
                        call.method, request.message, timeout_seconds, call.metadata
                    )
                    under_way.append((request, sending))
                    self._transport.begin(sending)
                    if len(under_way) >= REQUESTS_IN_FLIGHT:
                        await self._settle(job, *under_way.popleft())
            while under_way:
                await self._settle(job, *under_way.popleft())
        finally:
            for _, sending in under_way:
                self._transport.abandon(sending)
        return job.outcome() if is_one else job.outcomes()

    async def _requests(self, job: Job[Any], images: Iterator[ImageSource]) -> AsyncGenerator[Request, None]:
        """A job's requests, as they are sent.

        The caller's iterator runs here in the caller's thread, some images at a time; what it gave is read elsewhere.
        """
        while some := list(islice(images, self._limits.max_images)):
            at_hand = all(isinstance(source, bytes) for source in some)
            full = job.full_requests(some)
            while (request := await self._next_request(full, at_hand)) is not None:
                yield request
        if (last := job.last_request()) is not None:
            yield last

    async def _next_request(self, requests: Iterator[Request], at_hand: bool) -> Request | None:
        """The next request, without holding up the event loop where images have to be read or prepared first."""
        if at_hand:
            return next(requests, None)
        if self._transport.closed:
            raise client_closed()
        # Not among the threads in which the event loop looks up names, for example: files may be far away.
        read = functools.partial(contextvars.copy_context().run, next, requests, None)
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def _settle(self, job: Job[Any], request: Request, sending: Sending) -> None:
        """Waits for the answer to a request and hands it to its job."""
        try:
            response = await self._transport.answer(sending)
        except RetinueError as error:
            job.refuse(request, error)
        else:
            job.accept(request, response)

    async def _invoke(self, method: str, request: Any, timeout_seconds: float | None) -> Any:
        self._transport.check_open()
        return await self._transport.answer(self._transport.prepare(method, request, timeout_seconds))

    def _timeout(self, timeout_seconds: float | None) -> float | None:
        return self._timeout_seconds if timeout_seconds is None else timeout_seconds
