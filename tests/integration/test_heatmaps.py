"""Where a classifier sees what it names: in the frame of the original image, and only for those who ask."""

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from retinue.v1 import image_pb2, manifest_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, pictures
from tests.calls import Connection, connected, encoded, refused
from tests.server_process import running_server

MODES = {
    "stretch": manifest_pb2.RESIZE_MODE_STRETCH,
    "letterbox": manifest_pb2.RESIZE_MODE_LETTERBOX,
    "crop": manifest_pb2.RESIZE_MODE_SHORTER_SIDE_CENTER_CROP,
}
WIDTH, HEIGHT = 120, 80


@pytest.fixture(scope="module")
def locators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A server of one classifier with a heatmap for each resize rule, and one without."""
    models = tmp_path_factory.mktemp("locators")
    for name, mode in MODES.items():
        colour_bundles.locator(models, name, resize=mode)
    colour_bundles.classifier(models, "plain")
    with running_server(models, "--instances", "1") as server, connected(server.grpc_address) as connection:
        yield connection


def photo(x: int, y: int, colour: int = 0) -> Image.Image:
    """A square of one colour around a point, on black."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[y - 10 : y + 10, x - 10 : x + 10, colour] = 255
    return Image.fromarray(pixels)


def sent(image: Image.Image, **options: object) -> image_pb2.Image:
    return encoded(pictures.encode(image, "PNG", **options))


def heatmap_of(outcome: pb.ClassifyOutcome) -> npt.NDArray[np.uint8]:
    assert outcome.WhichOneof("outcome") == "result", outcome
    image = Image.open(io.BytesIO(outcome.result.heatmap))
    assert (image.format, image.mode) == ("PNG", "L")
    return np.asarray(image)


def middle(heatmap: npt.NDArray[np.uint8]) -> tuple[float, float]:
    rows, columns = np.indices(heatmap.shape) + 0.5
    return float(np.average(columns, weights=heatmap)), float(np.average(rows, weights=heatmap))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", [(40, 20), (75, 60)])
def test_what_is_named_lights_up_where_it_is(mode: str, place: tuple[int, int], locators: Connection) -> None:
    (outcome,) = locators.classify(sent(photo(*place)), model=mode, heatmap=True).outcomes
    assert outcome.result.classes[0].label == "red"
    heatmap = heatmap_of(outcome)
    assert heatmap.shape == (HEIGHT, WIDTH)
    assert heatmap.max() == 255
    assert middle(heatmap) == pytest.approx(place, abs=4)
    if mode == "crop":
        assert not heatmap[:, :20].any()
        assert not heatmap[:, -20:].any()


def test_a_turned_photo_has_its_heatmap_upright(locators: Connection) -> None:
    turned = photo(40, 20).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    (outcome,) = locators.classify(sent(turned, exif=exif), model="letterbox", heatmap=True).outcomes
    heatmap = heatmap_of(outcome)
    assert heatmap.shape == (HEIGHT, WIDTH)
    assert middle(heatmap) == pytest.approx((40, 20), abs=4)


def test_a_large_photo_has_a_smaller_heatmap(locators: Connection) -> None:
    large = photo(40, 20).resize((2400, 1600))
    (outcome,) = locators.classify(sent(large), model="stretch", heatmap=True).outcomes
    assert heatmap_of(outcome).shape == (341, 512)
    assert len(outcome.result.heatmap) < 60_000


def test_only_those_who_ask_get_one_whoever_else_asks_meanwhile(locators: Connection) -> None:
    asking = pb.ClassifyRequest(model="stretch", images=[sent(photo(40, 20))] * 5, heatmap=True)
    plain = pb.ClassifyRequest(model="stretch", images=[sent(photo(40, 20, colour=2))] * 5)
    calls = [locators.vision.Classify.future(request, timeout=60) for request in [asking, plain] * 6]
    for number, call in enumerate(calls):
        for outcome in call.result().outcomes:
            assert bool(outcome.result.heatmap) == (number % 2 == 0)
            assert outcome.result.classes[0].label == ("blue" if number % 2 else "red")


def test_an_unreadable_image_has_none_and_costs_its_neighbours_nothing(locators: Connection) -> None:
    images = sent(photo(40, 20)), encoded(b"no image"), sent(photo(75, 60))
    first, bad, last = locators.classify(*images, model="stretch", heatmap=True).outcomes
    assert bad.WhichOneof("outcome") == "error"
    assert middle(heatmap_of(first)) == pytest.approx((40, 20), abs=4)
    assert middle(heatmap_of(last)) == pytest.approx((75, 60), abs=4)


def test_a_model_without_is_told_apart(locators: Connection) -> None:
    refusal = refused(lambda: locators.classify(sent(photo(40, 20)), model="plain", heatmap=True))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "NO_HEATMAP")
    assert locators.get_model("stretch").manifest.classify.heatmap_height == colour_bundles.SIDE
    assert locators.get_model("plain").manifest.classify.heatmap_height == 0
