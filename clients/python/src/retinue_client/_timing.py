"""Where the time of one image went."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one image went in the server, in microseconds.

    The stages follow one another; what is missing to the total was spent between them, or waiting for the
    other images of the request.

    Attributes:
        decode_us: Reading, orienting, converting and resizing the image.
        queue_us: Waiting for the engine.
        inference_us: The run of the network on the whole batch.
        postprocess_us: Turning the network's output into the result.
        total_us: From the request's arrival until all of the request's results were ready.
        batch_size: How many images ran together, this one included.
    """

    decode_us: int
    queue_us: int
    inference_us: int
    postprocess_us: int
    total_us: int
    batch_size: int

    def to_dict(self) -> dict[str, int]:
        """The fields as values that JSON knows."""
        return {
            "decode_us": self.decode_us,
            "queue_us": self.queue_us,
            "inference_us": self.inference_us,
            "postprocess_us": self.postprocess_us,
            "total_us": self.total_us,
            "batch_size": self.batch_size,
        }


def provenance(model: str, version: int, timing: Timing) -> str:
    """Who answered and how fast, for the end of a repr."""
    return f"{model} v{version}, {timing.total_us / 1000:.1f} ms"
