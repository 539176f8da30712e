"""Servers of one scoring job, in an event loop whose clock jumps to what it waits for next."""

import asyncio
import selectors
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

from retinue.v1 import vision_service_pb2 as pb

from retinue_client import ModelNotFoundError
from retinue_client._models import model_info
from retinue_client._score.account import Account
from retinue_client._score.remote import RemoteScorer
from retinue_client._score.scorer import ScoreOptions
from retinue_client._timing import Timing


class JumpingSelector(selectors.DefaultSelector):
    """Passes time instead of waiting for it."""

    now = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        assert ready or timeout is not None, "Nothing will ever happen again."
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self):
        return self.jumping.now


@dataclass(eq=False)
class FakeAsker:
    """A server that takes so many seconds for an image, one after the other, and can be told to fail."""

    address: str = "a:1"
    seconds: float = 0.01
    version: int = 3
    sha256: str = ""
    fail: object = lambda images: None
    asked: Counter = field(default_factory=Counter)
    most: int = 0
    under_way: int = 0
    closed: bool = False
    probes: int = 0
    free_at: float = 0.0

    async def get_model(self, name, version, timeout_seconds=None):
        self.probes += 1
        if error := self.fail(None):
            raise error
        if name == "gone":
            raise ModelNotFoundError("There is no such model.")
        return _model(name, self.version, self.sha256)

    async def ask(self, images):
        self.under_way += len(images)
        self.most = max(self.most, self.under_way)
        try:
            if error := self.fail(images):
                await asyncio.sleep(0.001)
                raise error
            now = asyncio.get_running_loop().time()
            begins = max(now, self.free_at)
            self.free_at = begins + self.seconds * len(images)
            await asyncio.sleep(self.free_at - now)
            if error := self.fail(images):
                raise error
            self.asked.update(images)
            timing = Timing(0, round(1e6 * (begins - now)), 0, 0, 0, 1)
            return [SimpleNamespace(image=image, server=self.address, timing=timing) for image in images]
        finally:
            self.under_way -= len(images)

    async def close(self):
        self.closed = True


def _model(name, version, sha256):
    message = pb.Model(name=name, version=version)
    message.manifest.sha256 = sha256
    message.manifest.name, message.manifest.task = name, 1
    return model_info(message)


def run(clients, work, *, max_in_flight=64, patience_seconds=60.0, model="a-model"):
    """Runs `work(scorer)`; the loop's time when it was done is in `run.seconds`."""
    loop = JumpingLoop()

    async def main():
        options = ScoreOptions(
            "classify",
            {"model": model, "version": None},
            max_in_flight=max_in_flight,
            patience_seconds=patience_seconds,
        )
        scorer = RemoteScorer(clients, options, Account(), clock=loop.time)
        try:
            await scorer.find_model()
            return await work(scorer)
        finally:
            await scorer.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        outcome = runner.run(main())
        run.seconds = loop.time()
    return outcome


async def score_all(scorer, count=400, size=8):
    """All answers, asked in runs of so many."""
    names = [f"{index}".encode() for index in range(count)]
    runs = [names[start : start + size] for start in range(0, count, size)]
    answers = [answer for part in await asyncio.gather(*map(scorer.answers, runs)) for answer in part]
    assert [answer.image for answer in answers] == names
    return answers


def expect_each_once(*clients, count=400):
    asked = sum((client.asked for client in clients), Counter())
    assert len(asked) == count
    assert set(asked.values()) == {1}
