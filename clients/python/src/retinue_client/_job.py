"""One call's images, cut into requests and put back together. It reads image files and does no other I/O."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from retinue_client._calls import Call
from retinue_client._deadline import bounded, deadline
from retinue_client._errors import ImageError, RequestTooLargeError, ResponseError, RetinueError
from retinue_client._images import ImageSource, describe, fill_image, is_image_source, no_image

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How much goes into one request; a longer list of images becomes several.

    Attributes:
        max_images: At most so many images.
        max_bytes: At most so many bytes of image files and pixels, except where one image alone has more.
    """

    max_images: int
    max_bytes: int

    def __post_init__(self) -> None:
        if self.max_images < 1 or self.max_bytes < 1:
            raise ValueError("max_request_images and max_request_bytes must be at least 1.")


@dataclass(slots=True)
class Request:
    """Some of a job's images, ready to be sent.

    Attributes:
        message: The protobuf request.
        places: For each of its images, the place in the job.
        sources: For each of its images, which one it is.
        size_bytes: Bytes of image files and pixels.
    """

    message: Any
    places: list[int]
    sources: list[str]
    size_bytes: int


class Job(Generic[ResultT]):
    """Asks one question about some images, in requests that someone else sends.

    Images are read from disk only when the request that holds them is asked for, so that a long list of paths
    takes no more memory than a few requests.

    Args:
        call: The question.
        images: The images, in order.
        limits: How much goes into one request.
        read_seconds: How long an image may take that comes from a web server. None means that only `deadline` says.
    """

    def __init__(
        self,
        call: Call[ResultT],
        images: Iterable[ImageSource],
        limits: RequestLimits,
        read_seconds: float | None = None,
    ) -> None:
        self._call = call
        self._images = images
        self._limits = limits
        self._read_seconds = read_seconds
        self._outcomes: dict[int, ResultT | ImageError] = {}
        self._filling = self._empty_request()
        self._count = 0

    def requests(self) -> Iterator[Request]:
        """The requests in order. An image that cannot be read has its ImageError at once and is in none.

        Raises:
            TypeError: One of the images is no image.
            DeadlineExceededError: An image cannot be read, and the code around has no time left.
        """
        yield from self.full_requests(self._images)
        if (request := self.last_request()) is not None:
            yield request

    def full_requests(self, images: Iterable[ImageSource]) -> Iterator[Request]:
        """The same of these images, which come after those before, but for what does not fill a request yet.

        Raises:
            TypeError: One of the images is no image.
            DeadlineExceededError: An image cannot be read, and the code around has no time left.
        """
        for source in images:
            place, self._count = self._count, self._count + 1
            request = self._filling
            image = request.message.images.add()
            try:
                with deadline(self._read_seconds):
                    size_bytes = fill_image(image, source)
            except ImageError as error:
                del request.message.images[-1]
                self._outcomes[place] = error
                bounded(None)
                continue
            if request.places and request.size_bytes + size_bytes > self._limits.max_bytes:
                self._filling = self._empty_request()
                self._filling.message.images.add().CopyFrom(image)
                del request.message.images[-1]
                yield request
                request = self._filling
            request.places.append(place)
            request.sources.append(describe(source))
            request.size_bytes += size_bytes
            if len(request.places) == self._limits.max_images:
                self._filling = self._empty_request()
                yield request

    def last_request(self) -> Request | None:
        """What is left when there are no more images, if anything is."""
        request, self._filling = self._filling, self._empty_request()
        return request if request.places else None

    def accept(self, request: Request, response: Any) -> None:
        """Takes the answer to a request.

        Raises:
            ResponseError: It does not fit the request.
        """
        read = self._call.read_response(response, request.message.images, request.sources)
        self._outcomes.update(zip(request.places, read, strict=True))

    def refuse(self, request: Request, error: RetinueError) -> None:
        """Takes the failure of a request: a value if only its one image can be at fault, else raised."""
        if not isinstance(error, RequestTooLargeError) or len(request.places) > 1:
            raise error
        self._outcomes[request.places[0]] = ImageError(
            error.message, source=request.sources[0], code=error.code, reason=error.reason
        )

    def outcomes(self) -> list[ResultT | ImageError]:
        """What became of each image, in order, once every request was answered."""
        return [self._outcomes[place] for place in range(len(self._outcomes))]

    def outcome(self) -> ResultT:
        """The result of a job of one image.

        Raises:
            ImageError: It has none.
            ResponseError: What came does not hold what the protocol promises.
        """
        outcome = self._outcomes[0]
        if isinstance(outcome, ImageError):
            raise outcome.__cause__ if isinstance(outcome.__cause__, ResponseError) else outcome
        return outcome

    def _empty_request(self) -> Request:
        return Request(self._call.new_request(), places=[], sources=[], size_bytes=0)


def as_images(images: object) -> tuple[Iterable[ImageSource], bool]:
    """The images of a call, and whether it was one image rather than a collection.

    Raises:
        TypeError: It is neither.
    """
    if is_image_source(images):
        return [images], True  # type: ignore[list-item]
    if not isinstance(images, Iterable):
        raise no_image(images)
    return images, False
