"""Detections that a classifier says more of, in the same call."""

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, pictures
from tests.calls import Connection, connected, encoded, flat, refused, refused_image
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess, running_server

CLASSIFIER = "colour-classifier"


@pytest.fixture(scope="module")
def bundled(server: ServerProcess) -> Iterator[Connection]:
    """A connection to the server of the bundled models."""
    with connected(server.grpc_address) as connection:
        yield connection


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    picture = pictures.solid(right, 40, 20)
    picture.paste(left, (0, 0, 20, 20))
    return picture


RED_AND_BLUE = halves(pictures.RED, pictures.BLUE)


def labels(detection: pb.Detection) -> list[str]:
    return [one.label for one in detection.classes]


@pytest.mark.usefixtures("still_answering")
def test_each_detection_has_the_classes_of_what_its_box_shows(colour: Connection) -> None:
    left, turned = encoded(pictures.encode(RED_AND_BLUE)), pictures.turned_file(RED_AND_BLUE, 6, "JPEG")
    response = colour.detect(
        left,
        encoded(turned),
        flat(0, 255, 0),
        score_threshold=0.3,
        classify_with=pb.ClassifyWith(top_k=1),
    )
    assert (response.classifier, response.classifier_version) == (CLASSIFIER, 1)
    # The detector finds each colour of the image in its left half; only what is there is seen by the classifier.
    found = [[(one.label, labels(one)) for one in outcome.result.detections] for outcome in response.outcomes]
    assert [sorted(one) for one in found] == [
        [("blue", ["red"]), ("red", ["red"])],
        [("blue", ["red"]), ("red", ["red"])],
        [("green", ["green"])],
    ]


def test_what_surrounds_a_box_is_shown_as_far_as_is_asked_for(colour: Connection) -> None:
    picture = encoded(pictures.encode(halves(pictures.BLACK, pictures.BLUE)))
    scores = []
    for context in (0, 1):
        asked = pb.ClassifyWith(model=CLASSIFIER, context=context)
        (outcome,) = colour.detect(picture, score_threshold=0.3, classify_with=asked).outcomes
        (detection,) = outcome.result.detections
        scores.append({one.label: one.score for one in detection.classes}["blue"])
    assert scores == [pytest.approx(1 / 3), pytest.approx(1, abs=1e-4)]


def test_classes_below_the_score_asked_for_are_left_out(colour: Connection) -> None:
    picture = encoded(pictures.encode(RED_AND_BLUE))
    asked = pb.ClassifyWith(min_score=0.5)
    (outcome,) = colour.detect(picture, score_threshold=0.3, classify_with=asked).outcomes
    assert [labels(one) for one in outcome.result.detections] == [["red"], ["red"]]
    (grey,) = colour.detect(flat(200), score_threshold=0.3, classify_with=asked).outcomes
    assert [labels(one) for one in grey.result.detections] == [[], [], []]


def test_without_being_asked_no_detection_has_classes(colour: Connection) -> None:
    response = colour.detect(flat(255, 0, 0))
    assert (response.classifier, response.classifier_version) == ("", 0)
    assert labels(response.outcomes[0].result.detections[0]) == []


@pytest.mark.usefixtures("still_answering")
def test_an_image_that_cannot_be_read_fails_alone(colour: Connection) -> None:
    broken = pictures.encode(RED_AND_BLUE, "JPEG")[:-200]
    outcomes = colour.detect(
        encoded(b"no image"), flat(255, 0, 0), encoded(broken), classify_with=pb.ClassifyWith(top_k=1)
    ).outcomes
    assert refused_image(outcomes[0]).reason == "IMAGE_UNDECODABLE"
    assert [labels(one) for one in outcomes[1].result.detections] == [["red"]]
    assert refused_image(outcomes[2]).reason == "IMAGE_UNDECODABLE"


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        ({"model": "nobody"}, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ({"model": CLASSIFIER, "version": 7}, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ({"version": -1}, "INVALID_ARGUMENT", "VERSION_OUT_OF_RANGE"),
        ({"model": "colour-detector"}, "FAILED_PRECONDITION", "WRONG_TASK"),
        ({"top_k": 0}, "INVALID_ARGUMENT", "TOP_K_OUT_OF_RANGE"),
        ({"top_k": 4}, "INVALID_ARGUMENT", "TOP_K_OUT_OF_RANGE"),
        ({"min_score": 1.5}, "INVALID_ARGUMENT", "SCORE_OUT_OF_RANGE"),
        ({"context": -0.1}, "INVALID_ARGUMENT", "CONTEXT_OUT_OF_RANGE"),
        ({"context": math.nan}, "INVALID_ARGUMENT", "CONTEXT_OUT_OF_RANGE"),
    ],
)
def test_what_a_classifier_cannot_be_asked_is_refused_before_anything_runs(
    asked: dict[str, object], code: str, reason: str, colour: Connection, colour_server: ServerProcess
) -> None:
    def images_answered() -> float:
        return MetricsPage(colour_server.http_url).total("retinue_images_total", outcome="answered")

    before = images_answered()
    refusal = refused(
        lambda: colour.detect(
            flat(255, 0, 0),
            classify_with=pb.ClassifyWith(**asked),  # type: ignore[arg-type]
        )
    )
    assert (refusal.code, refusal.reason) == (code, reason)
    assert images_answered() == before


def seen(data: bytes) -> Image.Image:
    """The picture as a person sees it."""
    with Image.open(io.BytesIO(data)) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def cut_out(picture: Image.Image, box: image_pb2.BoundingBox, context: float) -> image_pb2.Image:
    """A box's pixels, by the rule of `ClassifyWith`."""
    across, down = context * (box.x_max - box.x_min), context * (box.y_max - box.y_min)
    part = picture.crop(
        (
            max(math.floor(box.x_min - across), 0),
            max(math.floor(box.y_min - down), 0),
            min(math.ceil(box.x_max + across), picture.width),
            min(math.ceil(box.y_max + down), picture.height),
        )
    )
    data = part.tobytes()
    return image_pb2.Image(raw=image_pb2.RawImage(data=data, height=part.height, width=part.width))


def scores(classes: Sequence[pb.ClassScore]) -> dict[str, float]:
    return {one.label: one.score for one in classes}


@pytest.mark.parametrize(("classifier", "context"), [("fashion-cnn", 0.25), ("mobilenet-v2", 0)])
def test_the_classes_are_those_of_a_caller_who_cuts_the_image_up_and_classifies_the_parts(
    classifier: str, context: float, bundled: Connection, photos: dict[str, Path]
) -> None:
    files = [
        photos["rocket"].read_bytes(),
        photos["chelsea"].read_bytes(),
        pictures.turned_file(Image.open(photos["coffee"]), 8, "JPEG"),
        pictures.encode(Image.open(photos["astronaut"]).convert("L")),
    ]
    response = bundled.detect(
        *map(encoded, files),
        model="fashion-detector",
        score_threshold=0.02,
        max_detections=8,
        classify_with=pb.ClassifyWith(model=classifier, top_k=3, context=context),
    )
    compared = 0
    for data, outcome in zip(files, response.outcomes, strict=True):
        found = outcome.result.detections
        if not found:
            continue
        picture = seen(data)
        parts = [cut_out(picture, one.box, context) for one in found]
        asked = bundled.classify(*parts, model=classifier, top_k=3)
        for one, expected in zip(found, asked.outcomes, strict=True):
            # The same network on the same pixels, if in other batches.
            assert scores(one.classes) == pytest.approx(scores(expected.result.classes), abs=1e-5)
            compared += 1
    assert compared > 4


def test_what_is_found_in_several_images_is_classified_together(tmp_path: Path) -> None:
    colour_bundles.region_detector(tmp_path)
    colour_bundles.classifier(tmp_path)
    pixels = [RED_AND_BLUE.resize((80, 40)), RED_AND_BLUE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    images = [encoded(pictures.encode(picture)) for picture in pixels]
    for image in images:
        width = 80 if image is images[0] else 40
        image.regions.add(x_max=width / 2, y_max=20)
        image.regions.add(x_min=width / 2, x_max=width, y_max=20)
    with running_server(tmp_path) as server, connected(server.grpc_address) as connection:
        response = connection.detect(*images, classify_with=pb.ClassifyWith(top_k=1))
        page = MetricsPage(server.http_url)
    for outcome in response.outcomes:
        assert [(one.label, labels(one)) for one in outcome.result.detections] == [
            (one.label, [one.label]) for one in outcome.result.detections
        ]
        assert len(outcome.result.detections) == 2
    # Counted as images of the classifier.
    assert page.total("retinue_images_total", model=CLASSIFIER, outcome="answered") == 4


def test_the_classes_of_more_than_a_reply_may_hold_are_refused(tmp_path: Path) -> None:
    colour_bundles.detector(tmp_path)
    colour_bundles.classifier(tmp_path)
    with (
        running_server(tmp_path, "--max-reply-bytes", "2048") as server,
        connected(server.grpc_address) as connection,
    ):
        asked = pb.ClassifyWith(top_k=3)
        image = flat(200)
        refusal = refused(lambda: connection.detect(*[image] * 5, classify_with=asked))
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REPLY_TOO_LARGE")
        connection.detect(*[image] * 5, max_detections=1, classify_with=asked)
