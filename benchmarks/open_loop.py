"""An open-loop client in a process of its own: requests come when they come, however slow the answers are.

`python -m benchmarks.open_loop` reads an `Order` as JSON and prints what became of the requests. A latency counts from
the moment at which a request was to be sent, so that a server that holds up its client gains nothing by it.
"""

import asyncio
import json
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from benchmarks import http2
from benchmarks.arrivals import poisson
from benchmarks.machine import ROOT
from retinue_server.runtime.providers import available_cores

_CONNECTIONS = 16
_OK = grpc.StatusCode.OK.value[0]
_REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode} | {http2.RESET: "RESET"}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done.

    Attributes:
        address: host:port of the server.
        path: /package.Service/Method.
        body_file: Where the serialised request is.
        rate_per_second: Requests in a second on average.
        warming_seconds: For how long requests come that do not count.
        seconds: For how long those come that count.
        timeout_ms: The deadline of each.
        seed: Of the arrivals.
    """

    address: str
    path: str
    body_file: str
    rate_per_second: float
    warming_seconds: float
    seconds: float
    timeout_ms: int
    seed: int = 0


@dataclass(slots=True)
class Fate:
    """What became of a request.

    Attributes:
        due: When it was to be sent, on the loop's clock.
        late_seconds: How much later it was.
        status: gRPC's; None as long as there is none.
        seconds: From `due` until then.
    """

    due: float
    late_seconds: float = 0.0
    status: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all that count.

    Attributes:
        offered_per_second: Requests.
        goodput_per_second: Those that were answered within their deadline.
        p50_ms: Median latency of these; 0 where there are none.
        p99_ms: 99 % were faster.
        refused_share: Share of the requests that was refused for overload.
        refusal_p50_ms: Median latency of a refusal; 0 where there are none.
        refusal_p99_ms: 99 % were faster.
        statuses: Share of each gRPC status; what was answered after its deadline is LATE.
        late_p99_ms: How late the client sent, but for 1 % of the requests.
        client_share: Share of the machine's cores that the client took.
    """

    offered_per_second: float
    goodput_per_second: float
    p50_ms: float
    p99_ms: float
    refused_share: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    statuses: dict[str, float]
    late_p99_ms: float
    client_share: float


def drive(order: Order) -> Outcome:
    """Has a process of its own do it."""
    command = [sys.executable, "-m", "benchmarks.open_loop"]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(asdict(order)), stdout=subprocess.PIPE, text=True, check=True
    )
    return Outcome(**json.loads(done.stdout))


def summary(fates: Sequence[Fate], order: Order, client_share: float) -> Outcome:
    """Counts what became of the requests that count.

    Args:
        fates: Of them.
        order: What was to be done.
        client_share: See `Outcome`.
    """
    good = sorted(fate.seconds for fate in fates if _name(fate, order) == "OK")
    refused = sorted(fate.seconds for fate in fates if fate.status == _REFUSED)
    statuses = Counter(_name(fate, order) for fate in fates)
    return Outcome(
        offered_per_second=len(fates) / order.seconds,
        goodput_per_second=len(good) / order.seconds,
        p50_ms=_percentile_ms(good, 0.5),
        p99_ms=_percentile_ms(good, 0.99),
        refused_share=len(refused) / len(fates),
        refusal_p50_ms=_percentile_ms(refused, 0.5),
        refusal_p99_ms=_percentile_ms(refused, 0.99),
        statuses={name: count / len(fates) for name, count in statuses.most_common()},
        late_p99_ms=_percentile_ms(sorted(fate.late_seconds for fate in fates), 0.99),
        client_share=client_share,
    )


def _name(fate: Fate, order: Order) -> str:
    if fate.status is None:
        return "UNANSWERED"
    if fate.status == _OK and 1000 * fate.seconds > order.timeout_ms:
        return "LATE"
    return _NAMES[fate.status]


def _percentile_ms(ascending_seconds: Sequence[float], share: float) -> float:
    if not ascending_seconds:
        return 0.0
    return 1000 * ascending_seconds[min(int(share * len(ascending_seconds)), len(ascending_seconds) - 1)]


async def _drive(order: Order) -> Outcome:
    loop = asyncio.get_running_loop()
    request = http2.request(order.address, order.path, Path(order.body_file).read_bytes(), order.timeout_ms)
    moments = poisson(order.rate_per_second, order.warming_seconds + order.seconds, order.seed)
    host, _, port = order.address.rpartition(":")
    fates = [Fate(moment) for moment in moments]

    def end(number: int, status: int) -> None:
        fate = fates[number]
        fate.status, fate.seconds = status, loop.time() - fate.due

    connections = [
        (await loop.create_connection(lambda: http2.Connection(request, end), host, int(port)))[1]
        for _ in range(_CONNECTIONS)
    ]
    beginning = loop.time()
    cpu_before = time.process_time()
    for number, fate in enumerate(fates):
        fate.due += beginning
        # Also where it is due already: answers are to be read.
        await asyncio.sleep(max(0.0, fate.due - loop.time()))
        fate.late_seconds = loop.time() - fate.due
        connections[number % _CONNECTIONS].send(number)
    client_share = (time.process_time() - cpu_before) / (loop.time() - beginning) / available_cores()
    giving_up = loop.time() + 2 * order.timeout_ms / 1000
    while any(connection.unanswered for connection in connections) and loop.time() < giving_up:
        await asyncio.sleep(0.01)
    for connection in connections:
        connection.close()
    counted = [fate for fate in fates if fate.due >= beginning + order.warming_seconds]
    return summary(counted, order, client_share)


def _precise_loop() -> asyncio.AbstractEventLoop:
    """A loop that wakes to the microsecond; those on epoll and libuv wake to the millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _main() -> None:
    order = Order(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        print(json.dumps(asdict(runner.run(_drive(order)))))


if __name__ == "__main__":
    _main()
