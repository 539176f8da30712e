"""Python client of Retinue: `Client` and `AsyncClient` ask a server about images and give typed results.

It imports nothing of the server; the command line (`retinue_client.cli`) is an extra.
"""

from ._async_client import AsyncClient
from ._calls import CallOptions, ClassifyOptions, DetectOptions, SegmentOptions
from ._classification import Classification, ClassScore
from ._client import Client
from ._detections import Detection, Detections
from ._errors import (
    AuthenticationError,
    DeadlineExceededError,
    ImageError,
    InvalidRequestError,
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
from ._images import ImageSource
from ._models import ModelInfo, Quality, Task
from ._segmentation import ClassArea, MaskFormat, MaskSize, RleMask, Segmentation
from ._timing import Timing

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AuthenticationError",
    "CallOptions",
    "ClassArea",
    "ClassScore",
    "Classification",
    "ClassifyOptions",
    "Client",
    "DeadlineExceededError",
    "DetectOptions",
    "Detection",
    "Detections",
    "ImageError",
    "ImageSource",
    "InvalidRequestError",
    "MaskFormat",
    "MaskSize",
    "ModelInfo",
    "ModelNotFoundError",
    "OverloadedError",
    "Quality",
    "RequestTooLargeError",
    "ResponseError",
    "RetinueError",
    "RleMask",
    "SegmentOptions",
    "Segmentation",
    "ServerError",
    "ServerUnreachableError",
    "Task",
    "Timing",
    "UnavailableError",
    "WrongTaskError",
    "__version__",
]
