"""Load from h2load, a client in C that takes little of the machine: the same request again and again, in a closed loop.

It counts HTTP statuses only, and a failed gRPC call has the status 200 as well. So who drives a gRPC server asks it how
many calls failed.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.processes import Tree
from retinue_server.runtime.providers import available_cores

GRPC_PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length in four bytes."""
_OK = "200"
_SHORTEST_WARMING_SECONDS = 0.5
_ANSWERS_EACH = 2
"""To each caller on average: where they take long, so does the measurement."""
_PATIENCE_SECONDS = 240
_LONGEST_SECONDS = 3600
"""It is ended when the second reading was taken, so that this is taken under load, too."""


class LoadError(RuntimeError):
    """What was measured means nothing: h2load is missing, or calls failed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request.

    Attributes:
        url: Where it goes.
        body: What it carries.
        headers: Each as `name: value`.
        http1: Whether the server speaks HTTP/1.1 only.
    """

    url: str
    body: bytes
    headers: tuple[str, ...]
    http1: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured of a server under load.

    Attributes:
        requests: Those that were answered.
        progress_per_second: Answered requests, or what the caller counts instead.
        p50_ms: Median latency.
        p99_ms: 99 % were faster.
        server_cores: Cores that the server used on average.
        client_share: Share of the machine's cores that h2load used.
    """

    requests: int
    progress_per_second: float
    p50_ms: float
    p99_ms: float
    server_cores: float
    client_share: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of h2load's log.

    Attributes:
        ended: When, in seconds since 1970.
        seconds: How long it took.
        status: Of HTTP; -1 for a broken connection.
    """

    ended: float
    seconds: float
    status: str


def grpc(address: str, method: str, message: bytes) -> Call:
    """A unary gRPC call.

    Args:
        address: host:port.
        method: /package.Service/Method.
        message: The serialised request.
    """
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    return Call(f"http://{address}{method}", framed, ("content-type: application/grpc", "te: trailers"))


def drive(
    call: Call,
    server: Tree,
    callers: int,
    seconds: float,
    progress: Callable[[], float] | None = None,
) -> Load:
    """Drives a server with `callers` connections, each with one request at a time.

    Args:
        call: The request.
        server: Whose CPU time is read.
        callers: How many.
        seconds: How long at least, after a warm-up of a quarter of that.
        progress: Reads how much the server has done in all; without it answered requests count.

    Raises:
        LoadError: h2load is missing or ended by itself, or a call failed.
    """
    if shutil.which("h2load") is None:
        raise LoadError("h2load is not installed: scripts/install-system-packages installs it.")
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(call.body)
        command = _command(call, callers, body, log)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as client:
            try:
                time.sleep(max(_SHORTEST_WARMING_SECONDS, seconds / 4))
                first = Reading.take(server, Tree(client.pid), progress)
                enough = _lines(log) + _ANSWERS_EACH * callers
                time.sleep(seconds)
                _wait_until(lambda: _lines(log) >= enough or client.poll() is not None)
                last = Reading.take(server, Tree(client.pid), progress)
            finally:
                ended = client.poll()
                client.terminate()
                said = client.communicate()[0]
        if ended is not None:
            raise LoadError(f"h2load ended by itself, with exit code {ended}:\n{said}")
        answers = list(parse(log.read_text(encoding="utf-8").splitlines()))
    return summary(answers, first, last)


def parse(lines: Iterable[str]) -> Iterable[Answer]:
    """Reads h2load's log: start in microseconds since 1970, HTTP status, microseconds until the answer."""
    for line in lines:
        start, status, took = line.split("\t")[:3]
        yield Answer((int(start) + int(took)) / 1e6, int(took) / 1e6, status)


@dataclass(frozen=True, slots=True)
class Reading:
    """What clocks and counters say at one moment.

    Attributes:
        at: Seconds since 1970.
        server_cpu_seconds: What the server has taken so far.
        client_cpu_seconds: What h2load has.
        progress: What the caller counts; None where it leaves that to answered requests.
    """

    at: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    progress: float | None

    @classmethod
    def take(cls, server: Tree, client: Tree, progress: Callable[[], float] | None) -> "Reading":
        """Takes it now."""
        counted = None if progress is None else progress()
        return cls(time.time(), server.cpu_seconds(), client.cpu_seconds(), counted)


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n")


def _wait_until(done: Callable[[], bool]) -> None:
    ending = time.monotonic() + _PATIENCE_SECONDS
    while not done():
        if time.monotonic() > ending:
            raise LoadError(f"the server gave hardly an answer in {_PATIENCE_SECONDS} s.")
        time.sleep(0.1)


def _command(call: Call, callers: int, body: Path, log: Path) -> list[str]:
    headers = [word for header in call.headers for word in ("-H", header)]
    return [
        *("h2load", "--threads=1", f"--clients={callers}", "--max-concurrent-streams=1"),
        *(f"--duration={_LONGEST_SECONDS}", f"--data={body}", f"--log-file={log}"),
        *(["--h1"] if call.http1 else []),
        *headers,
        call.url,
    ]


def summary(answers: Sequence[Answer], first: Reading, last: Reading) -> Load:
    """What was measured between two readings.

    Raises:
        LoadError: A request failed, at any time.
    """
    failed = [answer for answer in answers if answer.status != _OK]
    if failed:
        raise LoadError(
            f"{len(failed)} of {len(answers)} requests failed, the first with status {failed[0].status}."
        )
    counted = [answer for answer in answers if first.at <= answer.ended < last.at]
    elapsed = last.at - first.at
    done: float = len(counted)
    if first.progress is not None and last.progress is not None:
        done = last.progress - first.progress
    latencies = sorted(answer.seconds for answer in counted)
    return Load(
        requests=len(counted),
        progress_per_second=done / elapsed,
        p50_ms=1000 * median(latencies),
        p99_ms=1000 * latencies[int(0.99 * len(latencies))],
        server_cores=(last.server_cpu_seconds - first.server_cpu_seconds) / elapsed,
        client_share=(last.client_cpu_seconds - first.client_cpu_seconds) / elapsed / available_cores(),
    )
