"""Calls that a front-end passes on are answered once, to whoever asked, whatever goes wrong."""

import asyncio
from collections.abc import Callable

import pytest

from retinue_server.errors import EngineError, ModelControlError
from retinue_server.workers import frames
from retinue_server.workers.frames import FrameError, FrameReader, Kind
from retinue_server.workers.passed_on import Answering, Answers, Asking


def both_ends(answer: Answering) -> tuple[Asking, Answers]:
    """Both ends; frames arrive a moment later."""
    loop = asyncio.get_running_loop()

    def sending(take: Callable[[Kind, bytes], None]) -> Callable[[bytes], None]:
        return lambda data: [loop.call_soon(take, *one) for one in FrameReader().feed(data)] and None

    asking = Asking(sending(lambda kind, body: answers.take(body)))
    answers = Answers(answer, sending(asking.take))
    return asking, answers


async def test_each_has_the_answer_to_its_own_call() -> None:
    gates = {str(number): asyncio.Event() for number in range(5)}

    async def answer(method: str, request: bytes) -> bytes:
        await gates[method].wait()
        return method.encode() + request

    asking, _ = both_ends(answer)
    calls = [asyncio.ensure_future(asking.ask(method, b"!")) for method in gates]
    for gate in reversed(gates.values()):
        await asyncio.sleep(0)
        gate.set()
    assert await asyncio.gather(*calls) == [b"0!", b"1!", b"2!", b"3!", b"4!"]


async def test_refusals_come_as_they_were_raised_and_failures_without_their_insides() -> None:
    async def answer(method: str, request: bytes) -> bytes:
        if method == "load":
            raise ModelControlError("it does not hold.", reason="BUNDLE_INVALID")
        raise KeyError("secret")

    asking, _ = both_ends(answer)
    with pytest.raises(ModelControlError, match="does not hold") as refused:
        await asking.ask("load", b"")
    assert refused.value.reason == "BUNDLE_INVALID"
    with pytest.raises(EngineError) as failed:
        await asking.ask("index", b"")
    assert "secret" not in failed.value.message


async def test_who_leaves_is_in_nobodys_way() -> None:
    gate = asyncio.Event()
    finished: list[str] = []

    async def answer(method: str, request: bytes) -> bytes:
        await gate.wait()
        finished.append(method)
        return b""

    asking, _ = both_ends(answer)
    leaving, staying = (asyncio.ensure_future(asking.ask(name, b"")) for name in ("leaving", "staying"))
    await asyncio.sleep(0)
    leaving.cancel()
    gate.set()
    assert await staying == b""
    assert finished == ["leaving", "staying"]


async def test_nobody_answers_a_front_end_that_is_gone() -> None:
    gate = asyncio.Event()

    async def answer(method: str, request: bytes) -> bytes:
        await gate.wait()
        raise AssertionError("it went on")

    asking, answers = both_ends(answer)
    call = asyncio.ensure_future(asking.ask("load", b""))
    for _ in range(3):
        await asyncio.sleep(0)
    answers.drop_all()
    gate.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not call.done()
    call.cancel()


async def test_an_answer_to_what_was_not_asked_is_refused() -> None:
    asking = Asking(lambda frame: None)
    with pytest.raises(FrameError):
        asking.take(Kind.ANSWER, frames.pack_answer(1, b""))
