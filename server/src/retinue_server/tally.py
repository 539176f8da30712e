"""What was counted of one model, as the Open Inference Protocol tells it."""

import functools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

CountAndSeconds = tuple[int, float]
Of = TypeVar("Of", str, int)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a model has done since it was loaded.

    Attributes:
        success: Requests that were answered, and the seconds from arrival to answer.
        fail: Those that were not.
        images: Images, or rows of tensors, that were answered or failed.
        last_at: When the latest came, seconds since 1970; 0 where none has.
        stages: Of decode, queue, inference and postprocess the images that were counted, and their seconds.
        batches: By size, how many batches ran and their seconds.
    """

    success: CountAndSeconds
    fail: CountAndSeconds
    images: int
    last_at: float
    stages: Mapping[str, CountAndSeconds]
    batches: Mapping[int, CountAndSeconds]


def summed(parts: Iterable[Statistics]) -> Statistics:
    """What several processes have counted of a model, as if one had.

    Args:
        parts: At least one.
    """
    return functools.reduce(
        lambda one, other: Statistics(
            _sum(one.success, other.success),
            _sum(one.fail, other.fail),
            one.images + other.images,
            max(one.last_at, other.last_at),
            _sums(one.stages, other.stages),
            _sums(one.batches, other.batches),
        ),
        parts,
    )


class Tally:
    """Counts requests and batches of one model. Each of its methods is called by one thread at a time.

    Attributes:
        success: As in `Statistics`.
        fail: Likewise.
        images: Likewise.
        last_at: Likewise.
    """

    def __init__(self) -> None:
        self.success: CountAndSeconds = 0, 0.0
        self.fail: CountAndSeconds = 0, 0.0
        self.images = 0
        self.last_at = 0.0
        self._batches: dict[int, CountAndSeconds] = {}

    def count_request(self, seconds: float, *, answered: bool) -> None:
        """Counts a request by how long it took."""
        if answered:
            self.success = _plus(self.success, seconds)
        else:
            self.fail = _plus(self.fail, seconds)

    def count_images(self, count: int) -> None:
        """Counts the images of a request."""
        self.images += count
        self.last_at = time.time()

    def count_batch(self, size: int, seconds: float) -> None:
        """Counts a batch by its size and how long it took."""
        self._batches[size] = _plus(self._batches.get(size, (0, 0.0)), seconds)

    @property
    def batches(self) -> dict[int, CountAndSeconds]:
        """As in `Statistics`."""
        return self._batches.copy()


def _sum(one: CountAndSeconds, other: CountAndSeconds) -> CountAndSeconds:
    return one[0] + other[0], one[1] + other[1]


def _sums(
    one: Mapping[Of, CountAndSeconds], other: Mapping[Of, CountAndSeconds]
) -> dict[Of, CountAndSeconds]:
    nothing = 0, 0.0
    return {key: _sum(one.get(key, nothing), other.get(key, nothing)) for key in {**one, **other}}


def _plus(counted: CountAndSeconds, seconds: float) -> CountAndSeconds:
    count, total = counted
    return count + 1, total + seconds
