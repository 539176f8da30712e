"""A process that sends: it makes its requests' bytes travel and tells its parent what became of them."""

import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeAlias

from retinue_client._bench.driver import Driver, Pulse, Rules
from retinue_client._bench.load import Load, Window
from retinue_client._bench.reply import reader
from retinue_client._bench.requests import Prepared
from retinue_client._bench.wire import GrpcWire, SystemClock
from retinue_client._models import Task
from retinue_client._security import PLAIN, Security

# gRPC's thread gets its turn this soon after an answer has come, not after Python's usual 5 ms.
_SWITCH_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a process needs to know for all loads.

    Attributes:
        address: The server, as a target of gRPC's.
        task: The question.
        requests: What is sent.
        timeout_seconds: Each request's deadline, or None.
        connections: Over how many connections.
        security: How they are encrypted, and what says who calls.
    """

    address: str
    task: Task
    requests: list[Prepared]
    timeout_seconds: float | None
    connections: int
    security: Security = PLAIN

    def connect(self) -> GrpcWire:
        """The way to the server, which the first call opens."""
        method = self.task.capitalize()
        return GrpcWire(self.address, method, self.timeout_seconds, self.connections, self.security)


@dataclass(frozen=True, slots=True)
class Order:
    """One load, as `Driver` takes it."""

    load: Load
    window: Window
    rules: Rules
    seed: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Tells the parent that a process can begin."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Ends a load before its time; of a load that has ended already, it means nothing."""


FromWorker: TypeAlias = Ready | Pulse
ToWorker: TypeAlias = Order | Stop


def work(connection: Connection, equipment: Equipment) -> None:
    """Does what the parent orders, until the parent closes the connection."""
    # Ctrl-C reaches every process of a terminal. The parent answers it, and still wants to hear what was counted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(_SWITCH_SECONDS)
    read = reader(equipment.task)
    clock = SystemClock()

    def report(pulse: Pulse) -> bool:
        connection.send(pulse)
        return not connection.poll()

    with equipment.connect() as wire, connection:
        try:
            connection.send(Ready())
            while True:
                order = connection.recv()
                if isinstance(order, Order):
                    driver = Driver(
                        *(wire, equipment.requests, read, order.load, order.window, order.rules, order.seed),
                        clock,
                    )
                    driver.run(report)
        except (EOFError, ConnectionError):
            pass  # the parent is done, or gone
