"""The client for ordinary code."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import grpc
from retinue.v1 import vision_service_pb2 as pb
from retinue.v1 import vision_service_pb2_grpc as pb_grpc

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
    deadline_seconds,
)
from retinue_client._classification import Classification
from retinue_client._detections import Detections
from retinue_client._errors import ImageError, RetinueError, client_closed, error_from_call
from retinue_client._images import ImageSource
from retinue_client._job import Job, Request, RequestLimits, as_images
from retinue_client._models import ModelInfo, Task, list_models_request, model_info
from retinue_client._options import ClassifyOptions, DetectOptions, SegmentOptions
from retinue_client._repository import (
    ModelState,
    index_request,
    load_request,
    model_states,
    repository_stub,
    unload_request,
)
from retinue_client._security import Security, Tls
from retinue_client._segmentation import Segmentation
from retinue_client._stream import Pending, Streams

ResultT = TypeVar("ResultT")


class Client(Streams):
    """Asks a Retinue server about images. One client, one connection, any number of threads.

    An image is a path, a URL, a file that is open for reading bytes, the bytes of an image file, a Pillow image, or a
    uint8 array [H, W, 3] in RGB, [H, W, 4] in RGBA or [H, W] in grey: see `ImageSource`. A call about one image
    returns its result and raises `ImageError` where there is none. A call about several returns a list with, for each
    image in order, its result or its `ImageError` as a value. Whatever concerns the call as a whole is raised: see the
    tree in `RetinueError`'s module.

    Args:
        address: "HOST:PORT". None means the environment variable RETINUE_SERVER, or localhost:8001.
        timeout_seconds: How long one request may take where a call does not say; None means as long as it
            takes.
        max_request_images: A longer list of images becomes several requests.
        max_request_bytes: So does a list of more bytes than this.
        tls: How the connection is encrypted. None means what RETINUE_TLS_CA, RETINUE_CLIENT_CERTIFICATE and
            RETINUE_CLIENT_KEY name, or that it is not.
        token: What says who calls. None means the environment variable RETINUE_TOKEN, or nothing. Without TLS it is
            sent to this machine only.

    Raises:
        ValueError: The address or a limit makes no sense, a file cannot be read, or the token would be sent without
            TLS.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout_seconds: float | None = DEFAULT_TIMEOUT_SECONDS,
        max_request_images: int = DEFAULT_MAX_REQUEST_IMAGES,
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
        tls: Tls | None = None,
        token: str | None = None,
    ) -> None:
        self._address = resolve_address(address)
        self._security = Security.resolve(self._address, tls, token)
        self._timeout_seconds = timeout_seconds
        self._limits = RequestLimits(max_request_images, max_request_bytes)
        self._channel = self._security.channel(self._address)
        self._stub = pb_grpc.VisionServiceStub(self._channel)
        self._closed = False

    @property
    def address(self) -> str:
        """Where the server is."""
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
        self._closed = True
        self._channel.close()

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
        return f"<Client of {self._address}{', closed' if self._closed else ''}>"

    def _ask(
        self, call: Call[ResultT], images: ImageSource | Iterable[ImageSource]
    ) -> ResultT | list[ResultT | ImageError]:
        many, is_one = as_images(images)
        job = Job(call, many, self._limits)
        method = self._method(call.method)
        timeout_seconds = self._timeout(call.timeout_seconds)
        metadata = (*call.metadata, *self._security.metadata)
        if is_one:
            for request in job.requests():
                # A blocking call costs half of what a future does.
                answer = functools.partial(
                    method, request.message, timeout=timeout_seconds, metadata=metadata
                )
                self._settle(job, request, answer, timeout_seconds)
            return job.outcome()
        under_way: deque[tuple[Request, Any]] = deque()
        try:
            for request in job.requests():
                with self._translating(timeout_seconds):
                    future = method.future(request.message, timeout=timeout_seconds, metadata=metadata)
                    under_way.append((request, future))
                if len(under_way) >= REQUESTS_IN_FLIGHT:
                    oldest, future = under_way.popleft()
                    self._settle(job, oldest, future.result, timeout_seconds)
            while under_way:
                oldest, future = under_way.popleft()
                self._settle(job, oldest, future.result, timeout_seconds)
        finally:
            for _, future in under_way:
                future.cancel()
        return job.outcomes()

    def _begin(self, call: Call[ResultT], image: ImageSource) -> Pending[ResultT]:
        job = Job(call, [image], self._limits)
        request = next(job.requests(), None)
        if request is None:
            return Pending(job)
        method = self._method(call.method)
        timeout_seconds = self._timeout(call.timeout_seconds)
        metadata = (*call.metadata, *self._security.metadata)
        with self._translating(timeout_seconds):
            future = method.future(request.message, timeout=timeout_seconds, metadata=metadata)
        settle = functools.partial(self._settle, job, request, future.result, timeout_seconds)
        return Pending(job, future, settle, future.cancel)

    def _settle(
        self, job: Job[Any], request: Request, answer: Callable[[], Any], timeout_seconds: float | None
    ) -> None:
        """Waits for the answer to a request and hands it to its job."""
        try:
            with self._translating(timeout_seconds):
                response = answer()
        except RetinueError as error:
            job.refuse(request, error)
        else:
            job.accept(request, response)

    def _invoke(self, method: str, request: Any, timeout_seconds: float | None) -> Any:
        call = self._method(method)
        with self._translating(timeout_seconds):
            return call(request, timeout=timeout_seconds, metadata=self._security.metadata)

    @contextmanager
    def _translating(self, timeout_seconds: float | None) -> Iterator[None]:
        """Turns what gRPC raises into RetinueError."""
        try:
            yield
        except grpc.RpcError as exc:
            raise error_from_call(exc, self._address, timeout_seconds, closed=self._closed) from exc
        except ValueError as exc:
            if not self._closed:
                raise
            raise client_closed() from exc

    def _method(self, name: str) -> Any:
        if self._closed:
            raise RuntimeError("The client is closed.")
        return getattr(self._stub, name, None) or getattr(repository_stub(self._channel), name)

    def _timeout(self, timeout_seconds: float | None) -> float | None:
        return deadline_seconds(self._timeout_seconds if timeout_seconds is None else timeout_seconds)
