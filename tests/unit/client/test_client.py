import asyncio
import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from PIL import Image
from retinue.v1 import serving_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import (
    AsyncClient,
    Classification,
    Client,
    DeadlineExceededError,
    ImageError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ResponseError,
    ServerUnreachableError,
    UnavailableError,
)
from retinue_client._draw import draw_heatmap

Code = grpc.StatusCode


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


def test_options_travel_as_given_and_absent_ones_stay_absent(ask, server):
    ask("classify", b"x")
    ask("classify", b"x", model="m", version=2, top_k=9, min_score=0.0, heatmap=True)
    ask("detect", b"x")
    ask("detect", b"x", score_threshold=0.5, max_detections=4, classes=["bag", "boot"])
    ask("detect", b"x", classes="bag", iou_threshold=0.25, masks=True, priority="low")
    ask("segment", b"x", mask_format="raw", mask_size="model", classes={"bag"}, priority="high")
    plain, full, plain_detect, full_detect, one_class, segment = server.service.requests
    assert not plain.HasField("top_k")
    assert not plain.HasField("min_score")
    assert (plain.model, plain.version, plain.heatmap) == ("", 0, False)
    assert (full.model, full.version, full.top_k, full.HasField("min_score")) == ("m", 2, 9, True)
    assert full.heatmap
    assert not plain_detect.HasField("score_threshold")
    assert not plain_detect.HasField("max_detections")
    assert (full_detect.score_threshold, full_detect.max_detections) == (0.5, 4)
    assert list(full_detect.classes) == ["bag", "boot"]
    assert list(one_class.classes) == ["bag"]
    assert (full_detect.HasField("iou_threshold"), full_detect.masks) == (False, False)
    assert (one_class.iou_threshold, one_class.masks) == (0.25, True)
    assert (full.priority, one_class.priority) == (pb.PRIORITY_NORMAL, pb.PRIORITY_LOW)
    assert segment.priority == pb.PRIORITY_HIGH
    assert (segment.mask_format, segment.mask_size) == (pb.MASK_FORMAT_RAW, pb.MASK_SIZE_MODEL)


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("classify", {"top_k": 10**12}),
        ("classify", {"top_k": "five"}),
        ("classify", {"version": -(10**12)}),
        ("detect", {"score_threshold": "high"}),
        ("segment", {"mask_format": "jpeg"}),
        ("segment", {"mask_size": "half"}),
        ("classify", {"priority": "urgent"}),
        ("classify", {"version": "\ud800"}),
        ("classify", {"metadata": {"User": "x"}}),
        ("classify", {"metadata": {"grpc-timeout": "x"}}),
        ("detect", {"metadata": {"user-id": "é"}}),
        ("segment", {"metadata": {"user-id": 7}}),
    ],
)
def test_an_option_that_cannot_be_sent_is_an_invalid_request(ask, method, option):
    with pytest.raises(InvalidRequestError):
        ask(method, b"x", **option)


def test_images_are_taken_as_requests_are_sent_and_not_all_at_first(ask, server):
    """An iterable may be longer than the memory."""
    taken, ahead = 0, []

    def images():
        nonlocal taken
        for place in range(40):
            taken += 1
            yield f"{place}".encode() if place % 3 else b"bad" if place % 2 else np.zeros((2, 3, 3), np.uint8)

    server.service.on_request = lambda *_: ahead.append(taken)
    assert len(ask("classify", images(), client={"max_request_images": 4})) == 40
    assert ahead[0] <= 12


def test_who_calls_is_said_to_the_client_and_not_beside_a_call(ask, server):
    with pytest.raises(InvalidRequestError, match=r"token="):
        ask("classify", b"x", metadata={"authorization": "Bearer a-token"})
    assert server.service.requests == []


def test_a_version_that_no_server_can_have_is_an_invalid_request(ask):
    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        ask("get_model", "a-classifier", 10**12)


def test_a_version_is_named_by_its_number_or_its_label(ask, server):
    ask("classify", b"x", version="canary")
    ask("detect", [b"x"], version=4)
    ask("segment", b"x")
    ask("get_model", "a-classifier", "stable")
    ask("classify", b"x", version="9")
    ask("get_model", "a-classifier", "9")
    named = [(request.version, request.version_label) for request in server.service.requests]
    assert named == [(0, "canary"), (4, ""), (0, ""), (0, "stable"), (9, ""), (9, "")]


def test_metadata_goes_beside_each_request(ask, server):
    sent = []
    server.service.on_request = lambda request, context: sent.append(dict(context.invocation_metadata()))
    ask("classify", b"x", metadata={"user-id": "ann"})
    ask("detect", [b"x"] * 3, metadata={"user-id": "bob"}, client={"max_request_images": 2})
    ask("segment", b"x")
    assert [entries.get("user-id") for entries in sent] == ["ann", "bob", "bob", None]


def test_models_tell_which_requests_each_version_answers(ask, server):
    policy = serving_pb2.ServingPolicy(
        labels={"stable": 3, "best": 3, "canary": 4},
        split=[
            serving_pb2.TrafficShare(label="stable", percent=90),
            serving_pb2.TrafficShare(version=4, percent=10),
        ],
        sticky_key="user-id",
        shadow=serving_pb2.TrafficShare(label="canary", percent=20),
    )
    canary = pb.Model()
    canary.CopyFrom(server.service.models[0])
    canary.version = 4
    stable = pb.Model()
    stable.CopyFrom(server.service.models[0])
    for model in (canary, stable):
        model.serving.CopyFrom(policy)
    server.service.models[:1] = [canary, stable]
    newer, older, detector, _ = ask("list_models")
    assert (newer.version_labels, newer.traffic_percent, newer.shadow_percent) == (("canary",), 10, 20)
    assert (older.version_labels, older.traffic_percent, older.shadow_percent) == (("best", "stable"), 90, 0)
    assert (older.sticky_key, detector.sticky_key) == ("user-id", "")
    assert (detector.version_labels, detector.traffic_percent) == ((), None)


def test_an_unknown_option_is_a_type_error(ask):
    with pytest.raises(TypeError, match=r"^classify\(\) has no option 'topk'; it has .*, top_k, version\.$"):
        ask("classify", b"x", topk=3)
    with pytest.raises(TypeError, match=r"^segment\(\) has no option 'top_k'"):
        ask("segment", b"x", top_k=3)


@pytest.mark.parametrize("option", ["top_k", "min_score", "context"])
def test_what_is_asked_of_the_classifier_of_objects_is_said_with_it(ask, option):
    with pytest.raises(
        TypeError, match=rf"classify_with=retinue_client\.ClassifyWith\(model, {option}=\.\.\.\)"
    ):
        ask("detect", b"x", classify_with="x", **{option: 1})


def test_long_lists_become_several_requests_and_stay_in_order(ask, server):
    images = [f"image {index}".encode() for index in range(75)]
    outcomes = ask("classify", images)
    assert [outcome.best.label for outcome in outcomes] == [image.decode() for image in images]
    assert sorted(len(request.images) for request in server.service.requests) == [11, 32, 32]


def test_requests_are_bounded_in_bytes_too(ask, server):
    sizes = [400, 400, 400, 2000, 10, 10]
    outcomes = ask("classify", [b"x" * size for size in sizes], client={"max_request_bytes": 1000})
    assert len(outcomes) == 6
    sent = [[len(image.encoded) for image in request.images] for request in server.service.requests]
    assert sorted(sent, reverse=True) == sorted([[400, 400], [400], [2000], [10, 10]], reverse=True)


def test_two_requests_of_a_long_list_are_under_way_at_once_and_no_more(ask, server):
    server.service.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, "classify", [b"x"] * 10, client={"max_request_images": 2})
        while server.service.running < 2:
            assert not answer.done()
        server.service.hold.set()
        assert len(answer.result(timeout=30)) == 10
    assert server.service.most_running == 2


def test_a_list_is_read_from_disk_only_as_it_is_sent(server, tmp_path):
    (tmp_path / "first").write_bytes(b"first")
    (tmp_path / "last").write_bytes(b"never read")

    def paths():
        for _ in range(6):
            yield tmp_path / "first"
        assert len(server.service.requests) >= 4
        (tmp_path / "last").write_bytes(b"read late")
        yield tmp_path / "last"

    with Client(server.address, max_request_images=1) as client:
        assert client.classify(paths())[-1].best.label == "read late"


def test_a_failed_request_of_a_long_list_fails_the_call_and_leaves_none_behind(ask, server, failure):
    import grpc

    server.service.failures.append(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL"))
    with pytest.raises(OverloadedError):
        ask("classify", [b"x"] * 10, client={"max_request_images": 1})
    assert len(server.service.requests) <= 3
    assert ask("classify", b"still there").best.label == "still there"


def test_the_deadline_of_a_call_is_kept_and_named(ask, server):
    server.service.hold = threading.Event()
    with pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"):
        ask("classify", b"x", timeout_seconds=0.2)
    with pytest.raises(DeadlineExceededError, match=r"within 0\.1 s"):
        ask("detect", [b"x"], client={"timeout_seconds": 0.1})


def test_models_are_listed_with_what_a_caller_needs(ask):
    models = ask("list_models")
    assert [(model.name, model.version, model.task) for model in models] == [
        ("a-classifier", 3, "classify"),
        ("b-detector", 3, "detect"),
        ("c-segmenter", 3, "segment"),
    ]
    assert repr(models[0]) == (
        "<ModelInfo a-classifier v3: classify, 3 classes, 160x224 rgb, fp16_weights, CPUExecutionProvider>"
    )
    classifier, detector, segmenter = models
    assert (classifier.input_height, classifier.input_width, classifier.colour) == (224, 160, "rgb")
    assert classifier.labels == ("shirt", "bag", "boot")
    assert (classifier.quality[0].metric, classifier.quality[0].value) == ("top1_accuracy", 0.925)
    assert (classifier.precision, classifier.quality[0].precision) == ("fp16_weights", "fp16_weights")
    assert (classifier.provider, classifier.max_batch_size, classifier.memory_bytes) == (
        "CPUExecutionProvider",
        8,
        12 << 20,
    )
    assert (classifier.weights_bytes, classifier.arena_bytes, classifier.buffers_bytes) == (
        7 << 20,
        4 << 20,
        1 << 20,
    )
    assert (classifier.max_detections, classifier.default_score_threshold) == (None, None)
    assert classifier.background_class_id is None
    assert (detector.max_detections, detector.default_score_threshold) == (100, 0.25)
    assert segmenter.background_class_id == 0
    assert classifier.to_dict()["quality"][0]["dataset"] == "Fashion-MNIST test split"


def test_models_say_what_they_can_do(ask):
    classifier, detector, segmenter = ask("list_models")
    assert (classifier.gives_heatmaps, segmenter.gives_heatmaps, detector.gives_heatmaps) == (
        True,
        False,
        False,
    )
    assert (detector.max_regions, detector.keypoint_names) == (4, ("tip",))
    assert (detector.gives_masks, detector.adjustable_thresholds) == (True, True)
    assert (classifier.max_regions, classifier.keypoint_names) == (0, ())
    assert (classifier.gives_masks, classifier.adjustable_thresholds) == (False, False)


def test_models_become_json(ask):
    for model in ask("list_models"):
        fields = model.to_dict()
        assert json.loads(json.dumps(fields)) == fields


def test_models_are_listed_by_task_and_found_by_name(ask):
    assert [model.name for model in ask("list_models", "detect")] == ["b-detector"]
    assert ask("get_model", "c-segmenter").task == "segment"
    with pytest.raises(ModelNotFoundError, match="There is no model 'x'"):
        ask("get_model", "x")
    with pytest.raises(ValueError, match="no task"):
        ask("list_models", "paint")


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


@pytest.mark.parametrize("limit", ["max_request_images", "max_request_bytes"])
def test_limits_below_one_are_refused(limit):
    with pytest.raises(ValueError, match="at least 1"):
        Client("localhost:1", **{limit: 0})
