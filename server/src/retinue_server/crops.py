"""What a classifier says of the objects that a detector has found: they are cut out here and never leave the server."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.tickets import Outcome, Priority, Stop
from retinue_server.bundle.manifest import input_spec
from retinue_server.catalog import ServedModel
from retinue_server.errors import RetinueError
from retinue_server.pipeline import failure_of
from retinue_server.results import Answer, Classification, ClassifyOptions, DetectionList, Work
from retinue_server.service import VisionService, raise_if_lost
from retinue_server.settings import MIB, Settings
from retinue_server.vision.crops import PixelBox, cut, pixel_box
from retinue_server.vision.readers import InputPixels, Sent
from retinue_server.vision.spec import InputSpec

# Of one call at a time, as inputs of the classifier.
_MOST_BYTES = 32 * MIB
# A caller may add as many images to a queue as leaves the others as much room, so more than a half never fit.
_SHARE_OF_A_QUEUE = 4
# For the first estimate; measured from then on.
_FIRST_CUT_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Question:
    """What a classifier is asked about each object.

    Attributes:
        model: The classifier.
        options: What is wanted of it.
        context: How much of what surrounds an object's box is shown, as a share of its width and height.
    """

    model: ServedModel
    options: ClassifyOptions
    context: float


@dataclass(frozen=True, slots=True)
class Turn:
    """When a call's images are worked on.

    Attributes:
        caller: Whose they are: callers take turns.
        priority: Those of a lower one wait for all of a higher one.
        deadline: When the answers are worthless, on time.monotonic; None for never.
    """

    caller: str
    priority: Priority
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Uncut:
    """An image with objects to cut out.

    Attributes:
        place: Which of the call's images it is.
        open: Opens it anew, or raises ImageError.
        boxes: The objects' pixels, at least one.
        rows: Which of the image's detections these are.
        spec: What the classifier takes.
    """

    place: int
    open: Callable[[], Sent]
    boxes: Sequence[PixelBox]
    rows: Sequence[int]
    spec: InputSpec

    def split(self, most: int) -> tuple["Uncut", "Uncut"]:
        """So many of its objects, and the others."""
        return (
            replace(self, boxes=self.boxes[:most], rows=self.rows[:most]),
            replace(self, boxes=self.boxes[most:], rows=self.rows[most:]),
        )


class Cutting:
    """Cuts objects out of images, as a `batching.Backend`."""

    # Each decodes an image in full: two would only keep the one's answer back for the other.
    max_batch_size = 1

    def run(
        self, items: Sequence[Uncut], stop: Stop, *, alone: bool = False
    ) -> list[npt.NDArray[np.uint8] | RetinueError]:
        """The inputs of each image's objects; an image that cannot be read gets its error."""
        stop.check()
        made: list[npt.NDArray[np.uint8] | RetinueError] = []
        for item in items:
            try:
                made.append(cut(item.open(), item.boxes, item.spec))
            except Exception as error:
                made.append(failure_of(error, "crops"))
        return made

    def close(self) -> None:
        """Holds nothing."""


class CropClassifier:
    """Asks classifiers about detections.

    Objects are cut out and classified in parts, so that what a call holds is bounded however many there are. Both
    happen in queues, with the turns, priorities and deadlines of all others.

    Args:
        service: Has the classifiers, and threads that cut.
        settings: How many images a queue and a request may have.
    """

    def __init__(self, service: VisionService, settings: Settings) -> None:
        self._service = service
        self._most_images = max(
            min(settings.max_images_per_request, settings.max_queue_images // _SHARE_OF_A_QUEUE), 1
        )
        self._cutting: Batcher[Uncut, npt.NDArray[np.uint8]] = Batcher(
            Cutting(),
            service.cutter,
            capacity=settings.max_queue_images,
            item_seconds=_FIRST_CUT_SECONDS,
            name="crops",
        )

    async def classify(
        self,
        question: Question,
        outcomes: Sequence[Outcome[Answer]],
        sources: Sequence[Callable[[], Sent]],
        turn: Turn,
        hold: Callable[[int], None],
    ) -> list[Outcome[Answer]]:
        """Adds the classes of each object to the answers of a detector.

        An object without a pixel has no classes. An image of which one object has no answer has none itself.

        Args:
            question: What is asked.
            outcomes: The detector's, one for each image.
            sources: What opens each image anew.
            turn: When it is done.
            hold: Told how many bytes of pixels the call is going to hold; refuses what is too much.

        Raises:
            RetinueError: As `VisionService.answer` does, or `hold`.
        """
        answered = list(outcomes)
        classes: dict[int, list[Classification | None]] = {
            place: [None] * len(found.scores) for place, found in _found(outcomes)
        }
        spec = input_spec(question.model.manifest)
        row_bytes = spec.height * spec.width * spec.channels
        most = max(min(self._most_images, _MOST_BYTES // row_bytes), 1)
        for part in _parts(_uncut(question, outcomes, sources, spec), most):
            # What has failed need not be finished.
            images = [image for image in part if isinstance(answered[image.place].value, Answer)]
            hold(sum(len(image.boxes) for image in images) * row_bytes)
            for image, values in await self._classify_part(question, images, turn):
                for row, value in zip(image.rows, values, strict=True):
                    if isinstance(value, Classification):
                        classes[image.place][row] = value
                    else:
                        answered[image.place] = Outcome(value, answered[image.place].queue_seconds)
        hold(0)
        for place, found in _found(answered):
            answer = answered[place].value
            assert isinstance(answer, Answer)
            answer.result = replace(found, classes=classes[place])
        return answered

    async def _classify_part(
        self, question: Question, images: Sequence[Uncut], turn: Turn
    ) -> list[tuple[Uncut, Sequence[Classification | RetinueError]]]:
        """What is said of each object of some images, or why nothing is."""
        if not images:
            return []
        cuts = await self._cutting.submit(
            images, caller=turn.caller, priority=turn.priority, deadline=turn.deadline
        )
        raise_if_lost(cuts)
        works = [
            Work(InputPixels(pixels), question.options)
            for one in cuts
            if not isinstance(one.value, RetinueError)
            for pixels in one.value
        ]
        answers: Iterator[Outcome[Answer]] = iter(())
        if works:
            answers = iter(
                await self._service.answer(
                    question.model,
                    works,
                    caller=turn.caller,
                    priority=turn.priority,
                    deadline=turn.deadline,
                )
            )
        return [
            (
                image,
                [one.value] * len(image.boxes)
                if isinstance(one.value, RetinueError)
                else [_classification(next(answers)) for _ in image.boxes],
            )
            for image, one in zip(images, cuts, strict=True)
        ]


def _classification(outcome: Outcome[Answer]) -> Classification | RetinueError:
    if isinstance(outcome.value, RetinueError):
        return outcome.value
    assert isinstance(outcome.value.result, Classification)
    return outcome.value.result


def _found(outcomes: Sequence[Outcome[Answer]]) -> Iterator[tuple[int, DetectionList]]:
    """What was found in each image that has an answer."""
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome.value, Answer):
            assert isinstance(outcome.value.result, DetectionList)
            yield place, outcome.value.result


def _uncut(
    question: Question,
    outcomes: Sequence[Outcome[Answer]],
    sources: Sequence[Callable[[], Sent]],
    spec: InputSpec,
) -> Iterator[Uncut]:
    for place, found in _found(outcomes):
        size = found.image_width, found.image_height
        boxes = [pixel_box(box, question.context, *size) for box in found.boxes.tolist()]
        rows = [row for row, box in enumerate(boxes) if box is not None]
        if rows:
            yield Uncut(place, sources[place], [box for box in boxes if box is not None], rows, spec)


def _parts(images: Iterable[Uncut], most: int) -> Iterator[list[Uncut]]:
    """Images that have at most so many objects together; one that has more by itself is decoded several times."""
    part: list[Uncut] = []
    objects = 0
    for image in images:
        rest = image
        if objects + len(rest.boxes) > most and part:
            yield part
            part, objects = [], 0
        while len(rest.boxes) > most:
            first, rest = rest.split(most)
            yield [first]
        part.append(rest)
        objects += len(rest.boxes)
    if part:
        yield part
