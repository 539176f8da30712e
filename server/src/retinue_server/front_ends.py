"""The front-end processes, as the engine's process sees them: started, watched, told what to do, counted together."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import psutil
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.tickets import Priority
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.errors import StartupError
from retinue_server.metrics import Metrics
from retinue_server.rpc import replies
from retinue_server.rpc.port import PrivateSockets, SharedPort, address
from retinue_server.rpc.relay import Relay
from retinue_server.runtime.providers import RUNTIME_VERSION, Provider, available_cores
from retinue_server.settings import Settings
from retinue_server.workers import counts, frames
from retinue_server.workers.alarm import Alarm
from retinue_server.workers.channel import Channel
from retinue_server.workers.counts import Counts, MergedMetrics
from retinue_server.workers.frames import FrameError, Kind, frame
from retinue_server.workers.serving import Plan, Served, shared_among
from retinue_server.workers.slots import Layout, SharedMemory, Slots
from retinue_server.workers.submissions import ModelEnd, Submissions

_log = structlog.get_logger(__name__)

_COUNT_SECONDS = 1.0
# Beyond the grace, for what a process has to do besides.
_ORDERS_SECONDS = 10.0
_FIRST_RESTART_SECONDS = 0.1
_LONGEST_RESTART_SECONDS = 10.0
# What lives longer did not die of its start.
_SOUND_SECONDS = 10.0
# How often front-ends are told of the queues: soon after a request has come or gone, and while any waits.
_PUBLISH_SECONDS = 0.001
_PUBLISH_WAITING_SECONDS = 0.01


class FrontEndProcess:
    """One front-end process.

    Args:
        owner: Those that it belongs to.

    Attributes:
        process: It; None until it is started.
        counts: What its metrics said last.
        listening: Set when it answers calls.
        ready: Set when it serves the models.
        drained: Set when it has no call in flight and takes no more, or has ended.
        failure: Why it cannot start, in its own words; else empty.
    """

    def __init__(self, owner: "FrontEnds") -> None:
        self.counts: Counts = {}
        self.listening = asyncio.Event()
        self.ready = asyncio.Event()
        self.drained = asyncio.Event()
        self.failure = ""
        self.slots: list[Slots] = []
        self.process: asyncio.subprocess.Process | None = None
        self._owner = owner
        self._memory = SharedMemory.new()
        self._submissions: Submissions | None = None
        self._channel = Channel(self._on_frame, self._on_lost)
        self._counted: asyncio.Future[None] | None = None

    async def start(self, plan: Plan) -> None:
        """Starts it and tells it how to serve."""
        ours, theirs = socket.socketpair()
        environment = {name: text for name, text in os.environ.items() if not name.startswith("RETINUE_")}
        await self._channel.open(ours)
        with theirs:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "retinue_server.frontend"),
                *(str(theirs.fileno()), str(self._memory.file)),
                pass_fds=(theirs.fileno(), self._memory.file),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                # Signals of a terminal are for the engine's process.
                start_new_session=True,
            )
        self.send(Kind.SETTINGS, plan.pack())

    def open(self, served: Served, models: Sequence[ServedModel]) -> None:
        """Gives it the models."""
        self._memory.grow(served.layouts)
        self.slots = self._memory.map(served.layouts)
        ends = [ModelEnd(model.batcher, slots) for model, slots in zip(models, self.slots, strict=True)]
        self._submissions = Submissions(ends, self._channel.send, self._owner.note_change)
        self.send(Kind.MODELS, served.pack())

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """Tells it something."""
        self._channel.send(frame(kind, body))

    async def count(self) -> None:
        """Has `counts` brought up to date, unless that takes too long."""
        if self._counted is None:
            self._counted = asyncio.get_running_loop().create_future()
            self.send(Kind.COUNT)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._counted), _COUNT_SECONDS)

    async def answered(self) -> None:
        """Waits until what became of all its requests has been said."""
        if self._submissions is not None:
            await self._submissions.answered()

    async def gone(self) -> int:
        """Waits for its end; returns its exit code."""
        assert self.process is not None
        code = await self.process.wait()
        self.close()
        return code

    def close(self) -> None:
        """Lets go of what it shared with this process."""
        self.drained.set()
        self._channel.close()
        self._memory.close()
        if self._submissions is not None:
            self._submissions.drop_all()
        if self._counted is not None and not self._counted.done():
            self._counted.set_result(None)

    def kill(self) -> None:
        """Ends it at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()

    def _on_frame(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.SUBMIT and self._submissions is not None:
            self._submissions.submit(body)
        elif kind is Kind.CANCEL and self._submissions is not None:
            self._submissions.cancel(body)
        elif kind is Kind.COUNTED:
            self.counts = counts.parse(body)
            if self._counted is not None:
                self._counted.set_result(None)
                self._counted = None
        elif kind is Kind.LISTENING:
            self.listening.set()
        elif kind is Kind.READY:
            self.ready.set()
        elif kind is Kind.DRAINED:
            self.drained.set()
        elif kind is Kind.FAILED:
            self.failure = body.decode()
        else:
            raise FrameError(f"an unexpected {kind.name}")

    def _on_lost(self) -> None:
        # It has closed the connection and ends, or is told so now.
        if not self.drained.is_set():
            self.kill()


class FrontEnds(Collector):
    """All front-end processes. To `app` they are what `rpc.server.RpcServer` is.

    Args:
        metrics: Of this process.
        provider: What runs the models.
        settings: Of the whole server.

    Attributes:
        port: The port that they share.
        merged: What all processes have counted.
        relay: Passes calls on that come to this process.
    """

    def __init__(self, metrics: Metrics, provider: Provider, settings: Settings) -> None:
        self._settings = settings
        self._provider = provider
        self._shared_port = SharedPort(settings.host, settings.grpc_port)
        self.port = self._shared_port.port
        # Callers may need a certificate, of which this process has none.
        self._private = PrivateSockets(wanted=bool(settings.tls_certificate))
        shared = address(settings.host, self.port)
        self.relay = Relay([self._private.address(number) or shared for number in range(settings.workers)])
        threads = settings.decode_threads or available_cores()
        self._plan = Plan(
            shared_among(settings, settings.workers, self.port), provider, -(-threads // settings.workers)
        )
        self._processes: dict[int, FrontEndProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._served: Served | None = None
        self._models: Sequence[ServedModel] = ()
        self._serving = self._closed = self._ending = False
        self._restarts = 0
        self._lost_counts: Counts = {}
        self._publishing = Alarm(self._publish_and_go_on)
        metrics.registry.register(self)
        self.merged = MergedMetrics(metrics.registry, self._all_counts)

    async def start(self) -> None:
        """Starts the processes; until `open`, they answer with UNAVAILABLE."""
        for number in range(self._settings.workers):
            await self._start(number)
            self._keepers.append(asyncio.get_running_loop().create_task(self._keep(number)))

    async def open(self, catalog: Catalog) -> None:
        """Gives them the models, and waits until each serves them.

        Raises:
            StartupError: One of them cannot.
        """
        self._models = catalog.models
        self._served = Served(
            [
                replies.model_message(model, catalog.policy(model.name), self._provider, RUNTIME_VERSION)
                for model in catalog.models
            ],
            [_layout(model) for model in catalog.models],
            catalog.failures,
        )
        for process in self._processes.values():
            self._give_models(process, self._served)
        opening = asyncio.ensure_future(self._all_ready())
        try:
            await asyncio.wait({opening, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opening.cancel()
        for keeper in self._keepers:
            if keeper.done():
                # One of the processes has ended with the reason.
                keeper.result()
        self._serving = True

    async def close(self) -> None:
        """Has everything reported as not serving."""
        self._closed = True
        for process in self._processes.values():
            process.send(Kind.CLOSE)

    async def finish(self, grace_seconds: float) -> None:
        """Has them finish the calls in flight, or give up after the grace; they take no new ones."""
        self._ending = True
        for process in self._processes.values():
            if process.listening.is_set():
                process.send(Kind.DRAIN, frames.pack_seconds(grace_seconds))
            else:
                process.kill()
        waiting = [asyncio.ensure_future(process.drained.wait()) for process in self._processes.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=grace_seconds + _ORDERS_SECONDS)
            for one in late:
                one.cancel()

    async def stop(self) -> None:
        """Ends them, when all that the engine has answered is with them."""
        await self.relay.close()
        processes = list(self._processes.values())
        # A batch that hangs in a network is never answered.
        answered = asyncio.gather(*(process.answered() for process in processes))
        with suppress(TimeoutError):
            await asyncio.wait_for(answered, _ORDERS_SECONDS)
        for process in processes:
            process.send(Kind.STOP)
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=_ORDERS_SECONDS)
        for process in self._processes.values():
            process.kill()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._shared_port.close()
        self._private.close()

    async def count(self) -> None:
        """Brings `merged` up to date."""
        await asyncio.gather(
            *(process.count() for process in self._processes.values() if process.listening.is_set())
        )

    def note_change(self, number: int) -> None:
        """Tells the front-ends at once how many images wait for a model, and of all queues soon."""
        waiting = len(self._models[number].batcher)
        for process in self._processes.values():
            if process.slots:
                process.slots[number].load.publish_waiting(waiting)
        self._publishing.ring_in(_PUBLISH_SECONDS)

    @property
    def ready(self) -> bool:
        """Whether one of them serves the models."""
        return any(process.ready.is_set() for process in self._processes.values())

    def collect(self) -> Iterator[Metric]:
        """Yields what there is to say of the processes themselves."""
        memory = GaugeMetricFamily(
            "retinue_worker_resident_memory_bytes",
            "Memory of each front-end process, what it shares with others included.",
            labels=["worker"],
        )
        for number, process in sorted(self._processes.items()):
            with suppress(psutil.Error):
                if process.process is not None:
                    memory.add_metric([str(number)], psutil.Process(process.process.pid).memory_info().rss)
        restarts = CounterMetricFamily(
            "retinue_worker_restarts", "Front-end processes that ended by themselves and were started again."
        )
        restarts.add_metric([], self._restarts)
        yield from (memory, restarts)

    async def _start(self, number: int) -> None:
        process = FrontEndProcess(self)
        try:
            await process.start(replace(self._plan, private_address=self._private.address(number)))
        except OSError:
            process.close()
            raise
        self._processes[number] = process
        if self._served is not None:
            self._give_models(process, self._served)
            if self._closed:
                process.send(Kind.CLOSE)

    def _give_models(self, process: FrontEndProcess, served: Served) -> None:
        process.open(served, self._models)
        self._publish()

    async def _keep(self, number: int) -> None:
        """Starts a process again each time that it ends.

        Raises:
            StartupError: It ends before it serves for the first time.
        """
        pause_seconds = _FIRST_RESTART_SECONDS
        while True:
            process = self._processes[number]
            began = time.monotonic()
            code = await process.gone()
            del self._processes[number]
            _add(self._lost_counts, process.counts)
            if self._ending:
                return
            if not self._serving:
                raise StartupError(
                    process.failure or f"front-end process {number} ended with code {code}; its log says why."
                )
            _log.error("worker_died", worker=number, exit_code=code)
            if time.monotonic() - began > _SOUND_SECONDS:
                pause_seconds = _FIRST_RESTART_SECONDS
            while number not in self._processes:
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_RESTART_SECONDS)
                if self._ending:
                    return
                try:
                    await self._start(number)
                except OSError as error:
                    _log.error("worker_not_started", worker=number, reason=error.strerror)
            self._restarts += 1

    async def _all_ready(self) -> None:
        for process in list(self._processes.values()):
            await process.ready.wait()

    def _publish_and_go_on(self) -> None:
        self._publish()
        if any(len(model.batcher) for model in self._models):
            self._publishing.ring_in(_PUBLISH_WAITING_SECONDS)

    def _publish(self) -> None:
        # What waits for one model delays the others.
        for number, model in enumerate(self._models):
            batcher = model.batcher
            assert isinstance(batcher, Batcher)
            waits = {priority: batcher.wait_seconds(priority) for priority in Priority}
            for process in self._processes.values():
                if process.slots:
                    process.slots[number].load.publish(len(batcher), batcher.capacity, waits)

    def _all_counts(self) -> Iterator[Counts]:
        yield self._lost_counts
        for process in self._processes.values():
            yield process.counts


def _layout(model: ServedModel) -> Layout:
    assert model.layout is not None
    return model.layout


def _add(counts: Counts, more: Counts) -> None:
    for sample, value in more.items():
        counts[sample] = counts.get(sample, 0.0) + value
