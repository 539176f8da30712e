"""What was counted, under the names that Triton gives it, so that dashboards made for Triton go on.

Source: github.com/triton-inference-server/server, docs/user_guide/metrics.md.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from retinue_server.tally import CountAndSeconds, Statistics

Models = Iterable[tuple[str, int, Statistics]]

_COUNTS: dict[str, tuple[str, Callable[[Statistics], int]]] = {
    "nv_inference_request_success": ("Requests that were answered.", lambda counted: counted.success[0]),
    "nv_inference_request_failure": ("Requests that were not.", lambda counted: counted.fail[0]),
    "nv_inference_count": ("Images, or rows of tensors.", lambda counted: counted.images),
    "nv_inference_exec_count": (
        "Batches that ran.",
        lambda counted: sum(count for count, _ in counted.batches.values()),
    ),
}
_DURATIONS: dict[str, tuple[str, Callable[[Statistics], CountAndSeconds]]] = {
    "nv_inference_request_duration_us": (
        "From arrival to answer, of requests that were answered.",
        lambda counted: counted.success,
    ),
    "nv_inference_queue_duration_us": ("In queues.", lambda counted: counted.stages["queue"]),
    "nv_inference_compute_input_duration_us": ("Decoding.", lambda counted: counted.stages["decode"]),
    "nv_inference_compute_infer_duration_us": (
        "In the network, its whole batch.",
        lambda counted: counted.stages["inference"],
    ),
    "nv_inference_compute_output_duration_us": (
        "Making results.",
        lambda counted: counted.stages["postprocess"],
    ),
}


class TritonCollector(Collector):
    """Reads what was counted of models when Prometheus asks.

    Args:
        models: Gives each model's name, version and what was counted of it.
    """

    def __init__(self, models: Callable[[], Models]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yields all of it."""
        models = list(self._models())
        for name, (documentation, count) in _COUNTS.items():
            counts = [(model, version, count(counted)) for model, version, counted in models]
            yield _family(name, documentation, counts)
        for name, (documentation, duration) in _DURATIONS.items():
            microseconds = [
                (model, version, duration(counted)[1] * 1e6) for model, version, counted in models
            ]
            yield _family(name, f"{documentation} Microseconds, summed up.", microseconds)


def _family(name: str, documentation: str, values: Sequence[tuple[str, int, float]]) -> Metric:
    # Prometheus's library ends the name of what it knows as a counter in _total, which Triton does not.
    family = Metric(name, documentation, "unknown")
    for model, version, value in values:
        family.add_sample(name, {"model": model, "version": str(version)}, value)
    return family
