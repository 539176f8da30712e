"""What `Client` and `AsyncClient` add to a call: beside a bare stub call that carries the same bytes both ways.

One caller, one image of 50 KB, and a server that answers at once. The two take turns, since a machine is not the same
from one second to the next.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import grpc
from retinue.v1 import vision_service_pb2 as pb

from benchmarks import photos
from benchmarks.machine import ROOT
from benchmarks.served import CLASSIFY
from retinue_client import AsyncClient, Client

GOAL_US = 150
_MODEL = "canned"


def run(*, quick: bool) -> dict[str, Any]:
    """Measures both clients, each in turns with the bare call, and takes the medians of the rounds."""
    rounds, seconds = (2, 0.2) if quick else (15, 1.0)
    photo = photos.jpeg()
    request = pb.ClassifyRequest(model=_MODEL, images=[{"encoded": photo}]).SerializeToString()
    with _canned_server() as address:
        rows = [
            {"client": "Client", **_plain(address, photo, request, rounds, seconds)},
            {"client": "AsyncClient", **asyncio.run(_async(address, photo, request, rounds, seconds))},
        ]
    return {"image_bytes": len(photo), "rounds": rounds, "goal_us": GOAL_US, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| | bare call µs | with the client µs | overhead µs | CPU overhead µs | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| `{row['client']}.classify` | {row['bare_us']:.0f} | {row['client_us']:.0f} | {row['overhead_us']:.0f} "
        f"| {row['cpu_overhead_us']:.0f} "
        f"| {'within' if row['overhead_us'] <= result['goal_us'] else 'over'} {result['goal_us']} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _plain(address: str, photo: bytes, request: bytes, rounds: int, seconds: float) -> dict[str, float]:
    with grpc.insecure_channel(address) as channel, Client(address) as client:
        bare: Any = channel.unary_unary(CLASSIFY)

        def ask() -> None:
            client.classify(photo, model=_MODEL)

        def call() -> None:
            bare(request, timeout=60)

        return _differences(
            [(_spend(call, seconds), _spend(ask, seconds)) for _ in range(rounds + 1)],
        )


async def _async(address: str, photo: bytes, request: bytes, rounds: int, seconds: float) -> dict[str, float]:
    async with grpc.aio.insecure_channel(address) as channel, AsyncClient(address) as client:
        bare: Any = channel.unary_unary(CLASSIFY)

        async def ask() -> None:
            await client.classify(photo, model=_MODEL)

        async def call() -> None:
            await bare(request, timeout=60)

        return _differences(
            [(await _spend_async(call, seconds), await _spend_async(ask, seconds)) for _ in range(rounds + 1)]
        )


def _spend(call: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Calls for so long; returns the time and the CPU time of this process for each call, microseconds."""
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - began) < seconds:
        call()
        count += 1
    return 1e6 * spent / count, 1e6 * (time.process_time() - cpu) / count


async def _spend_async(call: Callable[[], Awaitable[None]], seconds: float) -> tuple[float, float]:
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - began) < seconds:
        await call()
        count += 1
    return 1e6 * spent / count, 1e6 * (time.process_time() - cpu) / count


def _differences(pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> dict[str, float]:
    """Medians; the first round connects."""
    measured = pairs[1:]
    return {
        "bare_us": median(bare for (bare, _), _ in measured),
        "client_us": median(client for _, (client, _) in measured),
        "overhead_us": median(client - bare for (bare, _), (client, _) in measured),
        "cpu_overhead_us": median(client - bare for (_, bare), (_, client) in measured),
    }


@contextmanager
def _canned_server() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.canned"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
