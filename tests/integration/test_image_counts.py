"""Every image that a caller sends to a model is in the metrics once: nothing is lost, and nothing counted twice."""

import random
from collections import Counter

import grpc
import httpx
import pytest
from retinue.inference import grpc_service_pb2 as oip
from retinue.inference import grpc_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as pb
from tests.busy import engine_held
from tests.calls import Connection, encoded, flat, refused
from tests.integration.conftest import SMALL_QUEUE_IMAGES
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess

_MODEL = "colour-classifier"
_RED = flat(255, 0, 0)
_BAD = encoded(b"no image")


class Images:
    """What the metrics say of a model's images since this was made."""

    def __init__(self, server: ServerProcess, model: str = _MODEL) -> None:
        self._url = server.http_url
        self._model = model
        self._before = self._read()

    def outcomes(self) -> dict[tuple[str, str], int]:
        """How many there were, by priority and outcome."""
        grown = self._read()
        grown.subtract(self._before)
        return {key: count for key, count in grown.items() if count and key[1] != "received"}

    def received(self) -> int:
        """How many there were."""
        grown = self._read()
        grown.subtract(self._before)
        return sum(count for key, count in grown.items() if key[1] == "received")

    def add_up(self) -> bool:
        """Whether each has its outcome."""
        return sum(self.outcomes().values()) == self.received()

    def _read(self) -> "Counter[tuple[str, str]]":
        page = MetricsPage(self._url)
        counted = Counter[tuple[str, str]]()
        for name in ("retinue_images_total", "retinue_images_received_total"):
            for sample in page.find(name, model=self._model):
                outcome = sample.labels.get("outcome", "received")
                counted[sample.labels["priority"], outcome] += int(sample.value)
        return counted


@pytest.fixture
def images(small_server: ServerProcess, small: Connection) -> Images:
    """Of the quick model, when all that earlier tests have sent is counted."""
    wait_until(Images(small_server).add_up, "earlier images to be counted")
    return Images(small_server)


def _infer(connection: Connection, shape: list[int]) -> None:
    """Sends a request of tensors, which have the shape."""
    request = oip.ModelInferRequest(model_name=_MODEL)
    request.inputs.add(name="images", datatype="UINT8", shape=shape)
    size = 1
    for one in shape:
        size *= one
    request.raw_input_contents.append(bytes(size))
    grpc_service_pb2_grpc.GRPCInferenceServiceStub(connection.channel).ModelInfer(request, timeout=60)


def test_images_are_counted_by_what_became_of_them(
    images: Images, small: Connection, small_server: ServerProcess
) -> None:
    small.classify(_RED, _BAD, _RED, model=_MODEL)
    small.classify(_BAD, _BAD, model=_MODEL, priority=pb.PRIORITY_HIGH)
    small.classify(_RED, model=_MODEL, priority=pb.PRIORITY_LOW)
    refused(lambda: small.classify(_RED, _RED, model=_MODEL, top_k=0))
    refused(lambda: small.classify(*[_RED] * (SMALL_QUEUE_IMAGES + 1), model=_MODEL))
    refused(lambda: small.classify(_RED, model="unknown-model"))
    side = small.get_model(_MODEL).manifest.input.height
    _infer(small, [3, side, side, 3])
    with pytest.raises(grpc.RpcError):
        _infer(small, [SMALL_QUEUE_IMAGES + 1, side, side, 3])
    httpx.post(f"{small_server.http_url}/v1/models/{_MODEL}:classify", content=b"no image")

    # A request of more images than are taken is refused before they are counted.
    assert images.outcomes() == {
        ("normal", "answered"): 2 + 3,
        ("normal", "failed"): 1 + 1,
        ("normal", "refused"): 2,
        ("high", "failed"): 2,
        ("low", "answered"): 1,
    }
    assert images.add_up()


def test_images_of_a_full_queue_and_of_who_leaves_it_are_counted(
    images: Images, small: Connection, small_server: ServerProcess
) -> None:
    request = pb.ClassifyRequest(model=_MODEL, images=[_RED] * SMALL_QUEUE_IMAGES)
    with engine_held(small, small_server):
        waiting = small.vision.Classify.future(request)
        wait_until(lambda: images.received() == SMALL_QUEUE_IMAGES, "the images to be received")
        assert images.outcomes() == {}
        refused(lambda: small.classify(_RED, model=_MODEL))
        waiting.cancel()
        wait_until(lambda: ("normal", "cancelled") in images.outcomes(), "the caller to have left")
    assert images.outcomes() == {("normal", "cancelled"): SMALL_QUEUE_IMAGES, ("normal", "refused"): 1}
    assert images.add_up()


def test_whatever_callers_do_each_image_has_one_outcome(images: Images, small: Connection) -> None:
    chance = random.Random(1)
    sent, answered, left = 0, 0, 0
    running = []
    for _ in range(200):
        count = chance.randint(1, 12)
        request = pb.ClassifyRequest(
            model=_MODEL,
            images=[chance.choice([_RED, _RED, _BAD]) for _ in range(count)],
            priority=chance.choice([pb.PRIORITY_HIGH, pb.PRIORITY_NORMAL, pb.PRIORITY_LOW]),
        )
        call = small.vision.Classify.future(request, timeout=chance.choice([0.003, 0.02, 60]))
        if chance.random() < 0.2:
            call.cancel()
        running.append((call, count))
        sent += count
    for call, count in running:
        try:
            outcomes = call.result().outcomes
            answered += sum(one.HasField("result") for one in outcomes)
        except (grpc.RpcError, grpc.FutureCancelledError):
            left += count
    wait_until(images.add_up, "each image to have its outcome")
    counted = Counter[str]()
    for (_, outcome), count in images.outcomes().items():
        counted[outcome] += count
    # Of calls that ended without an answer some never came to a model, and some had one that came too late.
    assert sent - left <= images.received() <= sent
    assert answered <= counted["answered"] <= answered + left
