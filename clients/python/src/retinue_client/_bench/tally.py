"""What became of requests, as numbers that add up."""

from collections import Counter
from dataclasses import dataclass, field

from retinue_client._score.latency import Latencies


@dataclass(slots=True)
class Slice:
    """What came back in a short time.

    Attributes:
        answered: Images with a result.
        unanswered: Images refused or failed.
        latencies: Of the requests with a result.
    """

    answered: int = 0
    unanswered: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def merge(self, other: "Slice") -> None:
        """Adds what another one has."""
        self.answered += other.answered
        self.unanswered += other.unanswered
        self.latencies.merge(other.latencies)


@dataclass(slots=True)
class Counts:
    """What became of requests, or of their images: each is in `sent` and in at most one of the next three.

    Attributes:
        sent: Sent.
        answered: With a result; a request, with one for at least one of its images.
        refused: The server had too much to do.
        failed: There is no result for another reason.
        unsent: Due, but never sent: too many were under way, the client was too slow, or there was no going on.
    """

    sent: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    unsent: int = 0

    @property
    def unfinished(self) -> int:
        """Sent, and still without an answer when the measurement ended."""
        return self.sent - self.answered - self.refused - self.failed

    def merge(self, other: "Counts") -> None:
        """Adds what another one has."""
        self.sent += other.sent
        self.unsent += other.unsent
        self.add(other.answered, other.refused, other.failed)

    def add(self, answered: int, refused: int, failed: int) -> None:
        """Adds what became of so many."""
        self.answered += answered
        self.refused += refused
        self.failed += failed


@dataclass(slots=True)
class ServerTimes:
    """Where the server says the time went: sums over images with a result, in microseconds.

    Attributes:
        images: How many there were.
        decode_us: Reading and resizing.
        queue_us: Waiting for the engine.
        inference_us: The run of the batch.
        postprocess_us: Making the result.
        total_us: From the request's arrival until its results were ready.
        batches: How many runs that makes: an image of a batch of four is a quarter of one.
    """

    images: int = 0
    decode_us: int = 0
    queue_us: int = 0
    inference_us: int = 0
    postprocess_us: int = 0
    total_us: int = 0
    batches: float = 0.0

    def merge(self, other: "ServerTimes") -> None:
        """Adds what another one has."""
        self.images += other.images
        self.decode_us += other.decode_us
        self.queue_us += other.queue_us
        self.inference_us += other.inference_us
        self.postprocess_us += other.postprocess_us
        self.total_us += other.total_us
        self.batches += other.batches


@dataclass(slots=True)
class Tally:
    """All that is counted; two tallies of different requests merge into that of all of them.

    Attributes:
        requests: What became of requests.
        images: What became of their images; one that alone failed in a request that was answered is `failed`.
        in_window: Images whose results came between the start and the end of what is counted, whenever they were sent.
        on_time: Of these, the images of requests that took no longer than was asked for.
        latencies: Of answered requests, from when each was due until its answer.
        served_seconds: Of answered requests, the sum of the times from when each was sent until its answer.
        lateness: In an open loop, by how much requests were sent later than they were due.
        was_full: Whether requests had to wait because as many were under way as there may be.
        server: Where the time went in the server.
        reasons: Why images have no result: how many have which reason.
        messages: For each reason the first message.
        slices: What came back when, by the number of the window's step; warming up included.
    """

    requests: Counts = field(default_factory=Counts)
    images: Counts = field(default_factory=Counts)
    in_window: int = 0
    on_time: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    served_seconds: float = 0.0
    lateness: Latencies = field(default_factory=Latencies)
    was_full: bool = False
    server: ServerTimes = field(default_factory=ServerTimes)
    reasons: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    slices: dict[int, Slice] = field(default_factory=dict)

    def slice(self, number: int) -> Slice:
        """The slice of this number."""
        return self.slices.setdefault(number, Slice())

    def merge(self, other: "Tally") -> None:
        """Adds what another one has."""
        self.requests.merge(other.requests)
        self.images.merge(other.images)
        self.in_window += other.in_window
        self.on_time += other.on_time
        self.latencies.merge(other.latencies)
        self.served_seconds += other.served_seconds
        self.lateness.merge(other.lateness)
        self.was_full |= other.was_full
        self.server.merge(other.server)
        self.reasons.update(other.reasons)
        self.messages = {**other.messages, **self.messages}
        for number, one in other.slices.items():
            self.slice(number).merge(one)
