"""What a call gives for its images, and a client that many share."""

import asyncio
import base64
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from retinue_client import (
    AsyncClient,
    Classification,
    Client,
    DeadlineExceededError,
    ImageError,
    ResponseError,
    ServerUnreachableError,
    UnavailableError,
)
from retinue_client._draw import draw_heatmap


def test_one_image_gives_one_result(ask):
    result = ask("classify", b"a cat", model="m")
    assert isinstance(result, Classification)
    assert (result.best.label, result.best.class_id, result.best.score) == ("a cat", 7, 0.75)
    assert (result.model, result.version) == ("m", 3)
    assert (result.timing.decode_us, result.timing.total_us, result.timing.batch_size) == (1500, 8100, 4)


def test_an_opened_image_that_cannot_be_decoded_fails_alone(ask):
    def opened(levels, end):
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, "PNG")
        return Image.open(io.BytesIO(buffer.getvalue()[:end]))

    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    outcomes = ask("classify", [opened(noise, None), opened(noise, 2000), b"a cat"])
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Classification",
        "ImageError",
        "Classification",
    ]
    assert (outcomes[1].reason, outcomes[1].source) == ("IMAGE_UNDECODABLE", "Pillow image RGB 64x48")


def test_one_image_without_an_answer_raises(ask, tmp_path):
    with pytest.raises(ImageError, match="5 bytes: These bytes are no image") as caught:
        ask("classify", b"bad 1")
    assert caught.value.reason == "IMAGE_UNDECODABLE"
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"bad 2")
    with pytest.raises(ImageError, match=r"bad\.jpg: These bytes are no image"):
        ask("segment", path)


def test_several_images_give_results_and_errors_in_order(ask, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"file a")
    images = [
        b"first",
        b"bad",
        tmp_path / "a.jpg",
        tmp_path / "missing.jpg",
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6)),
    ]
    outcomes = ask("classify", images)
    assert [getattr(outcome, "reason", None) or outcome.best.label for outcome in outcomes] == [
        "first",
        "IMAGE_UNDECODABLE",
        "file a",
        "FILE_NOT_FOUND",
        "6x4 order 4",
        "PIXELS_UNSUPPORTED",
    ]
    assert outcomes[3].source == str(tmp_path / "missing.jpg")


def test_any_iterable_of_images_will_do(ask, tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(name.encode())
    labels = [result.best.label for result in ask("classify", (path for path in sorted(tmp_path.iterdir())))]
    assert labels == ["a", "b"]
    assert ask("classify", []) == []
    assert [result.best.label for result in ask("classify", (b"x",))] == ["x"]


def test_what_is_no_image_is_refused_before_anything_is_sent(ask, server):
    for wrong in (7, None, [b"x", 7]):
        with pytest.raises(TypeError, match="no image"):
            ask("classify", wrong)
    assert server.service.requests == []


def test_every_kind_of_image_arrives(ask, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"path")
    images = [path, str(path), b"bytes", Image.new("RGB", (5, 3)), np.zeros((3, 5, 4), np.uint8)]
    labels = [result.best.label for result in ask("classify", images)]
    assert labels == ["path", "path", "bytes", "5x3 order 1", "5x3 order 3"]


def test_a_heatmap_comes_when_it_is_asked_for(ask):
    plain, hot = ask("classify", b"x"), ask("classify", b"x", heatmap=True)
    with pytest.raises(LookupError, match="heatmap=True"):
        _ = plain.heatmap
    assert "heatmap" not in plain.to_dict()
    assert hot.heatmap.dtype == np.uint8
    assert np.argwhere(hot.heatmap).tolist() == [[1, 4]]
    assert not hot.heatmap.flags.writeable
    assert base64.b64decode(hot.to_dict()["heatmap"]["base64"]).startswith(b"\x89PNG")
    assert hot == ask("classify", b"x", heatmap=True)


def test_a_heatmap_that_is_missing_or_none_is_an_error_of_the_answer(ask, server):
    def without(response):
        response.outcomes[0].result.heatmap = b""

    def broken(response):
        response.outcomes[0].result.heatmap = b"no PNG"

    server.service.alter_response = without
    with pytest.raises(ResponseError, match="without a heatmap"):
        ask("classify", b"x", heatmap=True)
    server.service.alter_response = broken
    answer = ask("classify", b"x", heatmap=True)
    with pytest.raises(ResponseError, match="cannot be decoded"):
        _ = answer.heatmap


def test_a_heatmap_is_painted_where_it_is_hot(ask):
    picture = Image.new("RGB", (600, 400), (200, 100, 100))
    drawn = np.asarray(ask("classify", b"x", heatmap=True).draw_heatmap(picture).convert("RGB"), int)
    hot, cold = drawn[150, 450], drawn[350, 100]
    assert hot[0] > hot[2] + 40  # yellow
    assert cold[0] == cold[1] == cold[2]  # grey
    assert drawn.shape[0] > 400  # the name and the scale


def test_the_name_below_a_heatmap_is_the_label_as_it_is_and_a_percentage(ask):
    picture = Image.new("RGB", (600, 400))
    answer = ask("classify", b"100% cotton", heatmap=True)
    expected = draw_heatmap(picture, answer.heatmap, "100% cotton 75.0 %")
    assert answer.draw_heatmap(picture) == expected


@pytest.mark.parametrize("mask_format", ["png", "raw", "coco_rle"])
def test_class_maps_arrive_in_every_format(ask, mask_format):
    result = ask("segment", b"x", mask_format=mask_format)
    assert result.class_map.tolist() == [[0] * 6, [0, 0, 2, 2, 2, 0], [0, 0, 2, 2, 2, 0], [0] * 6]
    assert [(area.label, area.area_pixels) for area in result.areas] == [("background", 18), ("bag", 6)]
    assert (result.mask_format, result.mask_size) == (mask_format, "original")


def test_the_deadline_of_a_call_is_kept_and_named(ask, server):
    server.service.hold = threading.Event()
    with pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"):
        ask("classify", b"x", timeout_seconds=0.2)
    with pytest.raises(DeadlineExceededError, match=r"within 0\.1 s"):
        ask("detect", [b"x"], client={"timeout_seconds": 0.1})


def test_one_client_serves_many_threads(server):
    with Client(server.address) as client, ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda index: client.classify(f"{index}".encode()).best.label, range(100)))
    assert labels == [str(index) for index in range(100)]


async def test_one_async_client_serves_many_calls_at_once(server):
    async with AsyncClient(server.address) as client:
        results = await asyncio.gather(*(client.classify(f"{index}".encode()) for index in range(100)))
    assert [result.best.label for result in results] == [str(index) for index in range(100)]


async def test_a_cancelled_call_is_cancelled_at_the_server_too(server):
    server.service.hold = threading.Event()
    async with AsyncClient(server.address) as client:
        call = asyncio.create_task(client.classify([b"x", b"y"]))
        while not server.service.running:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server.service.hold.set()
        assert (await client.classify(b"next")).best.label == "next"


def test_a_client_comes_back_when_its_server_does(server):
    with Client(server.address) as client:
        client.classify(b"x")
        server.stop()
        with pytest.raises((ServerUnreachableError, UnavailableError)):
            client.classify(b"x")
        server.start_again()
        for _ in range(10_000):
            try:
                result = client.classify(b"y", timeout_seconds=10)
            except UnavailableError:
                continue
            break
        assert result.best.label == "y"
