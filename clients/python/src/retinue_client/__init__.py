"""Python client of Retinue: `Client` and `AsyncClient` ask a server about images and give typed results.

It imports nothing of the server; the command line (`retinue_client.cli`) is an extra.
"""

from retinue_client._async_client import AsyncClient
from retinue_client._classification import Classification, ClassScore
from retinue_client._client import Client
from retinue_client._deadline import deadline, remaining_seconds
from retinue_client._detections import Detection, Detections, Keypoint
from retinue_client._errors import (
    AuthenticationError,
    DeadlineExceededError,
    ImageError,
    InvalidRequestError,
    ModelControlError,
    ModelNotFoundError,
    OverloadedError,
    RequestTooLargeError,
    ResponseError,
    RetinueError,
    ServerError,
    ServerUnreachableError,
    UnavailableError,
    WrongTaskError,
)
from retinue_client._frames import Frame
from retinue_client._images import ImageSource, WithRegions
from retinue_client._models import ModelInfo, Quality, Task
from retinue_client._options import (
    CallOptions,
    ClassifyOptions,
    ClassifyWith,
    DetectOptions,
    Priority,
    SegmentOptions,
)
from retinue_client._repository import ModelState
from retinue_client._retries import Retries
from retinue_client._security import Tls
from retinue_client._segmentation import ClassArea, MaskFormat, MaskSize, RleMask, Segmentation
from retinue_client._timing import Timing

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AuthenticationError",
    "CallOptions",
    "ClassArea",
    "ClassScore",
    "Classification",
    "ClassifyOptions",
    "ClassifyWith",
    "Client",
    "DeadlineExceededError",
    "DetectOptions",
    "Detection",
    "Detections",
    "Frame",
    "ImageError",
    "ImageSource",
    "InvalidRequestError",
    "Keypoint",
    "MaskFormat",
    "MaskSize",
    "ModelControlError",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelState",
    "OverloadedError",
    "Priority",
    "Quality",
    "RequestTooLargeError",
    "ResponseError",
    "RetinueError",
    "Retries",
    "RleMask",
    "SegmentOptions",
    "Segmentation",
    "ServerError",
    "ServerUnreachableError",
    "Task",
    "Timing",
    "Tls",
    "UnavailableError",
    "WithRegions",
    "WrongTaskError",
    "__version__",
    "deadline",
    "remaining_seconds",
]
