"""The client for ordinary code."""

import functools
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from retinue.v1 import vision_service_pb2 as pb

from retinue_client._address import resolve_address
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
from retinue_client._errors import ImageError, RetinueError
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
from retinue_client._stream import Pending, Streams
from retinue_client._transport import Transport

ResultT = TypeVar("ResultT")


class Client(Streams):
    """Asks a Retinue server about images. One client, one connection, any number of threads.

    An image is a path, a URL, a file that is open for reading bytes, the bytes of an image file, a Pillow image, or a
    uint8 array [H, W, 3] in RGB, [H, W, 4] in RGBA or [H, W] in grey: see `ImageSource`. A call about one image
    returns its result and raises `ImageError` where there is none. A call about several returns a list with, for each
    image in order, its result or its `ImageError` as a value. Whatever concerns the call as a whole is raised: see the
    tree in `RetinueError`'s module.

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
        self._transport = Transport(self._address, self._security, retries or Retries())

    @property
    def address(self) -> str:
        """Where the server is; several are separated by commas."""
        return self._address

    @overload
    def classify(  # type: ignore[overload-overlap]
        self, images: ImageSource, **options: Unpack[ClassifyOptions]
    ) -> Classification: ...

    @overload
    def classify(
        self, images: Iterable[ImageSource], **options: Unpack[ClassifyOptions]
    ) -> list[Classification | ImageError]: ...

    def classify(
        self, images: ImageSource | Iterable[ImageSource], **options: Unpack[ClassifyOptions]
    ) -> Classification | list[Classification | ImageError]:
        """Says which classes an image shows, or each of several.

        Args:
            images: One image or several.
            **options: `model`, `version`, `top_k`, `min_score`, `heatmap`, `priority`, `metadata`,
                `timeout_seconds`: see `ClassifyOptions`.

        Raises:
            ImageError: The one image has no answer.
            RetinueError: The call as a whole has none.
        """
        return self._ask(classify_call(**options), images)

    @overload
    def detect(  # type: ignore[overload-overlap]
        self, images: ImageSource, **options: Unpack[DetectOptions]
    ) -> Detections: ...

    @overload
    def detect(
        self, images: Iterable[ImageSource], **options: Unpack[DetectOptions]
    ) -> list[Detections | ImageError]: ...

    def detect(
        self, images: ImageSource | Iterable[ImageSource], **options: Unpack[DetectOptions]
    ) -> Detections | list[Detections | ImageError]:
        """Finds the objects in an image, or in each of several.

        Args:
            images: One image or several; `WithRegions` for a model that classifies given regions.
            **options: `model`, `version`, `score_threshold`, `max_detections`, `classes`, `iou_threshold`, `masks`,
                `classify_with`, `priority`, `metadata`, `timeout_seconds`: see `DetectOptions`.

        Raises:
            ImageError: The one image has no answer.
            RetinueError: The call as a whole has none.
        """
        return self._ask(detect_call(**options), images)

    @overload
    def segment(  # type: ignore[overload-overlap]
        self, images: ImageSource, **options: Unpack[SegmentOptions]
    ) -> Segmentation: ...

    @overload
    def segment(
        self, images: Iterable[ImageSource], **options: Unpack[SegmentOptions]
    ) -> list[Segmentation | ImageError]: ...

    def segment(
        self, images: ImageSource | Iterable[ImageSource], **options: Unpack[SegmentOptions]
    ) -> Segmentation | list[Segmentation | ImageError]:
        """Gives each pixel of an image, or of each of several, a class.

        Args:
            images: One image or several.
            **options: `model`, `version`, `mask_format`, `mask_size`, `classes`, `priority`,
                `metadata`, `timeout_seconds`: see `SegmentOptions`.

        Raises:
            ImageError: The one image has no answer.
            RetinueError: The call as a whole has none.
        """
        return self._ask(segment_call(**options), images)

    def list_models(
        self, task: Task | None = None, *, timeout_seconds: float | None = None
    ) -> list[ModelInfo]:
        """The models that are served, by name and then version, newest first.

        Args:
            task: Only models of this task. None means all.
            timeout_seconds: How long it may take. None means the client's own timeout.

        Raises:
            RetinueError: The call failed.
        """
        response = self._invoke("ListModels", list_models_request(task), self._timeout(timeout_seconds))
        return [model_info(model) for model in response.models]

    def get_model(
        self, name: str, version: int | str | None = None, *, timeout_seconds: float | None = None
    ) -> ModelInfo:
        """One model, in the version or by the label that is named, or in the one that most requests get.

        Raises:
            ModelNotFoundError: It is not served.
            InvalidRequestError: The name is no text, or the version too large a number to be sent.
            RetinueError: The call failed.
        """
        request = make_request(pb.GetModelRequest, model=name, **version_fields(version))
        return model_info(self._invoke("GetModel", request, self._timeout(timeout_seconds)).model)

    def list_versions(self, *, timeout_seconds: float | None = None) -> list[ModelState]:
        """All versions that the server has, served or not, by name and version.

        Raises:
            RetinueError: The call failed.
        """
        return model_states(self._invoke("RepositoryIndex", index_request(), self._timeout(timeout_seconds)))

    def load_model(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Has the server load what its models folder has of a model, where it is started with --model-control explicit.

        Versions that are served already stay as they are; those that are gone from the folder are taken away.

        Raises:
            ModelNotFoundError: The folder has no such model.
            ModelControlError: It cannot be loaded, or the server does not load models by calls.
            RetinueError: The call failed; the server goes on loading when only the time was up.
        """
        self._invoke("RepositoryModelLoad", load_request(name), self._timeout(timeout_seconds))

    def unload_model(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Has the server take a model away, when what runs on it is done.

        Raises:
            ModelNotFoundError: The server has no such model.
            ModelControlError: The server does not unload models by calls.
            RetinueError: The call failed.
        """
        self._invoke("RepositoryModelUnload", unload_request(name), self._timeout(timeout_seconds))

    def close(self) -> None:
        """Ends the connection; calls that are under way fail. Closing twice is fine."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self._address}{', closed' if self._transport.closed else ''}>"

    def _ask(
        self, call: Call[ResultT], images: ImageSource | Iterable[ImageSource]
    ) -> ResultT | list[ResultT | ImageError]:
        self._transport.check_open()
        many, is_one = as_images(images)
        job = Job(call, many, self._limits, self._timeout(call.timeout_seconds))
        if is_one:
            for request in job.requests():
                self._settle(job, request, self._prepare(call, request))
            return job.outcome()
        under_way: deque[tuple[Request, Sending]] = deque()
        try:
            for request in job.requests():
                sending = self._prepare(call, request)
                under_way.append((request, sending))
                self._transport.begin(sending)
                if len(under_way) >= REQUESTS_IN_FLIGHT:
                    self._settle(job, *under_way.popleft())
            while under_way:
                self._settle(job, *under_way.popleft())
        finally:
            for _, sending in under_way:
                self._transport.abandon(sending)
        return job.outcomes()

    def _begin(self, call: Call[ResultT], image: ImageSource) -> Pending[ResultT]:
        self._transport.check_open()
        job = Job(call, [image], self._limits, self._timeout(call.timeout_seconds))
        request = next(job.requests(), None)
        if request is None:
            return Pending(job)
        sending = self._prepare(call, request)
        self._transport.begin(sending)
        settle = functools.partial(self._settle, job, request, sending)
        return Pending(job, sending.call, settle, functools.partial(self._transport.abandon, sending))

    def _prepare(self, call: Call[Any], request: Request) -> Sending:
        timeout_seconds = self._timeout(call.timeout_seconds)
        return self._transport.prepare(call.method, request.message, timeout_seconds, call.metadata)

    def _settle(self, job: Job[Any], request: Request, sending: Sending) -> None:
        """Waits for the answer to a request and hands it to its job."""
        try:
            response = self._transport.answer(sending)
        except RetinueError as error:
            job.refuse(request, error)
        else:
            job.accept(request, response)

    def _invoke(self, method: str, request: Any, timeout_seconds: float | None) -> Any:
        self._transport.check_open()
        return self._transport.answer(self._transport.prepare(method, request, timeout_seconds))

    def _timeout(self, timeout_seconds: float | None) -> float | None:
        return self._timeout_seconds if timeout_seconds is None else timeout_seconds
