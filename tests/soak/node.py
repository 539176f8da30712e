"""A server of the soak, through all of its lives: started, ended, killed, started again."""

import asyncio
import math
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from tests.server_process import ServerProcess

_ASK_SECONDS = 30.0
# Less than the five seconds after which the server closes an idle connection, where a request may just be coming.
_KEPT_SECONDS = 2.0
# What a model has counted goes with its last version.
_SWAPPED = "colours"


@dataclass(frozen=True)
class Footprint:
    """What a server's processes hold together.

    Attributes:
        private_bytes: Memory that no file backs.
        descriptors: Open files and sockets.
        threads: Their number.
    """

    private_bytes: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Access:
    """How a server is reached.

    Attributes:
        token: What callers show; empty where none is asked for.
        ca: PEM of the authority of its certificate; empty where it speaks no TLS.
    """

    token: str = ""
    ca: bytes = b""


@dataclass
class Life:
    """One process of a server, from its start to its end.

    Attributes:
        server: The process.
        number: Which life it is.
        idle: What it held when it was ready and nobody had asked much.
        warm: What it held when traffic had run for a while; None before.
        answered: What callers counted of it, by method and status.
        abandoned: Calls of which nobody knows what the server made of them.
        front_ends_killed: How many.
        killed: Whether it was ended by SIGKILL.
    """

    server: ServerProcess
    number: int
    idle: Footprint | None = None
    warm: Footprint | None = None
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    abandoned: int = 0
    front_ends_killed: int = 0
    killed: bool = False


class Node:
    """A server that comes back.

    Args:
        name: Its name in the table.
        models: The folder it serves.
        arguments: Further flags.
        access: How it is reached.

    Attributes:
        name: As given.
        lives: Those so far, the current one last.
        shaken_at: When one of its front-ends was killed last, on time.monotonic.
        serving: Whether new calls may be sent to it, as a load balancer would say.
    """

    def __init__(self, name: str, models: Path, arguments: Iterable[str], access: Access = Access()) -> None:
        self.name = name
        self.lives: list[Life] = []
        self.serving = False
        self._models = models
        self._arguments = tuple(arguments)
        self._access = access
        self.shaken_at = -math.inf

    @property
    def life(self) -> Life:
        """The current one."""
        return self.lives[-1]

    @property
    def server(self) -> ServerProcess:
        """The current process."""
        return self.life.server

    @property
    def encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return bool(self._access.ca)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What each call shows."""
        return [("authorization", f"Bearer {self._access.token}")] if self._access.token else []

    async def start(self) -> None:
        """Begins its next life; returns when it is ready."""
        server = ServerProcess(self._models, "--log-level", "info", *self._arguments)
        self.lives.append(Life(server, len(self.lives)))
        await asyncio.to_thread(server.wait_until_ready)
        scheme = "https" if self.encrypted else "http"
        self.http_url = server.http_url.replace("http", scheme, 1)
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            # As the client library has it: when a front-end is gone, gRPC itself would try the others a second later.
            ("grpc.initial_reconnect_backoff_ms", 200),
        ]
        if self.encrypted:
            credentials = grpc.ssl_channel_credentials(self._access.ca)
            # Each call may take another front-end's connection.
            self.channels = [
                grpc.aio.secure_channel(server.grpc_address, credentials, options) for _ in range(4)
            ]
        else:
            self.channels = [grpc.aio.insecure_channel(server.grpc_address, options)]
        self.http = httpx.AsyncClient(
            base_url=self.http_url,
            headers=dict(self.metadata),
            verify=self._context(),
            timeout=_ASK_SECONDS,
            limits=httpx.Limits(keepalive_expiry=_KEPT_SECONDS),
        )
        self.life.idle = self.footprint()
        self.serving = True

    async def disconnect(self) -> None:
        """Closes the connections of callers."""
        await self.http.aclose()
        for channel in self.channels:
            await channel.close()

    async def terminate(self) -> int:
        """Ends it as a rolling update does; returns its exit code."""
        self.serving = False
        # Calls that are on their way arrive before it drains.
        await asyncio.sleep(0.5)
        code = await asyncio.to_thread(self.server.terminate)
        await self._ended()
        return code

    async def kill(self) -> None:
        """Ends it by SIGKILL, with its front-ends."""
        self.life.killed = True
        children = psutil.Process(self.server.process.pid).children(recursive=True)
        self.server.process.kill()
        self.serving = False
        await asyncio.to_thread(self.server.wait)
        psutil.wait_procs(children, timeout=20)
        await self._ended()

    def kill_front_end(self, place: int) -> bool:
        """Ends one of its front-ends by SIGKILL, unless another one is not back yet; returns whether it did.

        When there is none left, the server is as good as killed, which is a fault of its own.
        """
        children = psutil.Process(self.server.process.pid).children()
        if len(children) < 2 or not all(map(_listens, children)):
            return False
        self.life.front_ends_killed += 1
        self.shaken_at = time.monotonic()
        children[place % len(children)].kill()
        return True

    def footprint(self) -> Footprint:
        """What its processes hold now."""
        first = psutil.Process(self.server.process.pid)
        held = []
        for process in (first, *first.children(recursive=True)):
            try:
                memory = process.memory_info()
                held.append((memory.rss - memory.shared, process.num_fds(), process.num_threads()))
            except psutil.NoSuchProcess:
                continue
        return Footprint(*(sum(column) for column in zip(*held, strict=True)))

    async def counted(self) -> Mapping[tuple[str, str], float]:
        """The calls that it has counted, by method and status."""
        found: Counter[tuple[str, str]] = Counter()
        text = (await self.http.get("/metrics")).raise_for_status().text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "retinue_requests_total" and sample.labels["model"] != _SWAPPED:
                    found[sample.labels["method"], sample.labels["code"]] += sample.value
        return found

    def close(self) -> None:
        """Ends all of its lives."""
        for life in self.lives:
            life.server.close()

    async def _ended(self) -> None:
        await self.disconnect()

    def _context(self) -> ssl.SSLContext | bool:
        if not self.encrypted:
            return False
        return ssl.create_default_context(cadata=self._access.ca.decode())


def _listens(process: psutil.Process) -> bool:
    try:
        return any(one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp"))
    except psutil.Error:
        return False
