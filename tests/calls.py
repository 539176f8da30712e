"""Calls with the generated stubs, for tests: a connection, request images, and what a refusal says."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc
from retinue.v1 import image_pb2, vision_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as pb

DETAILS_KEY = "grpc-status-details-bin"
TIMEOUT_SECONDS = 60
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

# What a caller has no use for: tracebacks, paths, modules, classes, addresses of objects.
_INTERNALS = re.compile(
    r"Traceback|File \"|, line \d|\.py\b|(?<![\w'])/\w|\w/\w+/|retinue_server|0x[0-9a-f]{6}|<class|"
    r"\b[A-Z]\w*(?:Error|Exception|Warning)\b|\bPIL\b|\bNone\b|\bself\b"
)


@dataclass(frozen=True)
class Connection:
    """One channel to a server, and the stubs on it."""

    channel: grpc.Channel

    @property
    def vision(self) -> vision_service_pb2_grpc.VisionServiceStub:
        return vision_service_pb2_grpc.VisionServiceStub(self.channel)

    @property
    def health(self) -> health_pb2_grpc.HealthStub:
        return health_pb2_grpc.HealthStub(self.channel)

    def classify(self, *images: image_pb2.Image, **options: object) -> pb.ClassifyResponse:
        """Makes one Classify call."""
        request = pb.ClassifyRequest(images=images, **options)  # type: ignore[arg-type]
        return self.vision.Classify(request, timeout=TIMEOUT_SECONDS)

    def detect(self, *images: image_pb2.Image, **options: object) -> pb.DetectResponse:
        """Makes one Detect call."""
        request = pb.DetectRequest(images=images, **options)  # type: ignore[arg-type]
        return self.vision.Detect(request, timeout=TIMEOUT_SECONDS)

    def segment(self, *images: image_pb2.Image, **options: object) -> pb.SegmentResponse:
        """Makes one Segment call."""
        request = pb.SegmentRequest(images=images, **options)  # type: ignore[arg-type]
        return self.vision.Segment(request, timeout=TIMEOUT_SECONDS)

    def get_model(self, name: str, version: int = 0) -> pb.Model:
        """Makes one GetModel call."""
        request = pb.GetModelRequest(model=name, version=version)
        return self.vision.GetModel(request, timeout=TIMEOUT_SECONDS).model

    def list_models(self, task: int = 0) -> Sequence[pb.Model]:
        """Makes one ListModels call."""
        request = pb.ListModelsRequest(task=task)  # type: ignore[arg-type]
        return self.vision.ListModels(request, timeout=TIMEOUT_SECONDS).models


@contextmanager
def connected(address: str) -> Iterator[Connection]:
    """A connection of its own to host:port, closed afterwards."""
    # Else channels to the same address would share one connection.
    options = [*_UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield Connection(channel)


def encoded(data: bytes) -> image_pb2.Image:
    """An image file in a request."""
    return image_pb2.Image(encoded=data)


def raw(pixels: npt.NDArray[np.uint8], order: int = image_pb2.CHANNEL_ORDER_UNSPECIFIED) -> image_pb2.Image:
    """Pixels, uint8 [H,W] or [H,W,C], in a request."""
    height, width = pixels.shape[:2]
    return image_pb2.Image(
        raw=image_pb2.RawImage(data=pixels.tobytes(), height=height, width=width, channel_order=order)  # type: ignore[arg-type]
    )


def flat(*level: int, side: int = 8) -> image_pb2.Image:
    """A raw RGB image of one colour; one level means grey."""
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[...] = level
    return raw(pixels)


@dataclass(frozen=True)
class Refusal:
    """What a failed call, or a failed image, says.

    Attributes:
        code: The gRPC status code's name.
        reason: Of google.rpc.ErrorInfo.
        message: For people.
        retry_after_seconds: Of google.rpc.RetryInfo, or None.
    """

    code: str
    reason: str
    message: str
    retry_after_seconds: float | None = field(default=None)


def refused(call: Callable[[], object]) -> Refusal:
    """Makes a call that must fail as a whole, and checks that the failure is told as the contract says."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error = raised.value
    trailing = {key: value for key, value in error.trailing_metadata() or ()}
    assert DETAILS_KEY in trailing, f"{error.code()} without details: {error.details()}"
    status = Status.FromString(trailing[DETAILS_KEY])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return _read(status)


def refused_image(outcome: Message) -> Refusal:
    """Reads the outcome of an image that must have failed, and checks that it is told as the contract says."""
    assert outcome.WhichOneof("outcome") == "error", outcome
    return _read(outcome.error)  # type: ignore[attr-defined]


def _read(status: Status) -> Refusal:
    info, retry = ErrorInfo(), RetryInfo()
    packed = {detail.TypeName(): detail for detail in status.details}
    assert packed["google.rpc.ErrorInfo"].Unpack(info)
    assert info.domain == "retinue"
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{2,62}", info.reason)
    assert_for_people(status.message)
    delay = None
    if "google.rpc.RetryInfo" in packed:
        assert packed["google.rpc.RetryInfo"].Unpack(retry)
        delay = retry.retry_delay.ToNanoseconds() / 1e9
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return Refusal(code.name, info.reason, status.message, delay)


def assert_for_people(message: str) -> None:
    """A message ends like a sentence, is short enough to be read, and shows no internals."""
    assert message.endswith("."), message
    assert len(message) <= 600, message
    found = _INTERNALS.search(message)
    assert found is None, f"{found and found.group()!r} in {message!r}"
