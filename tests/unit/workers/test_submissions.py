"""The engine's end, of what no front-end in order would say."""

import asyncio
from typing import Any

import pytest
from tests.unit.workers.pairs import shared_slots

from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.errors import EngineError
from retinue_server.workers import frames
from retinue_server.workers.frames import FrameError, FrameReader, Kind, Ran, Submission
from retinue_server.workers.submissions import ModelEnd, Submissions


class FakeQueue:
    """Answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def __len__(self) -> int:
        return 0

    async def submit(self, items: Any, **options: Any) -> Any:
        self.asked.append(options)
        return await self.answer


def _submission(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "request_id": 1,
        "model": 0,
        "priority": Priority.HIGH,
        "deadline": 7.0,
        "caller": "a",
        "iou_threshold": 0.5,
        "extra_outputs": 0,
        "slots": (0, 1),
    }
    return frames.pack_submission(Submission(**{**fields, **changes}))


def _ends() -> tuple[FakeQueue, Submissions, list[tuple[Kind, bytes]]]:
    queue = FakeQueue()
    said: list[tuple[Kind, bytes]] = []
    _, slots = shared_slots(8)
    submissions = Submissions(
        {0: ModelEnd(queue, slots)}, lambda frame: said.extend(FrameReader().feed(frame))
    )
    return queue, submissions, said


@pytest.mark.parametrize(
    "changes", [{"model": 1}, {"slots": ()}, {"slots": (8,)}, {"slots": (0, 2**31)}], ids=str
)
async def test_requests_for_what_there_is_not_are_refused(changes: dict[str, Any]) -> None:
    _, submissions, said = _ends()
    with pytest.raises(FrameError):
        submissions.submit(_submission(**changes))
    assert not said


async def test_a_number_that_is_taken_is_refused() -> None:
    queue, submissions, _ = _ends()
    submissions.submit(_submission())
    with pytest.raises(FrameError):
        submissions.submit(_submission())
    queue.answer.set_result([])
    await submissions.answered()


async def test_a_request_keeps_its_caller_priority_and_deadline() -> None:
    queue, submissions, said = _ends()
    submissions.submit(_submission())
    queue.answer.set_result([Outcome(Ran(0.1, 2), 0.2)] * 2)
    await submissions.answered()
    assert queue.asked == [{"caller": "a", "priority": Priority.HIGH, "deadline": 7.0}]
    ((kind, body),) = said
    assert kind is Kind.REPLY
    assert frames.unpack_reply(body) == (1, [Outcome(Ran(0.1, 2), 0.2)] * 2)


async def test_an_unexpected_failure_is_told_without_its_insides() -> None:
    queue, submissions, said = _ends()
    submissions.submit(_submission())
    queue.answer.set_exception(KeyError("secret"))
    await submissions.answered()
    ((kind, body),) = said
    assert kind is Kind.REFUSED
    _, error = frames.unpack_refusal(body)
    assert isinstance(error, EngineError)
    assert "secret" not in error.message


async def test_a_request_that_is_cancelled_at_once_is_told_to_have_ended() -> None:
    _, submissions, said = _ends()
    submissions.submit(_submission())
    submissions.cancel(frames.pack_number(1))
    # Of one that has ended before, nothing more is said.
    submissions.cancel(frames.pack_number(2))
    await submissions.answered()
    await asyncio.sleep(0)
    assert said == [(Kind.ENDED, frames.pack_number(1))]


async def test_nothing_is_said_to_a_front_end_that_is_gone() -> None:
    queue, submissions, said = _ends()
    submissions.submit(_submission())
    await asyncio.sleep(0)
    submissions.drop_all()
    await submissions.answered()
    await asyncio.sleep(0)
    assert queue.answer.cancelled()
    assert not said
