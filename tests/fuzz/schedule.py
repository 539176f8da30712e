"""One random schedule of requests and faults for the batching core, and what must hold in it."""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from tests.fuzz.ailing_models import Ailments, Model, ThreadKiller, random_limits
from tests.fuzz.balances import check_engine, check_model, check_no_idle_thread, check_queue
from tests.fuzz.simulated_threads import Scheduler, Thread, in_place_of_threading
from tests.fuzz.watched_core import CALLERS, Clock, Image, WatchedBatcher, failing_count, watched

from retinue_server.batching import engine as engine_module
from retinue_server.batching import recovery as recovery_module
from retinue_server.batching import runs as runs_module
from retinue_server.batching.batcher import Plan
from retinue_server.batching.engine import Engine
from retinue_server.batching.recovery import Recovery, State
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.errors import (
    DeadlineExpiredError,
    ImageError,
    OverloadedError,
    RetinueError,
    UnavailableError,
)

# After so many pauses and looks of the watchdog everything has come to rest.
_ROUNDS = 60


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
        self._is_healed = chance.random() < 0.5
        faults, deaths = chance.choice(((0, 0), (0.1, 0), (0.5, 0), (0.1, 0), (0.1, 0.02)))
        ailments = Ailments(faults, deaths, chance.choice((0, 0.05, 0.2, 0.5)) * self._is_healed)
        self._models = self._made_up(ailments)
        self._batchers = [self._batcher(model) for model in self._models]
        self._began()
        self._engine.start()
        for _ in range(chance.randint(20, 120)):
            self._act()
            if chance.random() < 0.6:
                await asyncio.sleep(0)
        # Or all ends in the midst of it.
        if chance.random() < 0.7:
            await self._settle()
            self._check_idle()
            await self._ask_all()
        for model in self._models:
            self._close(model)
        self._stop()
        await self._settle()
        self._check_end()
        await self._release_all()

    def _made_up(self, ailments: Ailments) -> list[Model]:
        """The models, and what befalls them."""
        return [Model(self._scheduler, self._clock, ailments) for _ in range(self._chance.randint(1, 3))]

    def _batcher(self, model: Model) -> WatchedBatcher:
        chance = self._chance
        batcher = WatchedBatcher(
            model.networks[0],
            self._engine,
            capacity=chance.choice((3, 12, 40)),
            item_seconds=0.01,
            runs_with=lambda first, second: getattr(first, "kind", 0) == getattr(second, "kind", 0),
            plan=Plan(chance.choice((0, 0, 1, 2)), chance.random() < 0.2),
            on_batch=failing_count if chance.random() < 0.1 else lambda size, seconds: None,
        )
        if self._is_healed and chance.random() < 0.8:
            limits = random_limits(self._scheduler)
            batcher.heal_by(
                Recovery(
                    model.remedy,
                    limits,
                    on_change=batcher.note_change,
                    clock=self._clock,
                    start=batcher.start,
                )
            )
        else:
            model.ailments = replace(model.ailments, hangs=0)
        return batcher

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
            self._close(chance.choice(self._models))
        elif act < 0.365:
            self._stop()
        elif act < 0.45 and self._is_healed:
            self._clock.now += chance.choice((0, 0, 0, 3))
            self._watch(chance.choice((0.1, 0.6, 0.6, 2, 100)))
        elif act < 0.46 and self._is_healed:
            self._release_one()
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
            assert not any(self._models[place].ran[number, item.index] for item in items)
            self.outcomes[f"refused: {error.reason}"] += len(items)
            return
        assert len(outcomes) == len(items)
        for item, outcome in zip(items, outcomes, strict=True):
            self._check_outcome(place, item, priority, outcome)

    def _check_outcome(self, place: int, item: Image, priority: Priority, outcome: Outcome[Image]) -> None:
        value = outcome.value
        ran = self._models[place].ran[item.request, item.index]
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

    def _close(self, model: Model) -> None:
        if not model.is_closing:
            model.is_closing = True
            batcher = self._batchers[self._models.index(model)]
            self._helpers.append(self._scheduler.spawn(lambda: batcher.close(30)))

    def _stop(self) -> None:
        if not self._stop_began:
            self._stop_began = True
            self._helpers.append(self._scheduler.spawn(self._stop_engine))

    def _stop_engine(self) -> None:
        self._engine.stop()
        running = self._engine._running.values()
        assert all(one.batch.stop.requested for one in running), "a batch was not told to stop"

    def _watch(self, elapsed_seconds: float) -> None:
        running = list(self._engine._running.values())
        self._engine.watch(elapsed_seconds)
        for one in running:
            queue = one.batcher
            assert isinstance(queue, WatchedBatcher)
            assert queue.recovery is None or one.batch in queue.watched_seconds, "nobody looked at a batch"

    def _release_one(self) -> None:
        hanging = [hang for model in self._models for hang in model.hanging()]
        if hanging:
            self._chance.choice(hanging).released = True

    async def _drain(self) -> None:
        """Lets everything go on that can."""
        quiet = 0
        while quiet < 4:
            quiet = 0 if self._scheduler.step() or self._expire_join() else quiet + 1
            await asyncio.sleep(0)
        check_no_idle_thread(self._engine)

    def _expire_join(self) -> bool:
        hanging = [hang.thread for model in self._models for hang in model.hanging()]
        return bool(hanging) and self._scheduler.expire_join(hanging)

    async def _settle(self) -> None:
        """Lets everything come to rest: what hangs is given up, or is released now and then, and models are healed.

        Raises:
            AssertionError: Something never does.
        """
        await self._drain()
        for _ in range(_ROUNDS):
            if self._is_settled():
                return
            for model in self._models:
                model.release(runs=False)
            if self._chance.random() < 0.1:
                self._release_one()
            self._clock.now += 10
            self._watch(self._chance.choice((1, 5, 1000)))
            await self._drain()
        raise AssertionError(f"a batch is never given up, or a model never healed: {self._states()}")

    def _is_settled(self) -> bool:
        if self._engine._running or any(
            not hang.is_run for model in self._models for hang in model.hanging()
        ):
            return False
        settled = {None, State.READY, State.GIVEN_UP}
        if self._stop_began or not self._engine.healthy:
            # There may be no thread any more that runs the probe.
            settled.add(State.SUSPECT)
        return settled.issuperset(self._states())

    def _states(self) -> list[State | None]:
        """Of the models that are not unloaded; None where one cannot fall ill."""
        return [
            None if model.is_closing or batcher.recovery is None else batcher.recovery.state
            for model, batcher in zip(self._models, self._batchers, strict=True)
        ]

    async def _ask_all(self) -> None:
        """A model that is ready answers, and so does one that was given up when its threads are back."""
        for place, model in enumerate(self._models):
            recovery = self._batchers[place].recovery
            if model.is_closing or self._stop_began or not self._engine.healthy:
                continue
            model.ailments = Ailments()
            if recovery is not None and recovery.state is State.GIVEN_UP:
                if self._chance.random() < 0.5:
                    continue
                model.release()
                await self._settle()
            asked = asyncio.create_task(self._batchers[place].submit([self._item(10**6 + place)]))
            await self._settle()
            assert not isinstance(asked.result()[0].value, RetinueError), (
                "a model is ready and answers nobody"
            )
            self._check_idle()

    def _item(self, number: int) -> Any:
        """One that any network answers."""
        return Image(number, 0, False, 0)

    def _watched(self) -> list[WatchedBatcher]:
        """All queues of the engine."""
        return self._batchers

    def _check_idle(self) -> None:
        """Nothing waits that could run, and the accounts are balanced."""
        for error in self._scheduler.errors:
            if not isinstance(error, ThreadKiller):
                raise error
        assert all(task.done() for task in self._tasks.values()), "a caller was never answered"
        for task in self._tasks.values():
            if not task.cancelled():
                task.result()
        assert not any(helper.is_alive() for helper in self._helpers), "unloading or stopping never ends"
        for thread in self._scheduler.threads:
            assert not thread.expires, "a wait was ended by its time limit only"
        for queue in self._watched():
            check_queue(queue)
        for model, queue in zip(self._models, self._batchers, strict=True):
            check_model(model, queue)
        check_engine(self._engine, self._watched())

    def _check_end(self) -> None:
        self._check_idle()
        lost = [hang.thread for model in self._models for hang in model.hanging()]
        assert set(self._scheduler.threads) == set(lost), "a thread never ended"

    async def _release_all(self) -> None:
        """Threads that were lost may end at last, which changes nothing, and must not stay behind the schedule."""
        counted = self._engine.usage(), [queue.cost.seconds for queue in self._watched()]
        for model in self._models:
            model.release()
        await self._drain()
        self._check_idle()
        assert not self._scheduler.threads, "a thread never ended"
        assert counted == (self._engine.usage(), [queue.cost.seconds for queue in self._watched()])
