import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tests import pictures

from retinue_server.errors import EngineError, ImageError
from retinue_server.pipeline import Pipeline, Work
from retinue_server.results import Answer, ClassifyOptions
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.resize import Frame
from retinue_server.vision.spec import InputSpec, ResizeMode

SPEC = InputSpec(
    height=4, width=6, grey=False, resize_mode=ResizeMode.STRETCH, resample=Image.Resampling.BILINEAR
)
OPTIONS = ClassifyOptions(top_k=1, min_score=0)
MAX_PIXELS = 1_000_000


class FakeNetwork:
    """Answers each image with its mean level; notes what it was given."""

    def __init__(self) -> None:
        self.batches: list[npt.NDArray[np.uint8]] = []
        # Kept alive: memory that was given back could be handed out again.
        self.slabs: list[npt.NDArray[np.uint8]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.fail_with: Exception | None = None

    def run(self, images: npt.NDArray[np.uint8]) -> Sequence[npt.NDArray[Any]]:
        self.batches.append(images.copy())
        self.slabs.append(images)
        self.begun.release()
        assert self.gate.wait(10)
        if self.fail_with is not None:
            raise self.fail_with
        return [images.mean(axis=(1, 2, 3))]

    def slab_count(self) -> int:
        """How many different slabs there were."""
        return len({slab.ctypes.data for slab in self.slabs})


def mean_level(outputs: Sequence[npt.NDArray[Any]], row: int, frame: Frame, options: ClassifyOptions) -> Any:
    return round(float(outputs[0][row])), frame.original_width, options


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
    network: FakeNetwork, postprocess: Callable[..., Any] = mean_level, decoders: Executor | None = None
) -> Pipeline:
    return Pipeline(network, SPEC, postprocess, max_batch_size=4, decoders=decoders)


def test_each_image_gets_the_answer_of_its_row(network: FakeNetwork) -> None:
    answers = pipeline(network).run([work(10, width=7), work(20, width=8), work(30, width=9)])
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
    good, bad, also_good = pipeline(network).run([work(10), bad_work(), work(30)])
    assert isinstance(good, Answer)
    assert good.result[0] == 10  # type: ignore[index]
    assert isinstance(bad, ImageError)
    assert isinstance(also_good, Answer)
    assert also_good.result[0] == 30  # type: ignore[index]
    # It still has its row, so the batch is what was taken from the queue.
    assert len(network.batches[0]) == 3


def test_the_network_is_not_run_for_bad_images_alone(network: FakeNetwork) -> None:
    answers = pipeline(network).run([bad_work(), bad_work()])
    assert [type(answer) for answer in answers] == [ImageError, ImageError]
    assert network.batches == []


def test_a_result_that_cannot_be_made_fails_alone(network: FakeNetwork) -> None:
    def postprocess(outputs: Any, row: int, frame: Frame, options: Any) -> Any:
        if row == 1:
            raise EngineError("the network answered with a class that it does not have.")
        return row

    first, second, third = pipeline(network, postprocess).run([work(1), work(2), work(3)])
    assert isinstance(first, Answer)
    assert isinstance(second, EngineError)
    assert isinstance(third, Answer)
    assert (first.result, third.result) == (0, 2)


def test_a_slab_is_used_again(network: FakeNetwork) -> None:
    one = pipeline(network)
    for level in (1, 2, 3):
        one.run([work(level), work(level)])
    assert network.slab_count() == 1
    # Every pixel of the rows in use is written anew.
    assert [int(batch.max()) for batch in network.batches] == [1, 2, 3]


def test_a_slab_comes_back_when_the_network_fails(network: FakeNetwork) -> None:
    one = pipeline(network)
    network.fail_with = ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        one.run([work(1)])
    network.fail_with = None
    one.run([work(2)])
    assert network.slab_count() == 1


def test_batches_that_run_at_once_have_slabs_of_their_own(network: FakeNetwork) -> None:
    one = pipeline(network)
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(one.run, [work(level)]) for level in (10, 20)]
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
    first, bad, last = pipeline(network, decoders=decoders).run([work(10), bad_work(), work(30)])
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
        running = threads.submit(one.run, [work(10)])
        assert network.begun.acquire(timeout=10)
        next_one = threads.submit(one.run, [work(20), work(20)])
        decoders.wait_for(3)
        # The second batch is decoded, and the network has only the first.
        assert len(network.batches) == 1
        network.gate.set()
        assert len(running.result()) == 1
        assert len(next_one.result()) == 2
    assert [len(batch) for batch in network.batches] == [1, 2]
