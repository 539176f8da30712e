"""One random schedule of requests and faults for the batching core, and what must hold in it."""

import asyncio
import random
from collections import Counter

from tests.fuzz.simulated_threads import Scheduler, Thread, in_place_of_threading
from tests.fuzz.watched_core import (
    CALLERS,
    Clock,
    Image,
    Network,
    ThreadKiller,
    WatchedBatcher,
    failing_count,
    watched,
)

from retinue_server.batching import engine as engine_module
from retinue_server.batching import recovery as recovery_module
from retinue_server.batching import runs as runs_module
from retinue_server.batching.batcher import Plan
from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.errors import (
    DeadlineExpiredError,
    ImageError,
    OverloadedError,
    RetinueError,
    UnavailableError,
)


class Schedule:
    """One schedule, from first request to last.

    Args:
        chance: The dice that make it up.

    Attributes:
        outcomes: How many items came to which end.
    """

    def __init__(self, chance: random.Random) -> None:
        self.outcomes: Counter[str] = Counter()
        self._chance = chance
        self._scheduler = Scheduler(chance)
        self._clock = Clock(self._scheduler)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stop_began = False
        self._closing: list[Network] = []
        self._helpers: list[Thread] = []

    def run(self) -> None:
        """Runs it and checks that everything came to its end.

        Raises:
            AssertionError: Something did not.
        """
        modules = in_place_of_threading(self._scheduler, engine_module, recovery_module, runs_module)
        with modules, watched(), asyncio.Runner() as runner:
            runner.run(self._all())

    async def _all(self) -> None:
        chance = self._chance
        self._engine = Engine(chance.randint(1, 3), clock=self._clock)
        self._clock.lock = self._engine.lock
        faults, deaths = chance.choice(((0, 0), (0.1, 0), (0.5, 0), (0.1, 0), (0.1, 0.02)))
        self._networks = self._made_up(faults, deaths)
        self._batchers = [self._batcher(network) for network in self._networks]
        self._began()
        self._engine.start()
        for _ in range(chance.randint(20, 120)):
            self._act()
            if chance.random() < 0.6:
                await asyncio.sleep(0)
        await self._drain()
        self._check_idle()
        for network in self._networks:
            self._close(network)
        self._stop()
        await self._drain()
        self._check_end()

    def _made_up(self, faults: float, deaths: float) -> list[Network]:
        """The networks, with how often they fail, and end their thread."""
        count = self._chance.randint(1, 3)
        return [Network(self._scheduler, self._clock, faults, deaths) for _ in range(count)]

    def _batcher(self, network: Network) -> WatchedBatcher:
        chance = self._chance
        return WatchedBatcher(
            network,
            self._engine,
            capacity=chance.choice((3, 12, 40)),
            item_seconds=0.01,
            runs_with=lambda first, second: getattr(first, "kind", 0) == getattr(second, "kind", 0),
            plan=Plan(chance.choice((0, 0, 1, 2)), chance.random() < 0.2),
            on_batch=failing_count if chance.random() < 0.1 else lambda size, seconds: None,
        )

    def _began(self) -> None:
        """Makes what else there is."""

    def _act(self) -> None:
        """Does one thing."""
        chance = self._chance
        act = chance.random()
        if act < 0.22:
            number = len(self._tasks)
            self._tasks[number] = asyncio.create_task(self._send(number))
        elif act < 0.30 and self._tasks:
            self._tasks[chance.randrange(len(self._tasks))].cancel()
        elif act < 0.36:
            self._clock.now += chance.choice((0.001, 0.01, 0.1))
        elif act < 0.364:
            self._close(chance.choice(self._networks))
        elif act < 0.365:
            self._stop()
        else:
            for _ in range(chance.randint(1, 4)):
                self._scheduler.step()

    async def _send(self, number: int) -> None:
        """What one caller does."""
        chance = self._chance
        kinds = chance.choice((1, 1, 2))
        kind = chance.randrange(kinds)
        items = [
            Image(number, index, chance.random() < 0.1, kind)
            for index in range(chance.choice((1, 1, 2, 5, 9)))
        ]
        place = chance.randrange(len(self._batchers))
        deadline = None if chance.random() < 0.6 else self._clock.now + chance.choice((0.0, 0.02, 0.1, 1))
        priority = chance.choice(list(Priority))
        try:
            outcomes = await self._batchers[place].submit(
                items,
                caller=chance.randrange(CALLERS),
                priority=priority,
                deadline=deadline,
            )
        except asyncio.CancelledError:
            self.outcomes["withdrawn"] += len(items)
            raise
        except RetinueError as error:
            assert not any(self._networks[place].ran[number, item.index] for item in items)
            self.outcomes[f"refused: {error.reason}"] += len(items)
            return
        assert len(outcomes) == len(items)
        for item, outcome in zip(items, outcomes, strict=True):
            self._check_outcome(place, item, priority, outcome)

    def _check_outcome(self, place: int, item: Image, priority: Priority, outcome: Outcome[Image]) -> None:
        value = outcome.value
        ran = self._networks[place].ran[item.request, item.index]
        if isinstance(value, RetinueError):
            assert not (isinstance(value, ImageError) and not item.is_bad)
            # Clients may send again what comes back like this.
            assert not (isinstance(value, DeadlineExpiredError | UnavailableError) and ran)
            assert not (isinstance(value, OverloadedError) and priority is not Priority.COPY)
            self.outcomes[value.reason] += 1
        else:
            assert value == item
            assert not item.is_bad
            assert ran == 1
            self.outcomes["answered"] += 1

    def _close(self, network: Network) -> None:
        if network not in self._closing:
            self._closing.append(network)
            batcher = self._batchers[self._networks.index(network)]
            self._helpers.append(self._scheduler.spawn(lambda: batcher.close(30)))

    def _stop(self) -> None:
        if not self._stop_began:
            self._stop_began = True
            self._helpers.append(self._scheduler.spawn(self._engine.stop))

    async def _drain(self) -> None:
        """Lets everything go on that can."""
        quiet = 0
        while quiet < 4:
            quiet = 0 if self._scheduler.step() else quiet + 1
            await asyncio.sleep(0)

    def _check_idle(self) -> None:
        """Nothing waits that could run, and the accounts are balanced."""
        for thread in (*self._engine._threads, *self._helpers):
            error = thread.error  # type: ignore[union-attr]
            if error is not None and not isinstance(error, ThreadKiller):
                raise error
        assert all(task.done() for task in self._tasks.values()), "a caller was never answered"
        for task in self._tasks.values():
            if not task.cancelled():
                task.result()
        for thread in self._scheduler.threads:
            assert not thread.expires, "a wait was ended by its time limit only"
        for batcher, network in zip(self._batchers, self._networks, strict=True):
            assert len(batcher) == batcher.requested == 0
            assert all(
                not level.size and not level.callers and not batcher._queue.waiting(priority)
                for priority, level in batcher._queue._levels.items()
            )
            assert not batcher._runs
            assert not batcher.faults
            assert network.running == 0
            assert max(network.ran.values(), default=1) == 1, "an item ran twice"
        assert not self._engine._running
        assert self._engine.idle == self._engine.instances

    def _check_end(self) -> None:
        self._check_idle()
        assert not self._scheduler.threads, "a thread never ended"
        assert [network.closed for network in self._networks] == [1] * len(self._networks)
        died = any(thread.error for thread in self._engine._threads)  # type: ignore[attr-defined]
        assert self._engine.healthy == (not died)
