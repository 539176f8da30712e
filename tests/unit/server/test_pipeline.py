import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from structlog.testing import capture_logs
from tests import pictures

from retinue_server.batching.tickets import Stop, Stopped
from retinue_server.errors import EngineError, ImageError
from retinue_server.feeds import Feeds
from retinue_server.pipeline import Pipeline, together
from retinue_server.results import Answer, ClassifyOptions, DetectOptions, Options, Work
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.resize import Frame
from retinue_server.vision.spec import InputSpec, ResizeMode

SPEC = InputSpec(
    height=4, width=6, grey=False, resize_mode=ResizeMode.STRETCH, resample=Image.Resampling.BILINEAR
)
OPTIONS = ClassifyOptions(top_k=1, min_score=0, max_picture_bytes=0)
MAX_PIXELS = 1_000_000
NO_FEEDS = Feeds(pb.ModelManifest(task=pb.TASK_CLASSIFY))


class FakeNetwork:
    """Answers each image with its mean level; notes what it was given."""

    def __init__(self) -> None:
        self.batches: list[npt.NDArray[np.uint8]] = []
        self.fed: list[Mapping[str, npt.NDArray[Any]]] = []
        self.asked: list[set[str]] = []
        # Kept alive: memory that was given back could be handed out again.
        self.slabs: list[npt.NDArray[np.uint8]] = []
        self.stopped = False
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.fail_with: Exception | None = None

    def run(
        self,
        images: npt.NDArray[np.uint8],
        feeds: Mapping[str, npt.NDArray[Any]],
        extra: Collection[str],
        when_stopped: Callable[[Callable[[], None]], None],
        *,
        alone: bool,
    ) -> Mapping[str, npt.NDArray[Any]]:
        when_stopped(self.note_stop)
        self.fed.append(feeds)
        self.asked.append(set(extra))
        self.batches.append(images.copy())
        self.slabs.append(images)
        self.begun.release()
        assert self.gate.wait(10)
        if self.fail_with is not None:
            raise self.fail_with
        return {"levels": images.mean(axis=(1, 2, 3))}

    def note_stop(self) -> None:
        self.stopped = True

    def slab_count(self) -> int:
        """How many different slabs there were."""
        return len({slab.ctypes.data for slab in self.slabs})


def mean_level(outputs: Mapping[str, npt.NDArray[Any]], row: int, frame: Frame, options: Options) -> Any:
    return round(float(outputs["levels"][row])), frame.original_width, options


def work(level: int, width: int = 5) -> Work:
    pixels = np.full((3, width, 3), level, np.uint8)
    return Work(open_raw(pixels.tobytes(), 3, width, "RGB", max_pixels=MAX_PIXELS), OPTIONS)


def bad_work() -> Work:
    """A file whose header is fine and whose pixels are cut off."""
    data = pictures.encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)))
    return Work(open_encoded(data[: len(data) // 2], max_pixels=MAX_PIXELS), OPTIONS)


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


def pipeline(
    network: FakeNetwork,
    postprocess: Callable[..., Any] = mean_level,
    decoders: Executor | None = None,
    feeds: Feeds = NO_FEEDS,
) -> Pipeline:
    return Pipeline(
        network,
        SPEC,
        feeds,
        partial(partial, postprocess),
        batch_sizes=(1, 2, 4),
        decoders=decoders,
        name="a/1",
    )


def test_each_image_gets_the_answer_of_its_row(network: FakeNetwork) -> None:
    answers = pipeline(network).run([work(10, width=7), work(20, width=8), work(30, width=9)], Stop())
    assert [answer.result for answer in answers if isinstance(answer, Answer)] == [
        (10, 7, OPTIONS),
        (20, 8, OPTIONS),
        (30, 9, OPTIONS),
    ]
    (batch,) = network.batches
    assert batch.shape == (3, 4, 6, 3)
    for answer in answers:
        assert isinstance(answer, Answer)
        assert answer.batch_size == 3
        assert min(answer.decode_seconds, answer.inference_seconds, answer.postprocess_seconds) > 0


def test_a_bad_image_fails_alone(network: FakeNetwork) -> None:
    good, bad, also_good = pipeline(network).run([work(10), bad_work(), work(30)], Stop())
    assert isinstance(good, Answer)
    assert good.result[0] == 10  # type: ignore[index]
    assert isinstance(bad, ImageError)
    assert isinstance(also_good, Answer)
    assert also_good.result[0] == 30  # type: ignore[index]
    # It still has its row, so the batch is what was taken from the queue.
    assert len(network.batches[0]) == 3


def test_the_network_is_not_run_for_bad_images_alone(network: FakeNetwork) -> None:
    answers = pipeline(network).run([bad_work(), bad_work()], Stop())
    assert [type(answer) for answer in answers] == [ImageError, ImageError]
    assert network.batches == []


def test_what_is_the_servers_fault_is_logged_under_the_id_that_the_caller_is_told(
    network: FakeNetwork,
) -> None:
    faults = [EngineError("the model gave a score that is none; its bundle is broken."), KeyError("boxes")]

    def postprocess(outputs: Any, row: int, frame: Frame, options: Any) -> Any:
        raise faults[row]

    with capture_logs() as logged:
        answers = pipeline(network, postprocess).run([work(1), work(2)], Stop())
    broken, missing = answers
    assert isinstance(broken, EngineError)
    assert isinstance(missing, EngineError)
    assert broken.message.startswith("the model gave a score that is none; its bundle is broken; the server")
    assert [event["event"] for event in logged] == ["image_failed", "image_failed"]
    assert {event["model"] for event in logged} == {"a/1"}
    assert logged[0]["reason"] == faults[0].message  # type: ignore[union-attr]
    for event, answer in zip(logged, (broken, missing), strict=True):
        assert answer.message.endswith(f"logged it as {event['error_id']}.")


def test_what_is_the_images_fault_is_not_logged(network: FakeNetwork) -> None:
    with capture_logs() as logged:
        pipeline(network).run([bad_work()], Stop())
    assert logged == []


def test_a_result_that_cannot_be_made_fails_alone(network: FakeNetwork) -> None:
    def postprocess(outputs: Any, row: int, frame: Frame, options: Any) -> Any:
        if row == 1:
            raise EngineError("the network answered with a class that it does not have.")
        return row

    first, second, third = pipeline(network, postprocess).run([work(1), work(2), work(3)], Stop())
    assert isinstance(first, Answer)
    assert isinstance(second, EngineError)
    assert isinstance(third, Answer)
    assert (first.result, third.result) == (0, 2)


def test_it_is_probed_with_a_black_image_in_a_slab_that_comes_back(network: FakeNetwork) -> None:
    probed = pipeline(network)
    probed.run([work(200)], Stop())
    probed.probe(Stop())
    assert network.batches[-1].shape[0] == 1
    assert not network.batches[-1].any()
    network.fail_with = ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        probed.probe(Stop())
    network.fail_with = None
    probed.run([work(200)], Stop())
    assert network.slab_count() == 1


def test_a_slab_is_used_again(network: FakeNetwork) -> None:
    one = pipeline(network)
    for level in (1, 2, 3):
        one.run([work(level), work(level)], Stop())
    assert network.slab_count() == 1
    # Every pixel of the rows in use is written anew.
    assert [int(batch.max()) for batch in network.batches] == [1, 2, 3]


def test_a_slab_comes_back_when_the_network_fails(network: FakeNetwork) -> None:
    one = pipeline(network)
    network.fail_with = ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        one.run([work(1)], Stop())
    network.fail_with = None
    one.run([work(2)], Stop())
    assert network.slab_count() == 1


def test_batches_that_run_at_once_have_slabs_of_their_own(network: FakeNetwork) -> None:
    one = pipeline(network)
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(one.run, [work(level)], Stop()) for level in (10, 20)]
        for _ in calls:
            assert network.begun.acquire(timeout=10)
        network.gate.set()
        levels = {call.result()[0].result[0] for call in calls}  # type: ignore[index,union-attr]
    assert levels == {10, 20}
    assert network.slab_count() == 2


class Decoders(Executor):
    """A pool that notes what it was given, and does it at once."""

    def __init__(self) -> None:
        self.decoded = threading.Semaphore(0)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        self.decoded.release()
        return future

    def wait_for(self, images: int) -> None:
        """Waits until so many more are decoded."""
        for _ in range(images):
            assert self.decoded.acquire(timeout=10)


def test_decoders_fill_the_batch_in_front_of_a_gpu(network: FakeNetwork) -> None:
    decoders = Decoders()
    first, bad, last = pipeline(network, decoders=decoders).run([work(10), bad_work(), work(30)], Stop())
    decoders.wait_for(3)
    assert isinstance(bad, ImageError)
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert (first.result[0], last.result[0]) == (10, 30)  # type: ignore[index]


def test_in_front_of_a_gpu_one_batch_is_decoded_while_another_runs(network: FakeNetwork) -> None:
    decoders = Decoders()
    one = pipeline(network, decoders=decoders)
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(one.run, [work(10)], Stop())
        assert network.begun.acquire(timeout=10)
        next_one = threads.submit(one.run, [work(20), work(20)], Stop())
        decoders.wait_for(3)
        network.gate.set()
        assert len(running.result()) == 1
        assert len(next_one.result()) == 2
    assert [len(batch) for batch in network.batches] == [1, 2]


def test_slabs_that_come_from_elsewhere_take_turns(network: FakeNetwork) -> None:
    slabs = [np.zeros((4, 4, 6, 3), np.uint8) for _ in range(2)]
    unused = list(slabs)
    one = Pipeline(
        network,
        SPEC,
        NO_FEEDS,
        partial(partial, mean_level),
        batch_sizes=(1, 2, 4),
        decoders=Decoders(),
        new_slab=lambda: unused.pop(0),
    )
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(one.run, [work(level)], Stop()) for level in (10, 20)]
        for _ in calls:
            assert network.begun.acquire(timeout=10)
        network.gate.set()
        for call in calls:
            call.result()
    for level in (30, 40, 50, 60):
        one.run([work(level)], Stop())
    assert network.slab_count() == 2
    given = [
        next(number for number, slab in enumerate(slabs) if np.shares_memory(slab, batch))
        for batch in network.slabs
    ]
    assert sorted(given[:2]) == [0, 1]
    assert given[2] != given[3] != given[4] != given[5]


@pytest.mark.parametrize(("images", "rows"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 6), (6, 6)])
def test_a_gpu_runs_only_sizes_that_were_measured(network: FakeNetwork, images: int, rows: int) -> None:
    one = Pipeline(
        network, SPEC, NO_FEEDS, partial(partial, mean_level), batch_sizes=(1, 2, 4, 6), decoders=Decoders()
    )
    answers = one.run([work(10 * number) for number in range(images)], Stop())
    assert [answer.result[0] for answer in answers] == [10 * number for number in range(images)]  # type: ignore[index,union-attr]
    assert [len(batch) for batch in network.batches] == [rows]


def test_rows_without_an_image_have_thresholds_and_regions_too(network: FakeNetwork) -> None:
    options = pb.DetectOptions(max_detections=9, adjustable_thresholds=True, max_regions=2)
    feeds = Feeds(pb.ModelManifest(task=pb.TASK_DETECT, detect=options))
    asked = [replace(work(10), options=wanting(score_threshold=0.25), regions=np.zeros((1, 4), np.float32))]
    pipeline(network, decoders=Decoders(), feeds=feeds).run(asked * 3, Stop())
    (fed,) = network.fed
    assert fed["score_threshold"].tolist() == [0.25, 0.25, 0.25, 1]
    assert fed["regions"].shape == (4, 2, 4)
    assert fed["iou_threshold"].shape == (1,)


def wanting(**changes: Any) -> DetectOptions:
    plain = DetectOptions(
        score_threshold=0.5, max_detections=9, class_ids=None, iou_threshold=0.6, max_picture_bytes=0
    )
    return replace(plain, **changes)


def test_each_image_brings_its_threshold_and_its_regions_in_the_inputs_pixels(network: FakeNetwork) -> None:
    options = pb.DetectOptions(max_detections=9, adjustable_thresholds=True, max_regions=2)
    image_input = pb.ImageInput(height=4, width=6)
    feeds = Feeds(pb.ModelManifest(task=pb.TASK_DETECT, detect=options, input=image_input))
    regions = np.array([[1, 0, 3, 3], [9, 9, 12, 12]], np.float32)  # the second lies outside of the image
    first = replace(work(10, width=3), options=wanting(score_threshold=0.25), regions=regions)
    second = replace(work(20, width=3), options=wanting(), regions=regions[:1] * 0.5)
    pipeline(network, feeds=feeds).run([first, second], Stop())
    (fed,) = network.fed
    assert fed["score_threshold"].tolist() == [0.25, 0.5]
    np.testing.assert_array_equal(fed["iou_threshold"], np.array([0.6], np.float32))
    assert fed["regions"].tolist() == [[[2, 0, 6, 4], [0, 0, 0, 0]], [[1, 0, 3, 2], [0, 0, 0, 0]]]


def test_what_one_image_asks_for_is_computed_for_the_batch(network: FakeNetwork) -> None:
    one = pipeline(network)
    one.run([replace(work(1), options=wanting()), replace(work(2), options=wanting(masks=True))], Stop())
    one.run([replace(work(1), options=wanting())], Stop())
    assert network.asked == [{"masks"}, set()]


def test_images_run_together_unless_their_overlap_thresholds_differ() -> None:
    plain, same, other = (
        replace(work(1), options=options)
        for options in (wanting(), wanting(score_threshold=0.1, masks=True), wanting(iou_threshold=0.3))
    )
    assert together(plain, same)
    assert not together(plain, other)
    assert together(work(1), work(2))


def test_the_network_does_not_run_for_nobody(network: FakeNetwork) -> None:
    stop = Stop()
    stop.request()
    with pytest.raises(Stopped):
        pipeline(network).run([work(1)], stop)
    assert not network.batches


def test_a_network_that_runs_is_told_when_nobody_waits_any_more(network: FakeNetwork) -> None:
    stop = Stop()
    pipeline(network).run([work(1)], stop)
    assert not network.stopped
    stop.request()
    assert network.stopped
