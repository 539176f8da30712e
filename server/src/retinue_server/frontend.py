"""A front-end process: it has the port, decodes and answers, and has the engine's process run the networks.

`python -m retinue_server.frontend SOCKET MEMORY` is started by that process, with the descriptors of one end of a
socket pair and of the memory that they share.
"""

import asyncio
import gc
import signal
import socket
import sys
from functools import partial

import uvloop

from retinue_server import log, memory_plan
from retinue_server.batching.engine import Engine
from retinue_server.connections import allow_files
from retinue_server.errors import StartupError
from retinue_server.front_end_models import FrontEndModels
from retinue_server.metrics import Metrics
from retinue_server.rpc.access import Access
from retinue_server.rpc.call_records import CallRecords
from retinue_server.rpc.calls import Calls
from retinue_server.rpc.inference_servicer import InferenceServicer
from retinue_server.rpc.model_control import PassedOnControl
from retinue_server.rpc.server import RpcServer
from retinue_server.rpc.servicer import VisionServicer
from retinue_server.runtime.memory import Ceiling, private_bytes, share_heaps
from retinue_server.runtime.providers import RUNTIME_VERSION, available_cores
from retinue_server.service import VisionService
from retinue_server.settings import Settings
from retinue_server.tally import Statistics
from retinue_server.tls import IdentityFiles
from retinue_server.tokens import TokenFile
from retinue_server.tracing.tracer import LAST_SPANS_SECONDS, Tracer
from retinue_server.vision.room import ROOM
from retinue_server.workers import counts, frames
from retinue_server.workers.channel import Channel
from retinue_server.workers.frames import Kind, frame
from retinue_server.workers.link import EngineLink
from retinue_server.workers.passed_on import Asking
from retinue_server.workers.serving import Plan, Served
from retinue_server.workers.slots import SharedMemory

# For the last answers: all they need is there.
_LAST_ANSWERS_SECONDS = 5.0
_FAILED_EXIT_CODE = 70


class FrontEnd:
    """What one front-end process runs.

    Args:
        memory: What it shares with the engine's process.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        # Until it is known which names are wanted; it may be asked for what it has counted before.
        self._metrics = Metrics()
        self._orders: asyncio.Queue[tuple[Kind, bytes]] = asyncio.Queue()
        self._opened = self._ending = self._joins = False
        self._channel = Channel(self._on_frame, self._on_lost)
        self._link = EngineLink(self._channel.send)
        self._asking = Asking(self._channel.send)

    async def run(self, end: socket.socket) -> None:
        """Serves until it is told to stop.

        Args:
            end: Of the socket pair.
        """
        await self._channel.open(end)
        kind, body = await self._orders.get()
        assert kind is Kind.SETTINGS, kind
        plan = Plan.unpack(body)
        log.configure(plan.settings.log_level, plan.settings.log_format)
        ROOM.max_bytes = plan.settings.max_decoded_bytes_in_flight
        self._metrics = Metrics(triton_names=plan.settings.triton_metrics == "on")
        self._engine = Engine(plan.decode_threads, on_failure=partial(log.exit_at_once, _FAILED_EXIT_CODE))
        self._service = VisionService(self._engine, self._metrics)
        vision = VisionServicer(self._service, plan.provider, RUNTIME_VERSION, plan.settings)
        control = PassedOnControl(self._asking.ask)
        tensors = InferenceServicer(
            self._service,
            self._metrics,
            plan.provider,
            plan.settings,
            control,
            counted_by_all=self._counted_by_all,
        )
        self._models = FrontEndModels(
            self._memory,
            self._link,
            self._engine,
            forget=self._metrics.forget_model,
            released=lambda number: self._channel.send(frame(Kind.RELEASED, frames.pack_number(number))),
        )
        self._models_stay = plan.settings.model_control == "none"
        self._metrics.publish_pools({"front-ends": self._engine.usage})
        try:
            tracer = Tracer.of(plan.settings)
            self._metrics.publish_traces(tracer)
            access = Access(TokenFile.of(plan.settings), plan.settings.workers)
            records = CallRecords(tracer, plan.settings.access_log_share)
            calls = Calls(self._metrics, plan.settings, access, records)
            self._metrics.publish_calls(calls.in_flight)
            self._rpc = RpcServer(
                vision,
                tensors,
                calls,
                plan.settings,
                identity=IdentityFiles.of(plan.settings),
                no_room=self._ceiling(plan.settings).exceeded,
                private_address=plan.private_address,
            )
        except StartupError as error:
            self._channel.send(frame(Kind.FAILED, error.message.encode()))
            return
        self._joins = plan.joins
        if not self._joins:
            await self._rpc.start()
        self._engine.start()
        if not self._models_stay:
            # Models may go again, and the collector must find what of them refers only to itself.
            _keep()
        self._channel.send(frame(Kind.LISTENING))
        while not self._ending:
            await self._obey(*await self._orders.get())
        if tracer is not None:
            await asyncio.to_thread(tracer.close, LAST_SPANS_SECONDS)
        self._channel.close()

    async def _counted_by_all(self) -> dict[counts.Key, Statistics]:
        return counts.unpack_statistics(await self._asking.ask(counts.ALL_STATISTICS, b""))

    def _ceiling(self, settings: Settings) -> Ceiling:
        """What this process has now, and what is set aside for requests here."""
        most_bytes = private_bytes() + memory_plan.room_bytes(settings.model_copy(update={"workers": 1}))
        return Ceiling(lambda: most_bytes, private_bytes)

    async def _obey(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.MODELS:
            await self._serve(Served.unpack(body))
        elif kind is Kind.CLOSE:
            await self._rpc.close()
        elif kind is Kind.DRAIN:
            # Models may still come and go: a call that is in flight may wait for that.
            drain = self._drain(frames.unpack_seconds(body))
            self._draining = asyncio.get_running_loop().create_task(drain)
        elif kind is Kind.STOP:
            self._ending = True
            await self._rpc.finish(_LAST_ANSWERS_SECONDS)
            await asyncio.to_thread(self._engine.stop)
            await self._rpc.stop()

    async def _serve(self, served: Served) -> None:
        catalog, gone = self._models.take(served)
        if self._opened:
            self._service.replace(catalog)
            await self._rpc.publish(catalog)
        else:
            self._opened = True
            self._service.open(catalog)
            await self._rpc.open(catalog)
            if self._joins:
                await self._rpc.start()
            if self._models_stay:
                _keep()
        self._channel.send(frame(Kind.READY, frames.pack_number(served.number)))
        self._models.let_go(gone)

    async def _drain(self, grace_seconds: float) -> None:
        self._service.drain()
        await self._rpc.close()
        await self._rpc.finish(grace_seconds)
        self._channel.send(frame(Kind.DRAINED))

    def _on_frame(self, kind: Kind, body: bytes) -> None:
        if kind in (Kind.REPLY, Kind.REFUSED, Kind.ENDED):
            self._link.take(kind, body)
        elif kind in (Kind.ANSWER, Kind.NO_ANSWER):
            self._asking.take(kind, body)
        elif kind is Kind.COUNT:
            statistics = counts.pack_statistics(self._metrics.all_statistics())
            self._channel.send(frame(Kind.STATISTICS, statistics))
            self._channel.send(frame(Kind.COUNTED, counts.read(self._metrics.registry)))
        else:
            self._orders.put_nowait((kind, body))

    def _on_lost(self) -> None:
        if not self._ending:
            # The engine's process is gone, or does not understand: nothing that waits here can be answered.
            log.exit_at_once(_FAILED_EXIT_CODE)


def _keep() -> None:
    """Spares the collector what is there by now and lives as long as the process."""
    gc.collect()
    gc.freeze()


def main() -> None:
    """Runs a front-end."""
    # When to end is for the engine's process to say, which gets the same signals.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    allow_files()
    share_heaps(available_cores())
    end, memory = (int(argument) for argument in sys.argv[1:])
    uvloop.run(FrontEnd(SharedMemory(memory)).run(socket.socket(fileno=end)))


if __name__ == "__main__":
    main()
