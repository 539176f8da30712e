"""A scoring job from its first file to its last row."""

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
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
from retinue_client._images import read_file, upright_size
from retinue_client._models import ModelInfo, Task
from retinue_client._score.account import Account
from retinue_client._score.files import Entry, in_requests, printable
from retinue_client._score.pace import Pace, Ticket
from retinue_client._score.rows import Result, Row, row_of
from retinue_client._score.table import Table

_IMAGES_PER_REQUEST = 8
_BYTES_PER_REQUEST = 4 << 20
_START_REQUESTS = 2
# Requests that are read from disk ahead of those under way, so that the server never waits for the disk.
_REQUESTS_AHEAD = 4
# Files in memory at once, beyond the largest.
_MOST_BYTES = 128 << 20
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0
# A request that the server gave up on this often is an error of its images.
_MOST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What is asked of the server, and how hard.

    Attributes:
        task: The question.
        options: The question's options, as the client takes them.
        max_in_flight: The most images asked about at once.
        patience_seconds: How long to go on trying while no request at all is answered.
    """

    task: Task
    options: dict[str, Any]
    max_in_flight: int = 128
    patience_seconds: float = 120.0


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


class Job:
    """Scores files in order, many at once, and hands over their rows in order.

    Args:
        client: Of the server.
        folder: What the files' paths are relative to.
        options: The question.
        account: Takes down what is done.
        on_rows: Called with the rows of each request, in order, from the event loop.
    """

    def __init__(
        self,
        client: AsyncClient,
        folder: Path,
        options: ScoreOptions,
        account: Account,
        on_rows: Callable[[list[Row]], None],
    ) -> None:
        self._client = client
        self._folder = folder
        self._options = options
        self._account = account
        self._on_rows = on_rows
        self._ask: Callable[..., Awaitable[list[Any]]] = getattr(client, options.task)
        most_requests = max(1, options.max_in_flight // _IMAGES_PER_REQUEST)
        self._images_per_request = min(_IMAGES_PER_REQUEST, options.max_in_flight)
        self._window_requests = most_requests + _REQUESTS_AHEAD
        self._pace = Pace(start=_START_REQUESTS, maximum=most_requests, clock=time.monotonic)
        self._freed = asyncio.Event()
        self._last_answer = time.monotonic()
        self._random = random.Random(0)

    async def run(self, entries: Iterator[Entry], table: Table) -> None:
        """Scores every entry and appends its row to the table.

        Raises:
            RetinueError: The server refuses the question as such, or stopped answering.
            OSError: The table cannot be written.
        """
        self._last_answer = time.monotonic()
        requests = in_requests(entries, self._images_per_request, _BYTES_PER_REQUEST)
        window: deque[tuple[int, asyncio.Task[list[Row]]]] = deque()
        window_bytes = 0
        try:
            more = True
            while more or window:
                room = len(window) < self._window_requests and window_bytes < _MOST_BYTES
                if window and (window[0][1].done() or not (more and room)):
                    size_bytes, task = window.popleft()
                    window_bytes -= size_bytes
                    await self._take(await task, table)
                elif (run := await asyncio.to_thread(next, requests, None)) is None:
                    more = False
                else:
                    size_bytes = sum(entry.size_bytes for entry in run)
                    window.append((size_bytes, asyncio.create_task(self._score(run))))
                    window_bytes += size_bytes
        finally:
            for _, task in window:
                task.cancel()
            await asyncio.gather(*(task for _, task in window), return_exceptions=True)

    async def _take(self, rows: list[Row], table: Table) -> None:
        self._account.add_rows(rows)
        if table.append(rows):
            await asyncio.to_thread(self._flush, table)
        self._on_rows(rows)

    def _flush(self, table: Table) -> None:
        with self._account.timing("writing"):
            table.flush()

    async def _score(self, entries: list[Entry]) -> list[Row]:
        """The rows of one request's files."""
        files = await asyncio.to_thread(self._read, entries)
        readable = [data for data, _ in files if isinstance(data, bytes)]
        answers = iter(await self._answers(readable))
        rows = []
        for entry, (data, size) in zip(entries, files, strict=True):
            outcome = data if isinstance(data, ImageError) else next(answers)
            rows.append(row_of(printable(entry.path), outcome, size))
        return rows

    def _read(self, entries: list[Entry]) -> list[tuple[bytes | ImageError, tuple[int, int] | None]]:
        """Each file's bytes or why there are none, and for classifiers, whose results lack it, the image's size."""
        with self._account.timing("reading"):
            return [self._read_one(entry) for entry in entries]

    def _read_one(self, entry: Entry) -> tuple[bytes | ImageError, tuple[int, int] | None]:
        if entry.error is not None:
            return entry.error, None
        try:
            data = read_file(self._folder / entry.path)
        except ImageError as error:
            return error, None
        return data, upright_size(data) if self._options.task == "classify" else None

    async def _answers(self, images: list[bytes]) -> list[Result | ImageError]:
        """The outcomes, after a second try for images on which the server failed while it answered others."""
        outcomes = await self._outcomes(images) if images else []
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, ImageError) and outcome.code is StatusCode.INTERNAL:
                outcomes[place] = (await self._outcomes([images[place]]))[0]
        return outcomes

    async def _outcomes(self, images: list[bytes]) -> list[Result | ImageError]:
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

    async def _try(self, images: list[bytes]) -> list[Result | ImageError] | RetinueError:
        """The outcomes of a request, or why it is given up as it is."""
        ready = time.monotonic()
        for attempt in itertools.count(1):
            try:
                return await self._ask_once(images, ready)
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

    async def _ask_once(self, images: list[bytes], ready: float) -> list[Result | ImageError]:
        async with self._turn() as ticket:
            sent = time.monotonic()
            try:
                outcomes = await self._ask(images, **self._options.options)
            except (OverloadedError, UnavailableError, DeadlineExceededError) as error:
                self._pace.refused(ticket, self._delay_seconds(error))
                raise
            self._last_answer = time.monotonic()
            self._pace.answered()
            self._account.add_answer(sent - ready, self._last_answer - sent, outcomes)
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
