"""What a server's /metrics says, and waiting for it to say something."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Sample:
    """One line."""

    name: str
    labels: dict[str, str]
    value: float


class MetricsPage:
    """One reading of a server's metrics."""

    def __init__(self, http_url: str) -> None:
        self.text = httpx.get(f"{http_url}/metrics").raise_for_status().text
        self.samples = [
            Sample(sample.name, dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        ]

    def find(self, name: str, **labels: str) -> list[Sample]:
        """The lines of that name that have at least these labels."""
        return [
            sample
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum over those lines, 0 where there are none."""
        return sum(sample.value for sample in self.find(name, **labels))

    def value(self, name: str, **labels: str) -> float:
        """The value of the only such line."""
        (sample,) = self.find(name, **labels)
        return sample.value


def waiting_images(http_url: str, model: str) -> float:
    """How many images wait for a model now."""
    return MetricsPage(http_url).value("retinue_queue_images", model=model)


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Asks until the answer is yes. The condition asks a server, which is what paces the questions."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s in vain for {what}"
