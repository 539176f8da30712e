"""The front-end processes, as the engine's process sees them: started, watched, told what to do, counted together."""

import asyncio
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace

import psutil
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from retinue.v1 import vision_service_pb2 as pb

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.tickets import Priority
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.errors import StartupError, UnavailableError
from retinue_server.front_end_counts import FrontEndCounts
from retinue_server.front_end_process import FrontEndProcess, Given
from retinue_server.metrics import Metrics
from retinue_server.rpc import replies
from retinue_server.rpc.model_control import ModelControl
from retinue_server.rpc.port import PrivateSockets, SharedPort
from retinue_server.rpc.relay import Relay
from retinue_server.rpc.server import streams_per_connection
from retinue_server.runtime.providers import RUNTIME_VERSION, Provider, available_cores
from retinue_server.settings import Settings
from retinue_server.tracing.tracer import Tracer
from retinue_server.workers import frames
from retinue_server.workers.alarm import Alarm
from retinue_server.workers.counts import ALL_STATISTICS, pack_statistics
from retinue_server.workers.frames import Kind
from retinue_server.workers.serving import Plan, Served, shared_among
from retinue_server.workers.slots import Place, Places

_log = structlog.get_logger(__name__)

# Beyond the grace, for what a process has to do besides.
_ORDERS_SECONDS = 10.0
# What has other models than the rest for longer is ended.
_LONGEST_BEHIND_SECONDS = 10.0
_FIRST_RESTART_SECONDS = 0.1
_LONGEST_RESTART_SECONDS = 10.0
# What lives longer did not die of its start.
_SOUND_SECONDS = 10.0
# How often front-ends are told of the queues: soon after a request has come or gone, and while any waits.
_PUBLISH_SECONDS = 0.001
_PUBLISH_WAITING_SECONDS = 0.01


class FrontEnds(Collector):
    """All front-end processes. To `app` they are what `rpc.server.RpcServer` is.

    Args:
        metrics: Of this process.
        provider: What runs the models.
        settings: Of the whole server.
        control: Answers the calls about models that they pass on.
        tracer: Makes spans of the batches that run for them; None makes none.

    Attributes:
        port: The port that they share.
        merged: What all processes have counted.
        relay: Passes calls on that come to this process.
    """

    def __init__(
        self,
        metrics: Metrics,
        provider: Provider,
        settings: Settings,
        control: ModelControl,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._metrics = metrics
        self._settings = settings
        self._provider = provider
        self._control = control
        self._shared_port = SharedPort(settings.host, settings.grpc_port)
        self.port = self._shared_port.port
        # Callers may need a certificate, of which this process has none; and it says there who calls.
        self._private = PrivateSockets()
        private = [self._private.address(number) for number in range(settings.workers)]
        self.relay = Relay(private, streams_per_connection(settings))
        threads = settings.decode_threads or available_cores()
        self._plan = Plan(
            shared_among(settings, settings.workers, self.port), provider, -(-threads // settings.workers)
        )
        self._processes: dict[int, FrontEndProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._places = Places()
        self._given: Given | None = None
        self._serving = self._closed = self._ending = False
        self._restarts = 0
        self._publishing = Alarm(self._publish_and_go_on)
        metrics.registry.register(self)
        self._counts = FrontEndCounts(metrics, self._processes.values())
        self.merged = self._counts.merged

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
        self._give(catalog)
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

    async def publish(self, catalog: Catalog) -> None:
        """Gives them other models; when this ends, whichever front-end a request comes to, it finds those.

        A front-end that does not take them in time is ended.
        """
        self._give(catalog)
        waiting = {
            asyncio.ensure_future(process.current.wait()): (number, process)
            for number, process in self._processes.items()
            if process.listening.is_set()
        }
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=_LONGEST_BEHIND_SECONDS)
        for one in late:
            one.cancel()
            number, process = waiting[one]
            _log.error("worker_behind", worker=number, seconds=_LONGEST_BEHIND_SECONDS)
            process.kill()

    def forget_model(self, name: str, version: int) -> None:
        """Drops what was counted of a model that is gone."""
        self._counts.forget_model(name, version)

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
        await self._counts.update()

    def note_change(self, number: int) -> None:
        """Tells the front-ends at once how many images wait for a model, and of all queues soon."""
        for process in self._processes.values():
            end = process.models.get(number)
            if end is not None:
                assert isinstance(end.queue, Batcher)
                end.slots.load.publish_waiting(end.queue.requested)
        self._publishing.ring_in(_PUBLISH_SECONDS)

    def note_listening(self, process: FrontEndProcess) -> None:
        """Gives a process the models, unless they are still being loaded.

        Not before: one that has none yet answers no request from those that have gone meanwhile.
        """
        if self._given is not None:
            self._give_to([process], self._given)

    async def answer(self, method: str, request: bytes) -> bytes:
        """Answers a call that a front-end passes on.

        Raises:
            RetinueError: Why there is no answer.
        """
        if not self._serving:
            raise UnavailableError("the server is loading its models; retry shortly.", reason="LOADING")
        if method == ALL_STATISTICS:
            await self.count()
            return pack_statistics(self._counts.statistics())
        return await self._control.answer(method, request)

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
        process = FrontEndProcess(self, self._tracer)
        try:
            address = self._private.address(number)
            await process.start(replace(self._plan, private_address=address, joins=self._serving))
        except OSError:
            process.close()
            raise
        self._processes[number] = process
        if self._closed:
            process.send(Kind.CLOSE)

    def _give(self, catalog: Catalog) -> None:
        before = self._given
        places: dict[ServedModel, Place] = {}
        pipelines: list[ServedModel] = []
        for model in catalog.models:
            if model.manifest.HasField("pipeline"):
                pipelines.append(model)
            elif before is not None and model in before.places:
                places[model] = before.places[model]
            else:
                assert model.layout is not None
                places[model] = self._places.new(model.layout)
        number = before.number + 1 if before is not None else 1
        served = Served(
            number,
            [self._described(model, catalog) for model in places],
            list(places.values()),
            [self._described(model, catalog) for model in pipelines],
            catalog.failures,
            {
                place.number: model.batcher.refusal
                for model, place in places.items()
                if model.batcher.refusal is not None
            },
        )
        self._given = Given(number, places, served.pack())
        listening = [process for process in self._processes.values() if process.listening.is_set()]
        self._give_to(listening, self._given)

    def _give_to(self, processes: Collection[FrontEndProcess], given: Given) -> None:
        for process in processes:
            process.hold(given)
        # Before they know of a model they must know how much room its queue has.
        self._publish()
        for process in processes:
            process.give(given)

    def _described(self, model: ServedModel, catalog: Catalog) -> pb.Model:
        return replies.model_message(model, catalog.policy(model.name), self._provider, RUNTIME_VERSION)

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
            self._counts.keep(process)
            if self._ending:
                return
            if not self._serving:
                raise StartupError(
                    process.failure or f"front-end process {number} ended with code {code}; its log says why."
                )
            _log.error("worker_died", worker=number, exit_code=code, reason=process.failure)
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
        if self._publish():
            self._publishing.ring_in(_PUBLISH_WAITING_SECONDS)

    def _publish(self) -> bool:
        """Tells of all queues, those of models that go included; returns whether anything waits in one."""
        queues = {
            number: end.queue
            for process in self._processes.values()
            for number, end in process.models.items()
        }
        # What waits for one model delays the others.
        for number, batcher in queues.items():
            assert isinstance(batcher, Batcher)
            waits = {priority: batcher.wait_seconds(priority) for priority in Priority}
            for process in self._processes.values():
                end = process.models.get(number)
                if end is not None:
                    end.slots.load.publish(batcher.requested, batcher.capacity, waits)
        return any(map(len, queues.values()))
