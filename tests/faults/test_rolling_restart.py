"""Servers that are restarted one after the other cost a caller who knows them all not one call."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb
from retinue.v1 import vision_service_pb2_grpc
from tests.calls import flat
from tests.metrics_page import MetricsPage, wait_until
from tests.ports import free_port
from tests.server_process import ServerProcess

_CALLERS = 3
# What a caller sets who balances over several servers. Source: gRFC A6, and gRPC's service_config.proto.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server that drains says so here, and is called no more before it closes its connections.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{"service": "retinue.v1.VisionService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


class Replica:
    """A server that has the same ports again each time that it is started."""

    def __init__(self, models: Path, *arguments: str) -> None:
        self._models = models
        ports = ("--grpc-port", str(free_port()), "--http-port", str(free_port()))
        self._arguments = (*ports, *arguments)
        self.start()

    def start(self) -> None:
        """Starts it."""
        self.process = ServerProcess(self._models, *self._arguments)

    def restart(self) -> None:
        """Ends it as an orchestrator does, and starts it again."""
        assert self.process.terminate() == 0
        self.process.close()
        self.start()
        self.process.wait_until_ready()

    def close(self) -> None:
        """Ends it."""
        self.process.close()


@contextmanager
def _replicas(models: Path, *arguments: str) -> Iterator[list[Replica]]:
    with ExitStack() as stack:
        replicas = [Replica(models, *arguments) for _ in range(2)]
        for one in replicas:
            stack.callback(one.close)
        for one in replicas:
            one.process.wait_until_ready()
        yield replicas


@pytest.mark.parametrize("workers", [0, 1], ids=["one process", "a front-end"])
def test_no_call_fails_while_servers_are_restarted_in_turn(workers: int, colour_models: Path) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(0, 0, 255)] * 2)
    outcomes: Counter[str] = Counter()
    done = threading.Event()

    def call(vision: vision_service_pb2_grpc.VisionServiceStub) -> None:
        while not done.is_set():
            try:
                first, second = vision.Classify(request, timeout=30).outcomes
                outcomes[first.result.classes[0].label + second.result.classes[0].label] += 1
            except grpc.RpcError as error:
                outcomes[f"{error.code()}: {error.details()}"] += 1

    with _replicas(colour_models, "--workers", str(workers)) as replicas:
        target = "ipv4:" + ",".join(one.process.grpc_address for one in replicas)
        options = [
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        with grpc.insecure_channel(target, options=options) as channel:
            stub = vision_service_pb2_grpc.VisionServiceStub(channel)
            callers = [threading.Thread(target=call, args=(stub,)) for _ in range(_CALLERS)]
            for caller in callers:
                caller.start()
            try:
                for one in replicas:
                    one.restart()
                    wait_until(lambda one=one: _answered(one.process) > 0, "it to be found")  # type: ignore[misc]
            finally:
                done.set()
                for caller in callers:
                    caller.join()
        assert set(outcomes) == {"blueblue"}, outcomes
        for one in replicas:
            page = MetricsPage(one.process.http_url)
            assert page.total("retinue_queue_images") == 0
            # Each image of each call that it has answered.
            answered = page.total("retinue_images_total", model="colour-classifier", outcome="answered")
            assert answered == 2 * _answered(one.process)


def _answered(server: ServerProcess) -> float:
    return MetricsPage(server.http_url).total("retinue_requests_total", method="Classify", code="OK")
