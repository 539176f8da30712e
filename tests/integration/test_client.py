"""The Python client against a real server: every way to give an image, every kind of answer and of refusal."""

import asyncio
import functools
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import pictures
from tests.busy import SLOW_MODEL, engine_held
from tests.calls import Connection
from tests.integration.conftest import SMALL_REQUEST_BYTES
from tests.metrics_page import wait_until, waiting_images
from tests.server_process import ServerProcess

from retinue_client import (
    AsyncClient,
    Classification,
    Client,
    DeadlineExceededError,
    Detections,
    ImageError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RetinueError,
    Retries,
    ServerUnreachableError,
    WrongTaskError,
)

_LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def client(colour_server: ServerProcess) -> Iterator[Client]:
    with Client(colour_server.grpc_address) as connected:
        yield connected


@pytest.fixture(autouse=True)
def _still_answering(client: Client) -> Iterator[None]:
    """Whatever a test does, the server answers afterwards."""
    yield
    assert client.classify(pictures.png(pictures.RED)).best.label == "red"


def _in_every_form(image: Image.Image, folder: Path) -> dict[str, Any]:
    """One picture as everything that the client takes."""
    path = folder / "picture.png"
    image.save(path)
    return {
        "path": path,
        "path as text": str(path),
        "URL": path.as_uri(),
        "file": io.BytesIO(path.read_bytes()),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "opened image": Image.open(path),
        "image": image,
        "RGBA image": image.convert("RGBA"),
        "palette image": image.convert("P", palette=Image.Palette.ADAPTIVE),
        "array": np.asarray(image),
        "array with alpha": np.asarray(image.convert("RGBA")),
        "array view": np.asarray(image)[::-1][::-1],
    }


def test_a_picture_has_the_same_answer_in_every_form(client: Client, tmp_path: Path) -> None:
    picture, classes = pictures.quarters()
    forms = _in_every_form(picture, tmp_path)
    for name, result in zip(forms, client.segment(forms.values()), strict=True):
        assert not isinstance(result, ImageError), (name, result)
        assert np.array_equal(result.class_map, client.segment(picture).class_map), name
    expected = client.classify(picture).to_dict()["classes"]
    # An open file is read once.
    for name, form in _in_every_form(picture, tmp_path).items():
        assert client.classify(form).to_dict()["classes"] == expected, name
    assert set(np.unique(classes)) == {0, 1, 2}


def test_grey_arrays_and_images_are_read_as_grey(client: Client) -> None:
    grey = np.full((20, 30), 200, np.uint8)
    for form in (grey, grey[:, :, np.newaxis], Image.fromarray(grey)):
        scores = [entry.score for entry in client.classify(form).classes]
        assert scores == pytest.approx([1 / 3] * 3)


def test_sixteen_bit_images_are_answered_as_their_files_are(client: Client) -> None:
    levels = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    opened = Image.open(io.BytesIO(pictures.deep_png(levels)))
    by_object, by_file = client.segment([opened, pictures.deep_png(levels)])
    assert not isinstance(by_object, ImageError)
    assert not isinstance(by_file, ImageError)
    assert np.array_equal(by_object.class_map, by_file.class_map)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mask_format", ["png", "coco_rle", "raw"])
def test_a_turned_photo_is_answered_upright_as_file_and_as_opened_image(
    client: Client, orientation: int, mask_format: Any
) -> None:
    upright, classes = pictures.quarters(64, 32)
    data = pictures.turned_file(upright, orientation, "PNG")
    for form in (data, Image.open(io.BytesIO(data))):
        result = client.segment(form, mask_format=mask_format)
        assert (result.width, result.height) == (64, 32)
        # Away from the seams, where resizing mixes the colours.
        for y, x in ((4, 8), (4, 56), (28, 8), (28, 56)):
            assert result.class_map[y, x] == classes[y, x]
        assert sum(area.area_pixels for area in result.areas) == 64 * 32
        assert result.mask("blue").sum() == next(a.area_pixels for a in result.areas if a.label == "blue")


def test_boxes_are_in_the_pixels_of_the_given_image(client: Client) -> None:
    found = client.detect(pictures.solid(pictures.GREEN, 300, 200))
    assert found.labels == ("green",)
    assert found.boxes.tolist() == [[0, 0, 150, 200]]
    assert (found.image_width, found.image_height) == (300, 200)
    drawn = found.draw(Image.new("RGB", (640, 400)))
    assert drawn.size == (640, 400)


def test_the_options_of_a_detection_are_kept(client: Client) -> None:
    mixed = np.full((8, 8, 3), (200, 150, 100), np.uint8)
    assert client.detect(mixed, score_threshold=0).labels == ("red", "green", "blue")
    assert client.detect(mixed, score_threshold=0.5).labels == ("red", "green")
    assert client.detect(mixed, score_threshold=0, max_detections=1).labels == ("red",)
    assert client.detect(mixed, score_threshold=0, classes="blue").labels == ("blue",)
    assert client.detect(mixed, score_threshold=0.99).labels == ()


def test_a_class_map_comes_in_the_models_own_size_too(client: Client) -> None:
    result = client.segment(pictures.solid(pictures.BLUE, 300, 200), mask_size="model")
    assert result.class_map.tolist() == [[2] * 8] * 8


def test_a_list_longer_than_a_request_may_be_is_answered_in_order(client: Client) -> None:
    colours = [pictures.COLOURS[_LABELS[index % 3]] for index in range(300)]
    outcomes = client.classify([pictures.png(colour) for colour in colours], top_k=1)
    labels = [outcome.best.label for outcome in outcomes if isinstance(outcome, Classification)]
    assert labels == [_LABELS[index % 3] for index in range(300)]


def test_bad_images_are_values_among_the_answers_of_the_others(client: Client, tmp_path: Path) -> None:
    truncated = pictures.png(pictures.RED, 200, 200)[:60]
    (tmp_path / "text.jpg").write_text("no image")
    outcomes = client.detect(
        [
            pictures.png(pictures.BLUE),
            truncated,
            b"",
            tmp_path / "text.jpg",
            tmp_path / "missing.jpg",
            np.zeros((4, 4, 3)),
            pictures.png_bomb(50_000, 50_000),
            pictures.png(pictures.RED),
        ]
    )
    assert [isinstance(outcome, Detections) for outcome in outcomes] == [True, *[False] * 6, True]
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, ImageError)]
    assert reasons == [
        "IMAGE_UNDECODABLE",
        "IMAGE_EMPTY",
        "IMAGE_UNDECODABLE",
        "FILE_NOT_FOUND",
        "PIXELS_UNSUPPORTED",
        "IMAGE_TOO_LARGE",
    ]


@pytest.mark.parametrize(
    ("method", "options", "kind", "says"),
    [
        ("classify", {"model": "nope"}, ModelNotFoundError, "colour-classifier"),
        ("classify", {"version": 99}, RetinueError, "99"),
        ("classify", {"model": "colour-detector"}, WrongTaskError, "detect"),
        ("classify", {"top_k": 0}, InvalidRequestError, "top_k"),
        ("classify", {"top_k": 10**9}, InvalidRequestError, "top_k"),
        ("detect", {"score_threshold": math.nan}, InvalidRequestError, "score_threshold"),
        ("detect", {"classes": ["violet"]}, InvalidRequestError, "violet"),
        ("segment", {"classes": ["violet"]}, InvalidRequestError, "violet"),
    ],
)
def test_a_wrong_question_is_refused_with_the_servers_advice(
    client: Client, method: str, options: dict[str, Any], kind: type[RetinueError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        getattr(client, method)(pictures.png(pictures.RED), **options)
    assert caught.value.reason.isupper()


def test_models_say_what_they_do_and_how_they_run(client: Client) -> None:
    assert [(model.name, model.task) for model in client.list_models()] == [
        ("colour-classifier", "classify"),
        ("colour-detector", "detect"),
        ("colour-segmenter", "segment"),
    ]
    detector = client.get_model("colour-detector")
    assert detector.labels == _LABELS
    assert (detector.max_detections, detector.default_score_threshold) == (3, 0.5)
    assert detector.provider == "CPUExecutionProvider"
    assert detector.max_batch_size >= 1
    assert detector.memory_bytes >= 0
    assert client.get_model("colour-segmenter").background_class_id is None
    with pytest.raises(ModelNotFoundError, match="colour-classifier"):
        client.get_model("nope")


def test_timing_says_where_the_time_went(client: Client) -> None:
    timing = client.classify(pictures.png(pictures.RED)).timing
    stages = (timing.decode_us, timing.queue_us, timing.inference_us, timing.postprocess_us)
    assert all(stage >= 0 for stage in stages)
    assert timing.decode_us > 0
    assert timing.inference_us > 0
    assert sum(stages) <= timing.total_us + len(stages)
    assert timing.batch_size >= 1


@pytest.mark.parametrize("live", [False, True])
def test_a_stream_of_frames_is_answered_in_order(client: Client, live: bool) -> None:
    labels = [_LABELS[index % 3] for index in range(60)]
    video = np.stack([np.asarray(pictures.solid(pictures.COLOURS[label], 32, 24)) for label in labels])
    taken = list(client.stream("detect", video, max_in_flight=3, live=live))
    assert len(taken) == 60 or live
    assert taken[-1].index == 59
    assert [frame.index for frame in taken] == sorted({frame.index for frame in taken})
    for frame in taken:
        assert isinstance(frame.outcome, Detections)
        assert frame.outcome.labels == (labels[frame.index],)
        assert frame.image is not None


async def test_a_stream_goes_on_after_frames_that_are_none(colour_server: ServerProcess) -> None:
    frames = [pictures.png(pictures.RED), b"text", np.zeros((4, 4)), pictures.png(pictures.BLUE)]
    async with AsyncClient(colour_server.grpc_address) as client:
        outcomes = [frame.outcome async for frame in client.stream("classify", frames)]
        assert [isinstance(outcome, ImageError) for outcome in outcomes] == [False, True, True, False]
        with pytest.raises(ModelNotFoundError):
            _ = [frame async for frame in client.stream("classify", frames, model="nope")]


async def test_frames_of_a_stream_that_is_left_are_never_run(
    small: Connection, small_server: ServerProcess
) -> None:
    def waiting(count: int) -> None:
        found = functools.partial(waiting_images, small_server.http_url, "colour-classifier")
        wait_until(lambda: found() == count, f"{count} frames in the queue")

    with engine_held(small, small_server) as held:
        async with AsyncClient(small_server.grpc_address) as client:
            frames = [pictures.png(pictures.RED)] * 30
            stream = client.stream("classify", frames, model="colour-classifier", max_in_flight=4)
            first = asyncio.create_task(anext(stream))
            await asyncio.to_thread(waiting, 4)
            first.cancel()
            await asyncio.to_thread(waiting, 0)
        assert not held.done()


async def test_many_calls_share_the_connection_of_an_async_client(colour_server: ServerProcess) -> None:
    async with AsyncClient(colour_server.grpc_address) as client:
        colours = [_LABELS[index % 3] for index in range(60)]
        results = await asyncio.gather(
            *(client.classify(pictures.png(pictures.COLOURS[colour])) for colour in colours)
        )
        assert [result.best.label for result in results] == colours
        listed = await client.detect([pictures.png(pictures.GREEN), b"text"])
        assert isinstance(listed[0], Detections)
        assert isinstance(listed[1], ImageError)
        with pytest.raises(ModelNotFoundError):
            await client.get_model("nope")


def test_a_full_queue_says_when_to_come_back_and_a_client_does(
    small: Connection, small_server: ServerProcess
) -> None:
    images = [pictures.png(pictures.RED)] * 50
    with (
        Client(small_server.grpc_address, retries=Retries.none()) as hasty,
        Client(small_server.grpc_address, retries=Retries(max_attempts=10)) as client,
        engine_held(small, small_server),
    ):
        with pytest.raises(OverloadedError) as caught:
            hasty.classify(images, model="colour-classifier", timeout_seconds=30)
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after_seconds is not None
        assert caught.value.retry_after_seconds > 0
        outcomes = client.classify(images, model="colour-classifier", timeout_seconds=30)
    assert [isinstance(outcome, Classification) for outcome in outcomes] == [True] * 50


def test_a_deadline_ends_a_call_that_waits(small: Connection, small_server: ServerProcess) -> None:
    with (
        Client(small_server.grpc_address, timeout_seconds=0.3) as client,
        engine_held(small, small_server),
        pytest.raises((DeadlineExceededError, OverloadedError)),
    ):
        client.classify(pictures.png(pictures.RED), model=SLOW_MODEL)


def test_an_image_over_the_servers_limit_fails_alone(small_server: ServerProcess) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    assert noise.nbytes > SMALL_REQUEST_BYTES
    with Client(small_server.grpc_address, max_request_bytes=SMALL_REQUEST_BYTES // 2) as client:
        red = pictures.png(pictures.RED)
        outcomes = client.classify([red, noise, red], model="colour-classifier")
    assert [isinstance(outcome, Classification) for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1], ImageError)
    assert outcomes[1].reason == "REQUEST_TOO_LARGE"


def test_the_http_port_is_recognised_as_such(colour_server: ServerProcess) -> None:
    with (
        Client(colour_server.http_url.removeprefix("http://")) as client,
        pytest.raises(ServerUnreachableError, match=r"HTTP port\? The gRPC port is 8001"),
    ):
        client.list_models()


def test_the_photos_are_what_they_show(server: ServerProcess, photos: dict[str, Path]) -> None:
    with Client(server.grpc_address) as client:
        names = ("chelsea", "coffee", "china")
        outcomes = client.classify([photos[name] for name in names], model="mobilenet-v2", top_k=3)
    seen = {}
    for name, outcome in zip(names, outcomes, strict=True):
        assert isinstance(outcome, Classification)
        seen[name] = " ".join(entry.label.lower() for entry in outcome.classes)
    assert "cat" in seen["chelsea"]
    assert "espresso" in seen["coffee"] or "cup" in seen["coffee"]
    assert "palace" in seen["china"]
