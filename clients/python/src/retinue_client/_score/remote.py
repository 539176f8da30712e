"""Asks servers, or the engine in this process, about images until each has an answer."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from grpc import StatusCode

from retinue_client._channel import DEFAULT_MAX_REQUEST_IMAGES
from retinue_client._errors import (
    DeadlineExceededError,
    ImageError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RetinueError,
    ServerError,
    UnavailableError,
)
from retinue_client._models import ModelInfo
from retinue_client._score.account import Account
from retinue_client._score.asker import Asker
from retinue_client._score.fleet import Fleet, Server, Wanted
from retinue_client._score.rows import Result
from retinue_client._score.scorer import ScoreOptions

# So that a server computes some while others are on their way.
_REQUESTS_AT_A_SERVER = 4
# A request that servers gave up on this often is an error of its images; so is one that ended that many of them.
_MOST_ATTEMPTS = 3
_LOST = "CONNECTION_LOST"
_FAILURES = (StatusCode.INTERNAL, StatusCode.UNKNOWN)


class RemoteScorer:
    """Asks as much at once as the servers take, and again what they refuse or lose; see `Scorer`.

    Args:
        askers: One for each server; they are closed with this.
        options: The question.
        account: Takes down the answers.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        askers: Sequence[Asker],
        options: ScoreOptions,
        account: Account,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._account = account
        self._clock = clock
        self._fleet = Fleet(
            askers,
            Wanted(options.task, options.options["model"], options.options["version"]),
            max_in_flight=options.max_in_flight,
            patience_seconds=options.patience_seconds,
            clock=clock,
        )
        # Of requests that may have ended a server one is under way at a time, so that the others are found innocent.
        self._suspects = asyncio.Lock()
        # More than these the client would make several requests of, or have been found to be too many.
        self._most_images = DEFAULT_MAX_REQUEST_IMAGES

    @property
    def images_per_call(self) -> int:
        """As many as let each server have several requests at once, in powers of two."""
        limit = min((server.pace.limit for server in self._serving()), default=1)
        images = min(self._most_images, max(1, limit // _REQUESTS_AT_A_SERVER))
        return 1 << (images.bit_length() - 1)

    @property
    def calls_at_once(self) -> int:
        """As many as the servers have been found to take."""
        images = sum(server.pace.limit for server in self._serving())
        return -(-images // self.images_per_call)

    async def find_model(self) -> ModelInfo:
        """The model that answers; see `Scorer`."""
        return await self._fleet.find_model()

    async def close(self) -> None:
        """Closes the connections."""
        await self._fleet.close()

    async def answers(self, images: Sequence[bytes]) -> list[Result | ImageError]:
        """What became of each image; see `Scorer`."""
        return await self._outcomes(images) if images else []

    def _serving(self) -> list[Server]:
        """The servers that are not gone, or all where none is left."""
        servers = self._fleet.servers
        return [server for server in servers if not server.is_gone] or servers

    async def _outcomes(
        self, images: Sequence[bytes], *, lost: int = 0, failed: Server | None = None
    ) -> list[Result | ImageError]:
        """What became of each image, however often servers have to be asked.

        Args:
            images: The images.
            lost: How many connections were lost while these were asked about.
            failed: The server that has just failed at these, while it answered others.

        Raises:
            RetinueError: The question as such is refused, or nobody answers any more.
        """
        failure = await self._try(images, lost, failed)
        if not isinstance(failure, RetinueError):
            return failure
        if len(images) == 1:
            return [ImageError(failure.message, code=failure.code, reason=failure.reason)]
        # One image may be what fails them all, or fewer in a request may be acceptable where so many are not.
        half = len(images) // 2
        lost = 1 if failure.reason == _LOST else 0
        return [
            *await self._outcomes(images[:half], lost=lost),
            *await self._outcomes(images[half:], lost=lost),
        ]

    async def _try(
        self, images: Sequence[bytes], lost: int, failed: Server | None
    ) -> list[Result | ImageError] | RetinueError:
        """The outcomes of a request, of images that failed in it after a second try; or why it is given up."""
        ready = self._clock()
        attempts = 0
        avoid = failed
        while True:
            async with (
                self._suspects if lost else nullcontext(),
                self._fleet.turn(len(images), avoid=avoid) as turn,
            ):
                sent = self._clock()
                try:
                    outcomes = await turn.server.asker.ask(images)
                except RetinueError as error:
                    failure = error
                else:
                    again = {} if failed else _at_which_the_server_failed(outcomes)
                    # Those are counted when they are answered again.
                    counted = [outcome for place, outcome in enumerate(outcomes) if place not in again]
                    self._account.add_answer(sent - ready, self._clock() - sent, counted)
                    self._fleet.answered(turn, _queue_seconds(outcomes))
                    break
                avoid = turn.server
                if isinstance(failure, InvalidRequestError):
                    if len(images) == 1:
                        raise failure
                    if failure.reason == "TOO_MANY_IMAGES":
                        self._most_images = min(self._most_images, max(1, len(images) // 2))
                    return failure
                if not self._may_pass(failure):
                    raise failure
                self._fleet.failed(turn, failure)
            lost += failure.reason == _LOST
            if lost >= _MOST_ATTEMPTS:
                return failure
            if not isinstance(failure, UnavailableError | ModelNotFoundError):
                attempts += 1
            if attempts >= _MOST_ATTEMPTS and not (isinstance(failure, OverloadedError) and len(images) == 1):
                return failure
            if isinstance(failure, ServerError):
                await self._fleet.pause(failure)
        await self._ask_again(images, outcomes, again, turn.server)
        return outcomes

    async def _ask_again(
        self,
        images: Sequence[bytes],
        outcomes: list[Result | ImageError],
        again: dict[int, ImageError],
        failed: Server,
    ) -> None:
        """Puts what became of the images at these places in a second try in the place of what became of them."""
        if again:
            await self._fleet.pause(next(iter(again.values())))
        for place in again:
            outcomes[place] = (await self._outcomes([images[place]], failed=failed))[0]

    def _may_pass(self, failure: RetinueError) -> bool:
        """Whether a failure may be of the moment, or of one server of several."""
        if isinstance(failure, ModelNotFoundError):
            # It may be starting again with its models still to come.
            return len(self._fleet.servers) > 1
        return isinstance(failure, OverloadedError | UnavailableError | DeadlineExceededError | ServerError)


def _at_which_the_server_failed(outcomes: Sequence[Result | ImageError]) -> dict[int, ImageError]:
    """The errors, by their place, of images that another try may answer: nothing is wrong with these."""
    return {
        place: outcome
        for place, outcome in enumerate(outcomes)
        if isinstance(outcome, ImageError) and outcome.code in _FAILURES
    }


def _queue_seconds(outcomes: Sequence[Result | ImageError]) -> float:
    """How long the images of a request have waited for the engine, on average; 0 where none got that far."""
    waits = [outcome.timing.queue_us for outcome in outcomes if not isinstance(outcome, ImageError)]
    return sum(waits) / len(waits) / 1e6 if waits else 0.0
