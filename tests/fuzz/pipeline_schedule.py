"""A random schedule of requests that go through several queues: objects that are cut out and classified, and tensors
that go from step to step.
"""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from tests.fuzz.ailing_models import Ailments, Model, Network
from tests.fuzz.schedule import Schedule
from tests.fuzz.watched_core import CALLERS, WatchedBatcher
from tests.unit.server.served import served_model
from tests.unit.server.test_steps import tensor_model

from retinue_server import crops as crops_module
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.crops import CropClassifier, Question, Turn
from retinue_server.errors import ImageError, RetinueError
from retinue_server.results import (
    Answer,
    Classification,
    ClassifyOptions,
    DetectionList,
    TensorRows,
    TensorWork,
    Work,
)
from retinue_server.service import raise_if_lost
from retinue_server.settings import Settings
from retinue_server.tensor_steps import Step, TensorSteps
from retinue_server.vision.decode import open_raw
from retinue_server.vision.readers import Sent

_SIDE = 8
_OPTIONS = ClassifyOptions(1, 0, max_picture_bytes=0)


class Levels(Network):
    """Says of each object which level it has, and of each row of tensors twice its values."""

    def note(self, items: Sequence[Any]) -> None:
        """What is run is made on the way, and has no number."""

    def answer(self, item: Any) -> Any:
        """As the class."""
        if isinstance(item, Work):
            level = int(item.image.pixels[0, 0, 0])  # type: ignore[union-attr]
            return Answer(Classification([level], [1.0]), 0.0, 0.0, 0.0, 1)
        assert isinstance(item, TensorWork)
        (array,) = item.tensors.values()
        return Answer(TensorRows({"y": array[item.row] * 2}), 0.0, 0.0, 0.0, 1)


class PipelineSchedule(Schedule):
    """As `Schedule`, but each request goes through two queues."""

    def run(self) -> None:
        """As `Schedule.run`."""

        async def at_once(work: Any, *arguments: Any) -> Any:
            return work(*arguments)

        with (
            mock.patch.object(crops_module, "Batcher", WatchedBatcher),
            mock.patch.object(asyncio, "to_thread", at_once),
        ):
            super().run()

    def _made_up(self, ailments: Ailments) -> list[Model]:
        return [Model(self._scheduler, self._clock, ailments, Levels) for _ in range(3)]

    def _began(self) -> None:
        classifier, *steps = self._batchers
        service: Any = SimpleNamespace(cutter=self._engine, answer=_answer)
        settings = Settings(max_queue_images=self._chance.choice((8, 40)))
        self._question = Question(served_model("a", batcher=classifier), _OPTIONS, context=0)
        self._crops = CropClassifier(service, settings)
        models = [tensor_model(name, queue=queue) for name, queue in zip("ab", steps, strict=True)]  # type: ignore[arg-type]
        self._steps = TensorSteps([Step(models[0], {"x": "x"}), Step(models[1], {"x": "y"})])

    def _item(self, number: int) -> TensorWork:
        return TensorWork({"x": np.zeros((1, 3), np.float32)}, 0)

    def _watched(self) -> list[WatchedBatcher]:
        cutting: Any = self._crops._cutting
        return [*self._batchers, cutting]

    async def _send(self, number: int) -> None:
        chance = self._chance
        deadline = None if chance.random() < 0.6 else self._clock.now + chance.choice((0.02, 0.1, 1))
        turn = Turn(str(chance.randrange(CALLERS)), chance.choice(list(Priority)), deadline)
        try:
            await (self._classify(turn) if chance.random() < 0.5 else self._through_steps(turn))
        except asyncio.CancelledError:
            self.outcomes["withdrawn"] += 1
            raise
        except RetinueError as error:
            self.outcomes[f"pipeline: {error.reason}"] += 1

    async def _through_steps(self, turn: Turn) -> None:
        rows = np.arange(3 * self._chance.choice((1, 2, 7)), dtype=np.float32).reshape(-1, 3)
        outcomes = await self._steps.submit(
            [TensorWork({"x": rows}, row) for row in range(len(rows))],
            caller=turn.caller,
            priority=turn.priority,
            deadline=turn.deadline,
        )
        assert len(outcomes) == len(rows)
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome.value, RetinueError):
                self.outcomes[f"pipeline: {outcome.value.reason}"] += 1
                continue
            assert isinstance(outcome.value.result, TensorRows)
            np.testing.assert_array_equal(outcome.value.result.arrays["y"], row * 4)
            self.outcomes["pipeline: answered"] += 1

    async def _classify(self, turn: Turn) -> None:
        """Has the objects of some images classified, each of which is a column of its own level."""
        chance = self._chance
        levels = [
            [chance.randrange(1, 255) for _ in range(chance.choice((0, 1, 3)))]
            for _ in range(chance.randint(1, 3))
        ]
        bad = [chance.random() < 0.1 for _ in levels]
        held: list[int] = []
        outcomes = await self._crops.classify(
            self._question,
            [_found(len(one)) for one in levels],
            [_source(*one) for one in zip(levels, bad, strict=True)],
            turn,
            held.append,
        )
        assert held[-1] == 0
        for wanted, is_bad, outcome in zip(levels, bad, outcomes, strict=True):
            if isinstance(outcome.value, RetinueError):
                assert not isinstance(outcome.value, ImageError) or is_bad
                self.outcomes[f"pipeline: {outcome.value.reason}"] += 1
                continue
            assert isinstance(outcome.value.result, DetectionList)
            assert not (is_bad and wanted)
            assert [one and one.class_ids for one in outcome.value.result.classes or ()] == [
                [one] for one in wanted
            ]
            self.outcomes["pipeline: answered"] += 1


async def _answer(model: Any, works: Sequence[Any], **turn: Any) -> list[Outcome[Any]]:
    outcomes: list[Outcome[Any]] = await model.batcher.submit(works, **turn)
    raise_if_lost(outcomes)
    return outcomes


def _found(count: int) -> Outcome[Answer]:
    boxes = [(_SIDE * place, 0, _SIDE * (place + 1), _SIDE) for place in range(count)]
    found = DetectionList(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(count, np.float32),
        np.zeros(count, np.int32),
        max(_SIDE * count, 1),
        _SIDE,
    )
    return Outcome(Answer(found, 0.0, 0.0, 0.0, 1), 0.0)


def _source(levels: Sequence[int], is_bad: bool) -> Any:
    def opened() -> Sent:
        if is_bad:
            raise ImageError("it is damaged.")
        row = b"".join(bytes([level] * _SIDE) for level in levels)
        return open_raw(row * _SIDE, _SIDE, len(levels) * _SIDE, "GRAY", max_pixels=10_000)

    return opened
