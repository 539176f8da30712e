"""Asks a server about images until each has an answer."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from grpc import StatusCode

from retinue_client._async_client import AsyncClient
from retinue_client._errors import (
    DeadlineExceededError,
    ImageError,
    InvalidRequestError,
    OverloadedError,
    RetinueError,
    ServerError,
    UnavailableError,
)
from retinue_client._models import ModelInfo, Task
from retinue_client._score.latency import Latencies
from retinue_client._score.pace import Pace, Ticket
from retinue_client._score.rows import Result
from retinue_client._score.scorer import ScoreOptions

_IMAGES_PER_REQUEST = 8
_START_REQUESTS = 2
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0
# A request that the server gave up on this often is an error of its images.
_MOST_ATTEMPTS = 3


async def find_model(client: AsyncClient, task: Task, name: str, version: int | str | None) -> ModelInfo:
    """The model to score with.

    Args:
        client: Of the server.
        task: What it must answer.
        name: Its name; empty where the server has exactly one for the task.
        version: Its version or its label, or None for the one that most requests get.

    Raises:
        InvalidRequestError: The name is missing or the model answers another question.
        RetinueError: The server does not answer, or has no such model.
    """
    if name:
        model = await client.get_model(name, version)
        if model.task != task:
            raise InvalidRequestError(f"The model {name!r} is for {model.task}, not for {task}.")
        return model
    models = await client.list_models(task)
    names = sorted({model.name for model in models})
    if len(names) != 1:
        found = f"it has {', '.join(names)}: name one with --model" if names else "it has none"
        raise InvalidRequestError(f"Which model of {client.address} is to {task}? Of this task {found}.")
    return models[0]


class RemoteScorer:
    """Asks as many requests at once as the server takes, and again what it refuses; see `Scorer`.

    Args:
        client: Of the server; it is closed with this.
        options: The question.
    """

    def __init__(self, client: AsyncClient, options: ScoreOptions) -> None:
        self._client = client
        self._options = options
        self._ask: Callable[..., Awaitable[list[Any]]] = getattr(client, options.task)
        self.images_per_call = min(_IMAGES_PER_REQUEST, options.max_in_flight)
        self.calls_at_once = max(1, options.max_in_flight // _IMAGES_PER_REQUEST)
        self._pace = Pace(start=_START_REQUESTS, maximum=self.calls_at_once, clock=time.monotonic)
        self._freed = asyncio.Event()
        self._last_answer = time.monotonic()
        self._random = random.Random(0)
        self.latencies = Latencies()

    async def find_model(self) -> ModelInfo:
        """The model that answers; see `Scorer`."""
        wanted = self._options.options
        model = await find_model(self._client, self._options.task, wanted["model"], wanted["version"])
        self._last_answer = time.monotonic()
        return model

    async def close(self) -> None:
        """Closes the client."""
        await self._client.close()

    async def answers(self, images: Sequence[bytes]) -> list[Result | ImageError]:
        """The outcomes, after a second try for images on which the server failed while it answered others."""
        outcomes = await self._outcomes(images) if images else []
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, ImageError) and outcome.code is StatusCode.INTERNAL:
                outcomes[place] = (await self._outcomes([images[place]]))[0]
        return outcomes

    async def _outcomes(self, images: Sequence[bytes]) -> list[Result | ImageError]:
        """What became of each image, however often the server has to be asked.

        Raises:
            RetinueError: The server refuses the question as such, or stopped answering.
        """
        failure = await self._try(images)
        if not isinstance(failure, RetinueError):
            return failure
        if len(images) == 1:
            return [ImageError(failure.message, code=failure.code, reason=failure.reason)]
        # One image may be what fails them all, or fewer in a request may be acceptable where so many are not.
        return [(await self._outcomes([image]))[0] for image in images]

    async def _try(self, images: Sequence[bytes]) -> list[Result | ImageError] | RetinueError:
        """The outcomes of a request, or why it is given up as it is."""
        for attempt in itertools.count(1):
            try:
                return await self._ask_once(images)
            except UnavailableError as error:
                self._check_patience(error)
            except OverloadedError as error:
                self._check_patience(error)
                if attempt >= _MOST_ATTEMPTS and len(images) > 1:
                    return error
            except (DeadlineExceededError, ServerError) as error:
                self._check_patience(error)
                if attempt >= _MOST_ATTEMPTS:
                    return error
            except InvalidRequestError as error:
                if len(images) == 1:
                    raise
                return error
        raise AssertionError

    async def _ask_once(self, images: Sequence[bytes]) -> list[Result | ImageError]:
        async with self._turn() as ticket:
            sent = time.monotonic()
            try:
                outcomes = await self._ask(images, **self._options.options)
            except (OverloadedError, UnavailableError, DeadlineExceededError) as error:
                self._pace.refused(ticket, self._delay_seconds(error))
                raise
            self._last_answer = time.monotonic()
            self._pace.answered()
            self.latencies.add(self._last_answer - sent, count=len(images))
            return outcomes

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Ticket]:
        """Waits until the pace lets another request through, and counts it while it is under way."""
        while (wait_seconds := self._pace.seconds_until_free()) != 0.0:
            if wait_seconds is None:
                self._freed.clear()
                await self._freed.wait()
            else:
                await asyncio.sleep(wait_seconds)
        ticket = self._pace.begin()
        try:
            yield ticket
        finally:
            self._pace.end()
            self._freed.set()

    def _delay_seconds(self, error: RetinueError) -> float:
        """How long to leave the server alone: as long as it says, else longer the longer it has not answered.

        A part of it is random, so that many clients do not come back at once.
        """
        delay_seconds = error.retry_after_seconds
        if delay_seconds is None:
            silence_seconds = time.monotonic() - self._last_answer
            delay_seconds = min(_LONGEST_DELAY_SECONDS, max(_FIRST_DELAY_SECONDS, silence_seconds / 2))
        return delay_seconds * self._random.uniform(1.0, 1.25)

    def _check_patience(self, error: RetinueError) -> None:
        silence_seconds = time.monotonic() - self._last_answer
        if silence_seconds > self._options.patience_seconds:
            raise error
