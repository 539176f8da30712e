"""A server on a GPU asked with JPEG files over gRPC, by processes of their own.

`python -m benchmarks.gpu_grpc ADDRESS MODEL SECONDS` is one of these: it says when it is ready, begins when it is told,
and prints its images a second.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from benchmarks import photos
from benchmarks.machine import ROOT

_CLASSIFY = "/retinue.v1.VisionService/Classify"
_CALLERS, _IMAGES_A_REQUEST = 6, 32
_LIMITS = ("--max-queue-images", "4096", "--max-bytes-in-flight", str(1 << 30))
_START_SECONDS = 150
_STOP_SECONDS = 60


def measure(models: Path, provider: str, model: str, seconds: float, clients: int) -> dict[str, Any]:
    """Images a second of a server of its own process.

    Args:
        models: The bundles' folder.
        provider: The server's.
        model: Which is asked.
        seconds: For how long.
        clients: Processes that ask.

    Raises:
        RuntimeError: The server does not start.
    """
    address = f"127.0.0.1:{_free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        arguments = ["--models", str(models), "--provider", provider, "--cache-folder", folder, *_LIMITS]
        ports = ["--grpc-port", address.partition(":")[2], "--http-port", "0"]
        with log.open("wb") as file:
            command = [sys.executable, "-m", "retinue_server", *arguments, *ports, "--log-format", "json"]
            server = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=os.environ)
        try:
            ready_seconds = _wait_until_ready(server, address, model, log)
            rates = _drive(address, model, seconds, clients)
        finally:
            server.terminate()
            server.wait(_STOP_SECONDS)
    return {"images_per_second": sum(rates), "ready_seconds": ready_seconds, "clients": clients}


def _wait_until_ready(server: "subprocess.Popen[bytes]", address: str, model: str, log: Path) -> float:
    began = time.perf_counter()
    with grpc.insecure_channel(address) as channel:
        call: Callable[..., bytes] = channel.unary_unary(_CLASSIFY)
        while True:
            try:
                call(_request(model, 1), timeout=5, wait_for_ready=True)
                return time.perf_counter() - began
            except grpc.RpcError as error:
                if server.poll() is not None or time.perf_counter() - began > _START_SECONDS:
                    text = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                    raise RuntimeError(f"the server does not answer: {error}\n{text}") from error
                time.sleep(0.2)


def _drive(address: str, model: str, seconds: float, clients: int) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.gpu_grpc", address, model, str(seconds)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        for _ in range(clients)
    ]
    for one in running:
        assert one.stdout is not None
        one.stdout.readline()
    for one in running:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    told = [one.communicate() for one in running]
    return [float(printed) for printed, _ in told]


def _ask(address: str, model: str, seconds: float) -> float:
    """Images a second of some callers; those of the first third do not count."""
    request = _request(model, _IMAGES_A_REQUEST)
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(_CALLERS) as pool:
        call: Callable[..., bytes] = channel.unary_unary(_CLASSIFY)
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        end = began + seconds * 4 / 3
        answered_at: list[float] = []

        def work(_: int) -> None:
            while not answered_at or time.perf_counter() < end:
                call(request, timeout=60)
                answered_at.append(time.perf_counter())

        list(pool.map(work, range(_CALLERS)))
    counted = [at for at in answered_at if began + seconds / 3 <= at < end] or answered_at
    return _IMAGES_A_REQUEST * len(counted) / max(seconds, max(counted) - began)


def _request(model: str, images: int) -> bytes:
    files = photos.jpegs()
    sent = [image_pb2.Image(encoded=files[number % len(files)]) for number in range(images)]
    return pb.ClassifyRequest(model=model, images=sent).SerializeToString()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    print(_ask(sys.argv[1], sys.argv[2], float(sys.argv[3])))
