"""Detectors that look at given regions, take thresholds with each request, and give masks and keypoints."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, pictures
from tests.calls import Connection, connected, encoded, refused
from tests.server_process import running_server

WIDTH, HEIGHT = 80, 40


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A server of one detector that judges regions."""
    models = tmp_path_factory.mktemp("regions")
    colour_bundles.region_detector(models)
    with running_server(models) as server, connected(server.grpc_address) as connection:
        yield connection


def photo(*boxes: tuple[float, float, float, float]) -> image_pb2.Image:
    """Red on the left, blue on the right, with these regions."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2, 0] = pixels[:, WIDTH // 2 :, 2] = 255
    image = encoded(pictures.encode(Image.fromarray(pixels), "PNG"))
    for x_min, y_min, x_max, y_max in boxes:
        image.regions.add(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    return image


LEFT, RIGHT = (0, 0, 40, 40), (40, 0, 80, 20)


def found(outcome: pb.DetectOutcome) -> list[tuple[str, tuple[float, float, float, float]]]:
    assert outcome.WhichOneof("outcome") == "result", outcome
    return [
        (one.label, (one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max))
        for one in outcome.result.detections
    ]


def test_each_region_is_judged_in_the_pixels_of_its_image(regions: Connection) -> None:
    both, left, right = regions.detect(photo(LEFT, RIGHT), photo(LEFT), photo(RIGHT)).outcomes
    assert sorted(found(both)) == [("blue", RIGHT), ("red", LEFT)]
    assert found(left) == [("red", LEFT)]
    assert found(right) == [("blue", RIGHT)]


def test_an_image_with_regions_that_cannot_be_looked_at_fails_alone(regions: Connection) -> None:
    outcomes = regions.detect(
        photo(), photo(LEFT), photo(*[LEFT] * 4), photo((9, 9, 9, 20)), photo((200, 200, 300, 300))
    ).outcomes
    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == [
        "error",
        "result",
        "error",
        "error",
        "result",
    ]
    assert "0 regions, but the model looks at 1 to 3" in outcomes[0].error.message
    assert "4 regions, but the model looks at 1 to 3" in outcomes[2].error.message
    assert "region 0 is no rectangle" in outcomes[3].error.message
    # A region beside the image shows nothing.
    assert found(outcomes[4]) == []


def test_thousands_of_regions_are_judged_and_more_than_a_request_may_have_refused(tmp_path: Path) -> None:
    most = 2000  # the proposals of an image in R-CNN's paper
    colour_bundles.region_detector(tmp_path, max_regions=most)
    corners = [(x, y, x + 0.4, y + 0.5) for x in range(WIDTH) for y in range(25)]
    with running_server(tmp_path) as server, connected(server.grpc_address) as connection:
        outcomes = connection.detect(photo(*corners), photo(LEFT), score_threshold=0.4).outcomes
        refusal = refused(lambda: connection.detect(*[photo(*corners)] * 9))
    assert len(found(outcomes[0])) == most
    assert found(outcomes[1]) == [("red", LEFT)]
    assert refusal.reason == "TOO_MANY_REGIONS"


def test_masks_that_take_more_than_an_images_share_of_the_reply_cost_that_image_alone(tmp_path: Path) -> None:
    colour_bundles.region_detector(tmp_path, max_regions=20)
    rows = [(0, float(top), 80, top + 30.5) for top in range(9)]
    with (
        running_server(tmp_path, "--max-reply-bytes", "2048") as server,
        connected(server.grpc_address) as connection,
    ):
        few, many = connection.detect(
            photo(LEFT), photo(*rows), masks=True, iou_threshold=1, score_threshold=0.1
        ).outcomes
        (alone,) = connection.detect(photo(*rows), masks=True, iou_threshold=1, score_threshold=0.1).outcomes
    assert [label for label, _ in found(few)] == ["red"]
    assert (many.error.code, "the masks take more than 1024 bytes" in many.error.message) == (3, True)
    taken = sum(len(one.mask_counts) for one in alone.result.detections)
    assert 1024 < taken <= 2048


def test_regions_for_a_model_that_looks_at_the_whole_image_are_refused(colour: Connection) -> None:
    (outcome,) = colour.classify(photo(LEFT)).outcomes
    assert "takes no regions" in outcome.error.message


def test_an_overlap_threshold_holds_for_the_request_that_has_it(regions: Connection) -> None:
    # They overlap by 0.9, and both are red.
    boxes = (0, 0, 40, 40), (0, 0, 36, 40)
    (default,) = regions.detect(photo(*boxes)).outcomes
    (both,) = regions.detect(photo(*boxes), iou_threshold=0.95).outcomes
    assert len(found(default)) == 1
    assert len(found(both)) == 2


def test_requests_of_different_thresholds_at_once_each_get_their_own(regions: Connection) -> None:
    boxes = (
        (0, 0, 40, 40),
        (0, 0, 36, 40),
        (30, 0, 50, 40),
    )  # the last is half red, half blue; three rows at most
    wanted = {(0.5, 0.3): 3, (0.95, 0.3): 3, (0.5, 0.6): 1, (0.95, 0.6): 2}
    counts: dict[tuple[float, float], set[int]] = {key: set() for key in wanted}

    def ask(key: tuple[float, float]) -> None:
        iou_threshold, score_threshold = key
        for _ in range(20):
            outcomes = regions.detect(
                *[photo(*boxes)] * 3, iou_threshold=iou_threshold, score_threshold=score_threshold
            ).outcomes
            counts[key].update(len(found(outcome)) for outcome in outcomes)

    threads = [threading.Thread(target=ask, args=(key,)) for key in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {key: {count} for key, count in wanted.items()}


def test_a_threshold_that_a_graph_has_fixed_is_refused(colour: Connection) -> None:
    refusal = refused(lambda: colour.detect(photo(), iou_threshold=0.3))
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.reason == "IOU_THRESHOLD_FIXED"
    assert refused(lambda: colour.detect(photo(), masks=True)).reason == "NO_MASKS"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_masks_come_when_asked_for_and_keypoints_always(regions: Connection) -> None:
    (plain,) = regions.detect(photo(RIGHT)).outcomes
    (masked,) = regions.detect(photo(RIGHT), masks=True).outcomes
    assert plain.result.detections[0].mask_counts == b""
    for outcome in (plain, masked):
        (point,) = outcome.result.detections[0].keypoints
        assert (point.name, point.x, point.y, point.score) == ("middle", 60, 10, 1)
    mask = coco_mask.decode({"size": [HEIGHT, WIDTH], "counts": masked.result.detections[0].mask_counts})
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:20, 40:60] = 1
    assert (mask & expected).sum() / (mask | expected).sum() > 0.9
