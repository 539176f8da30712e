"""A Retinue server under load, and whether it answered all of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from retinue.v1 import vision_service_pb2 as pb
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess, running_server

from benchmarks import bundles, h2load
from benchmarks.h2load import Call, Load, LoadError
from benchmarks.processes import Tree
from benchmarks.workloads import Workload

CLASSIFY = "/retinue.v1.VisionService/Classify"
# A closed loop that ends leaves calls behind, which are then cancelled.
_NO_FAILURES = {"OK", "CANCELLED"}


@dataclass(frozen=True, slots=True)
class Served:
    """What was measured of one workload.

    Attributes:
        images_per_second: Answered.
        cpu_seconds_per_image: Of the server.
        p50_ms: Median latency of a request.
        p99_ms: 99 % were faster.
        client_share: Share of the machine's cores that the load took.
    """

    images_per_second: float
    cpu_seconds_per_image: float
    p50_ms: float
    p99_ms: float
    client_share: float

    @classmethod
    def of(cls, load: Load) -> "Served":
        """From a load whose progress is counted in images."""
        return cls(
            load.progress_per_second,
            load.server_cores / load.progress_per_second,
            load.p50_ms,
            load.p99_ms,
            load.client_share,
        )


class RetinueServer:
    """A server that is ready.

    Attributes:
        process: It.
        tree: The same, as what takes CPU time and memory.
    """

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.tree = Tree(process.process.pid)

    def measure(self, workload: Workload, callers: int, seconds: float, images: int = 1) -> Served:
        """Drives it in a closed loop, after one request whose answer is looked at.

        Args:
            workload: What is asked.
            callers: How many connections ask, each one request at a time.
            seconds: How long.
            images: In each request.

        Raises:
            LoadError: A request failed.
        """
        request = workload.request(images)
        self.check(request)
        call = h2load.grpc(self.process.grpc_address, CLASSIFY, request)
        return self.drive(call, workload.model, callers, seconds)

    def drive(self, call: Call, model: str, callers: int, seconds: float) -> Served:
        """The same for any call.

        Args:
            call: What is asked.
            model: Which model is.
            callers: How many connections ask.
            seconds: How long.

        Raises:
            LoadError: A request failed.
        """
        before = self._failures()
        load = h2load.drive(
            call,
            self.tree,
            callers,
            seconds,
            # Images and not requests: those of many images come in clumps.
            lambda: MetricsPage(self.process.http_url).total("retinue_batch_size_sum", model=model),
        )
        failures = self._failures() - before
        if failures:
            raise LoadError(f"{failures:.0f} calls or images of {model} failed with {callers} callers.")
        return Served.of(load)

    def check(self, request: bytes) -> pb.ClassifyResponse:
        """Sends a serialised ClassifyRequest and returns the answer.

        Raises:
            LoadError: An image of it has no result.
        """
        with grpc.insecure_channel(self.process.grpc_address) as channel:
            call: Any = channel.unary_unary(CLASSIFY)
            reply: bytes = call(request, timeout=60)
        response = pb.ClassifyResponse.FromString(reply)
        if not all(outcome.result.classes for outcome in response.outcomes):
            raise LoadError(f"an image has no result: {response.outcomes[0].error.message}")
        return response

    def _failures(self) -> float:
        page = MetricsPage(self.process.http_url)
        calls = sum(
            sample.value
            for sample in page.find("retinue_requests_total")
            if sample.labels["code"] not in _NO_FAILURES
        )
        return calls + page.total("retinue_images_total", outcome="failed")


@contextmanager
def running(*arguments: str, models: Path | None = None) -> Iterator[RetinueServer]:
    """A server on the benchmark's bundles, or on others, with further arguments; ended afterwards."""
    with running_server(models or bundles.folder(), "--provider", "cpu", *arguments) as process:
        yield RetinueServer(process)
