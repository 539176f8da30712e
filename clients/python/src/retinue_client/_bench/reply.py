"""What a reply says, as far as a measurement wants to know."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from grpc import StatusCode
from retinue.v1 import vision_service_pb2 as pb

from retinue_client._bench.tally import ServerTimes
from retinue_client._errors import ImageError, ResponseError, image_error_from_status
from retinue_client._models import Task

_RESPONSES: dict[Task, Any] = {
    "classify": pb.ClassifyResponse,
    "detect": pb.DetectResponse,
    "segment": pb.SegmentResponse,
}


@dataclass(slots=True)
class Reply:
    """What became of the images of a request that the server has not failed as a whole.

    Attributes:
        answered: How many have a result.
        errors: Why the others have none.
        server: Where the time of those with a result went.
    """

    answered: int = 0
    errors: list[ImageError] = field(default_factory=list)
    server: ServerTimes = field(default_factory=ServerTimes)

    @property
    def refused(self) -> int:
        """How many of those without a result the server had no time for."""
        return sum(error.code is StatusCode.RESOURCE_EXHAUSTED for error in self.errors)


def reader(task: Task) -> Callable[[bytes, int], Reply]:
    """What reads a reply's bytes; it takes a few microseconds (3 for one classified image).

    Of the results themselves nothing is read.

    Args:
        task: The question that is answered.

    Returns:
        A function of the bytes and of how many images were asked about, which raises ResponseError where the reply is
        none or not about as many.
    """
    parse = _RESPONSES[task].FromString

    def read(data: bytes, images: int) -> Reply:
        try:
            response = parse(data)
        except DecodeError as exc:
            raise ResponseError("The server's reply is no message of the protocol.") from exc
        if len(response.outcomes) != images:
            raise ResponseError(f"The server answered {len(response.outcomes)} outcomes for {images} images.")
        return _reply(response)

    return read


def _reply(response: Any) -> Reply:
    reply = Reply()
    server = reply.server
    for outcome in response.outcomes:
        if not outcome.HasField("result"):
            reply.errors.append(image_error_from_status(outcome.error, ""))
            continue
        reply.answered += 1
        timing = outcome.timing
        server.images += 1
        server.decode_us += timing.decode_us
        server.queue_us += timing.queue_us
        server.inference_us += timing.inference_us
        server.postprocess_us += timing.postprocess_us
        server.total_us += timing.total_us
        if timing.batch_size > 0:
            server.batches += 1 / timing.batch_size
    return reply
