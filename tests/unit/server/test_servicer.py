import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.server.served import served_model

from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Outcome
from retinue_server.catalog import ServedModel
from retinue_server.errors import OverloadedError
from retinue_server.results import Answer, Classification, DetectionList, DetectOptions, Task, Work
from retinue_server.rpc import replies, requests
from retinue_server.rpc.budget import ByteBudget, Holding
from retinue_server.rpc.calls import Call, current_call
from retinue_server.rpc.servicer import VisionServicer
from retinue_server.settings import Settings

MAX_BYTES = 100_000
IMAGE = image_pb2.Image(raw=image_pb2.RawImage(data=bytes(300), height=1, width=100))


class FakeService:
    """Answers each image with the same result."""

    def __init__(self, model: ServedModel, result: Any) -> None:
        self.catalog = SimpleNamespace(for_task=lambda task, name, version, metadata: model)
        self.works: Sequence[Any] = ()
        self.cutter = Engine(instances=1)
        self._result = result

    async def answer(self, model: ServedModel, works: Sequence[Any], **_: Any) -> list[Outcome[Any]]:
        self.works = works
        return [Outcome(Answer(self._result, 0.0, 0.0, 0.0, 1), 0.0) for _ in works]


def found(count: int) -> DetectionList:
    boxes, scores, class_ids = (
        np.ones((count, 4), np.float32),
        np.ones(count, np.float32),
        np.zeros(count, int),
    )
    return DetectionList(boxes, scores, class_ids, 100, 1)  # type: ignore[arg-type]


class FakeQueue:
    """Has room, or not."""

    full = False
    refusal = None

    def check_room(self, count: int, **_: Any) -> None:
        if self.full:
            raise OverloadedError("no room.", retry_after_seconds=1.0)


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def detector(queue: FakeQueue) -> ServedModel:
    model = served_model("a", task=Task.DETECT, batcher=queue)
    model.manifest.detect.max_detections = 1000
    model.manifest.detect.max_regions = 1000
    model.manifest.detect.mask_height = 8
    return model


@pytest.fixture
def budget() -> Iterator[ByteBudget]:
    budget = ByteBudget(MAX_BYTES)
    token = current_call.set(Call(Holding(budget)))
    yield budget
    current_call.reset(token)


def servicer(service: FakeService) -> VisionServicer:
    settings = Settings(max_reply_bytes=MAX_BYTES)
    return VisionServicer(service, None, "", settings)  # type: ignore[arg-type]


def detecting(images: int, regions: int = 1, **options: Any) -> pb.DetectRequest:
    image = image_pb2.Image()
    image.CopyFrom(IMAGE)
    image.regions.extend([image_pb2.BoundingBox(x_max=9, y_max=9)] * regions)
    return pb.DetectRequest(images=[image] * images, **options)


CONTEXT: Any = SimpleNamespace(
    time_remaining=lambda: None, peer=lambda: "ipv4:127.0.0.1:50000", invocation_metadata=lambda: None
)


@pytest.mark.parametrize(("count", "on_the_loop"), [(1, True), (100, True), (251, False)])
@pytest.mark.usefixtures("budget")
async def test_a_reply_of_many_objects_is_built_where_it_holds_nobody_up(
    count: int, on_the_loop: bool, detector: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in: list[threading.Thread] = []

    def noted(*arguments: Any) -> pb.DetectResponse:
        built_in.append(threading.current_thread())
        return build(*arguments)

    build = replies.detect_response
    monkeypatch.setattr(replies, "detect_response", noted)
    reply = await servicer(FakeService(detector, found(count))).Detect(detecting(2), CONTEXT)
    assert [len(outcome.result.detections) for outcome in reply.outcomes] == [count, count]
    assert [thread is threading.current_thread() for thread in built_in] == [on_the_loop]


@pytest.mark.usefixtures("budget")
async def test_what_has_no_room_is_refused_before_it_is_looked_at(
    detector: ServedModel, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "open_image", lambda *_, **__: pytest.fail("an image was opened"))
    queue.full = True
    with pytest.raises(OverloadedError):
        await servicer(FakeService(detector, found(1))).Detect(detecting(1), CONTEXT)


@pytest.mark.parametrize(
    ("images", "regions", "on_the_loop"), [(1, 1, True), (4, 50, True), (1, 201, False), (5, 1, False)]
)
@pytest.mark.usefixtures("budget")
async def test_many_images_or_regions_are_read_where_they_hold_nobody_up(
    images: int, regions: int, on_the_loop: bool, detector: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_in: list[threading.Thread] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        opened_in.append(threading.current_thread())
        return open_image(*arguments, **options)

    open_image = requests.open_image
    monkeypatch.setattr(requests, "open_image", noted)
    await servicer(FakeService(detector, found(1))).Detect(detecting(images, regions), CONTEXT)
    assert {thread is threading.current_thread() for thread in opened_in} == {on_the_loop}


@pytest.mark.usefixtures("budget")
async def test_the_images_of_a_request_share_what_its_reply_may_hold(detector: ServedModel) -> None:
    service = FakeService(detector, found(1))
    await servicer(service).Detect(detecting(4, masks=True), CONTEXT)
    for work in service.works:
        assert isinstance(work, Work)
        assert isinstance(work.options, DetectOptions)
        assert work.options.max_picture_bytes == MAX_BYTES // 4


async def test_room_for_the_masks_is_kept_before_they_are_made(
    detector: ServedModel, budget: ByteBudget
) -> None:
    other = Holding(budget)
    other.hold_request(1)
    service = FakeService(detector, found(1))
    with pytest.raises(OverloadedError, match="ask for smaller masks"):
        await servicer(service).Detect(detecting(4, masks=True, max_detections=1000), CONTEXT)
    assert not service.works
    await servicer(service).Detect(detecting(4, masks=True, max_detections=10), CONTEXT)
    # A run in each of the 100 columns of 10 objects.
    other.hold_request(MAX_BYTES - 4 * 2 * 100 * 10)
    with pytest.raises(OverloadedError):
        other.hold_request(MAX_BYTES - 4 * 2 * 100 * 10 + 1)


@pytest.mark.usefixtures("budget")
async def test_many_classes_are_told_from_a_thread_too(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    monkeypatch.setattr(
        replies, "classify_response", lambda *_: threads.append(threading.current_thread()) or ()
    )
    model = served_model("a", labels=["red"] * 501, batcher=FakeQueue())
    result = Classification(list(range(501)), [1.0] * 501)
    await servicer(FakeService(model, result)).Classify(pb.ClassifyRequest(images=[IMAGE]), CONTEXT)
    assert threads != [threading.current_thread()]


@pytest.mark.usefixtures("budget")
async def test_a_detector_and_the_classifier_of_what_it_finds_are_held_until_the_call_ends(
    detector: ServedModel,
) -> None:
    classifier = served_model("b", batcher=FakeQueue())
    service = FakeService(detector, found(0))
    models = {Task.DETECT: detector, Task.CLASSIFY: classifier}
    service.catalog.for_task = lambda task, name, version, metadata: models[task]
    request = detecting(1, max_detections=10, classify_with=pb.ClassifyWith())
    reply = await servicer(service).Detect(request, CONTEXT)
    assert (reply.classifier, reply.classifier_version) == ("b", 1)
    assert current_call.get().leases == [detector.leases, classifier.leases]
    assert [len(leases) for leases in current_call.get().leases] == [1, 1]


@pytest.mark.usefixtures("budget")
async def test_nothing_is_detected_where_the_classifier_has_no_room(detector: ServedModel) -> None:
    full = FakeQueue()
    full.full = True
    service = FakeService(detector, found(1))
    models = {Task.DETECT: detector, Task.CLASSIFY: served_model("b", batcher=full)}
    service.catalog.for_task = lambda task, name, version, metadata: models[task]
    with pytest.raises(OverloadedError):
        await servicer(service).Detect(
            detecting(1, max_detections=10, classify_with=pb.ClassifyWith()), CONTEXT
        )
    assert not service.works


async def test_room_for_the_classes_of_what_was_found_is_kept_before_anything_is_cut_out(
    detector: ServedModel, budget: ByteBudget
) -> None:
    other = Holding(budget)
    other.hold_request(MAX_BYTES)
    service = FakeService(detector, found(1))
    models = {Task.DETECT: detector, Task.CLASSIFY: served_model("b", batcher=FakeQueue())}
    service.catalog.for_task = lambda task, name, version, metadata: models[task]
    request = detecting(1, max_detections=1, classify_with=pb.ClassifyWith())
    with pytest.raises(OverloadedError) as refusal:
        await servicer(service).Detect(request, CONTEXT)
    assert refusal.value.reason == "TOO_MANY_BYTES_IN_FLIGHT"
