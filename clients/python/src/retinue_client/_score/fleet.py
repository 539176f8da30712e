"""The servers of a job: which of them gets the next request, and which are gone for now."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from retinue_client._async_client import AsyncClient
from retinue_client._errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RetinueError,
    UnavailableError,
)
from retinue_client._models import ModelInfo, Task
from retinue_client._score.asker import Asker
from retinue_client._score.pace import Pace, Ticket

# What is found out of a server begins with these.
_START_IMAGES = 16
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0
_PROBE_TIMEOUT_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class Server:
    """One server.

    Attributes:
        asker: Asks it.
        pace: How much it takes.
        silent_since: When it first did not answer after it last did; None while it answers.
        probing: Asks it whether it is back, while it is gone; nothing else is sent to it then.
    """

    asker: Asker
    pace: Pace
    silent_since: float | None = None
    probing: asyncio.Task[None] | None = None

    @property
    def is_gone(self) -> bool:
        """Whether it takes no requests for now."""
        return self.probing is not None


@dataclass(frozen=True, slots=True)
class Turn:
    """Images that may be sent to a server now."""

    server: Server
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Wanted:
    """The model that servers must have.

    Attributes:
        task: What it must answer.
        name: Its name; empty where a server has exactly one for the task.
        version: Its version or its label, or None for the one that most requests get.
    """

    task: Task
    name: str = ""
    version: int | str | None = None


class Fleet:
    """Hands out turns: a request goes where most of the room is free, and never to a server that is gone.

    A server that does not answer gets no more requests until a probe, a question for the model, is answered. One that
    refuses is left alone as long as it says. The job goes on while any server answers, and is given up only when all
    have been silent for longer than its patience.

    Args:
        askers: One for each server; they are closed with this.
        wanted: What all of them must have.
        max_in_flight: The most images under way at each.
        patience_seconds: How long all may be silent.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        askers: Sequence[Asker],
        wanted: Wanted,
        *,
        max_in_flight: int,
        patience_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.servers = [
            Server(asker, Pace(start=_START_IMAGES, maximum=max_in_flight, clock=clock)) for asker in askers
        ]
        self._wanted = wanted
        # What was found when the job began.
        self._model: ModelInfo | None = None
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._changed = asyncio.Event()
        # Since when nobody has answered, and what was said last.
        self._silent_since: float | None = None
        self._failure: RetinueError | None = None
        self._random = random.Random(0)

    async def find_model(self) -> ModelInfo:
        """The model that answers, after each server was asked for it.

        Servers that do not answer are probed from now on, where others do.

        Raises:
            InvalidRequestError: It is not the same on all of them, or none is named and there is not exactly one.
            RetinueError: None answers, or one has no such model.
        """
        found = await asyncio.gather(*map(self._look, self.servers), return_exceptions=True)
        models: dict[Server, ModelInfo] = {}
        missing: dict[Server, RetinueError] = {}
        for server, outcome in zip(self.servers, found, strict=True):
            if isinstance(outcome, ModelInfo):
                models[server] = outcome
            elif isinstance(outcome, UnavailableError | DeadlineExceededError):
                missing[server] = outcome
            else:
                raise outcome
        if not models:
            raise next(iter(missing.values()))
        (first, model), *others = models.items()
        for server, other in others:
            if not _is_same(other, model):
                raise InvalidRequestError(
                    f"{first.asker.address} answers with {_described(model)}, {server.asker.address} with "
                    f"{_described(other)}: name one that all have with --model and --model-version."
                )
        self._model = model
        for server, error in missing.items():
            self._leave(server, error)
        return model

    @asynccontextmanager
    async def turn(self, images: int, *, avoid: Server | None = None) -> AsyncIterator[Turn]:
        """Waits until a server has room for so many images, and counts them as under way there.

        Args:
            images: How many.
            avoid: A server that has just failed at them, which gets them only if there is no other.

        Raises:
            RetinueError: No server has answered for longer than the patience: what the last one said.
        """
        while True:
            server, wait_seconds = self._choose(images, avoid)
            if server is not None:
                break
            await self._wait(wait_seconds)
        ticket = server.pace.begin(images)
        try:
            yield Turn(server, ticket)
        finally:
            server.pace.end(ticket)
            self._notify()

    def answered(self, turn: Turn, queue_seconds: float) -> None:
        """Takes note of an answer, whose images have waited so long for the server's engine."""
        turn.server.pace.answered(turn.ticket, queue_seconds)
        self._hear(turn.server)

    def failed(self, turn: Turn, error: RetinueError) -> None:
        """Takes note that a server refused a request, failed at it, or did not answer.

        Raises:
            RetinueError: That, where no server has answered for longer than the patience.
        """
        server = turn.server
        silent_since = self._note_silence(server, error)
        if isinstance(error, OverloadedError | UnavailableError | DeadlineExceededError):
            server.pace.refused(turn.ticket, self._delay_seconds(error, silent_since))
        if isinstance(error, UnavailableError | DeadlineExceededError | ModelNotFoundError):
            self._leave(server, error)
        self._check_patience()

    async def pause(self, error: RetinueError) -> None:
        """Waits before a request is tried again that a server, which answers others, has failed at."""
        await asyncio.sleep(self._delay_seconds(error, self._clock()))

    async def close(self) -> None:
        """Ends probes and connections."""
        probes = [server.probing for server in self.servers if server.probing is not None]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        await asyncio.gather(*(server.asker.close() for server in self.servers))

    def _choose(self, images: int, avoid: Server | None) -> tuple[Server | None, float | None]:
        """The server with room of which the smallest share is taken; else how long until it is worth looking again."""
        there = [server for server in self.servers if not server.is_gone]
        there = [server for server in there if server is not avoid] or there
        waits = {server: server.pace.seconds_until_free(images) for server in there}
        with_room = [server for server, wait in waits.items() if wait == 0.0]
        if with_room:
            return min(with_room, key=lambda server: server.pace.load(images)), None
        return None, min((wait for wait in waits.values() if wait is not None), default=None)

    async def _wait(self, seconds: float | None) -> None:
        """Waits until something has changed, at most so long, and no longer than the patience lasts."""
        self._check_patience()
        if self._silent_since is not None:
            left_seconds = max(0.0, self._silent_since + self._patience_seconds - self._clock())
            # Past it, so that it has run out by then.
            left_seconds += 0.001
            seconds = left_seconds if seconds is None else min(seconds, left_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _notify(self) -> None:
        # All that wait are woken, in their order, and look again.
        self._changed.set()
        self._changed.clear()

    def _hear(self, server: Server) -> None:
        server.silent_since = self._silent_since = self._failure = None

    def _note_silence(self, server: Server, error: RetinueError) -> float:
        now = self._clock()
        self._failure = error
        if self._silent_since is None:
            self._silent_since = now
        if server.silent_since is None:
            server.silent_since = now
        return server.silent_since

    def _check_patience(self) -> None:
        if self._silent_since is not None and self._failure is not None:
            silent_seconds = self._clock() - self._silent_since
            if silent_seconds > self._patience_seconds:
                raise self._failure

    def _leave(self, server: Server, error: RetinueError) -> None:
        if server.probing is None:
            server.probing = asyncio.get_running_loop().create_task(self._probe(server, error))

    async def _probe(self, server: Server, error: RetinueError) -> None:
        """Waits until a server has the job's model again."""
        while True:
            silent_since = self._note_silence(server, error)
            # An answer that came late may have told those that wait that there is no hurry.
            self._notify()
            await asyncio.sleep(self._delay_seconds(error, silent_since))
            try:
                found = await self._look(server, _PROBE_TIMEOUT_SECONDS)
            except RetinueError as again:
                error = again
            else:
                if self._model is None or _is_same(found, self._model):
                    break
                error = ModelNotFoundError(
                    f"{server.asker.address} answers with {_described(found)} now, and the job is of "
                    f"{_described(self._model)}."
                )
        server.probing = None
        self._hear(server)
        self._notify()

    def _delay_seconds(self, error: RetinueError, silent_since: float) -> float:
        """How long to leave a server alone: as long as it says, else longer the longer it has not answered.

        A part of it is random, so that many clients do not come back at once.
        """
        delay_seconds = error.retry_after_seconds
        if delay_seconds is None:
            silence_seconds = self._clock() - silent_since
            delay_seconds = min(_LONGEST_DELAY_SECONDS, max(_FIRST_DELAY_SECONDS, silence_seconds / 2))
        return delay_seconds * self._random.uniform(1.0, 1.25)

    async def _look(self, server: Server, timeout_seconds: float | None = None) -> ModelInfo:
        return await find_model(server.asker, self._wanted, timeout_seconds)


def _is_same(one: ModelInfo, other: ModelInfo) -> bool:
    return (one.name, one.version, one.sha256) == (other.name, other.version, other.sha256)


def _described(model: ModelInfo) -> str:
    return f"version {model.version} of {model.name} (SHA-256 {model.sha256[:12] or 'unknown'})"


async def find_model(
    asker: Asker | AsyncClient, wanted: Wanted, timeout_seconds: float | None = None
) -> ModelInfo:
    """The model of a server that is wanted.

    Raises:
        InvalidRequestError: The name is missing or the model answers another question.
        RetinueError: The server does not answer, or has no such model.
    """
    task, name = wanted.task, wanted.name
    if name:
        model = await asker.get_model(name, wanted.version, timeout_seconds=timeout_seconds)
        if model.task != task:
            raise InvalidRequestError(f"The model {name!r} is for {model.task}, not for {task}.")
        return model
    models = await asker.list_models(task, timeout_seconds=timeout_seconds)
    names = sorted({model.name for model in models})
    if len(names) != 1:
        found = f"it has {', '.join(names)}: name one with --model" if names else "it has none"
        raise InvalidRequestError(f"Which model of {asker.address} is to {task}? Of this task {found}.")
    return models[0]
