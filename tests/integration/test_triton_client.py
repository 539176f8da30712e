"""Triton's own client has from this server what it has from Triton, and the answers are those of the typed API."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import pictures
from tests.calls import Connection, connected, encoded
from tests.metrics_page import wait_until
from tests.server_process import ROOT, ServerProcess
from tests.triton import How, TritonClient, best_classes, colours, request

_CLASSIFIER = "colour-classifier"
_REFUSALS_OF_AN_EXPIRED_REQUEST = {"StatusCode.RESOURCE_EXHAUSTED", "StatusCode.DEADLINE_EXCEEDED"}
_RIGHT = (40, 0, 80, 20)


@pytest.fixture(scope="module")
def typed(triton_server: ServerProcess) -> Iterator[Connection]:
    """The typed API of the same server."""
    with connected(triton_server.grpc_address) as connection:
        yield connection


@pytest.fixture(scope="module")
def bundled(server: ServerProcess) -> TritonClient:
    """The client of a server on the bundles of this repository."""
    return TritonClient(server.grpc_address)


@pytest.fixture(scope="module")
def bundled_typed(server: ServerProcess) -> Iterator[Connection]:
    with connected(server.grpc_address) as connection:
        yield connection


def photo(*regions: tuple[float, float, float, float]) -> image_pb2.Image:
    """80 by 40: red on the left, blue on the right, with these regions."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40, 0] = pixels[:, 40:, 2] = 255
    image = encoded(pictures.encode(Image.fromarray(pixels), "PNG"))
    for x_min, y_min, x_max, y_max in regions:
        image.regions.add(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    return image


def detections(outcome: pb.DetectOutcome) -> list[tuple[float, ...]]:
    """Class, score and box of each, as the typed API has them."""
    assert outcome.WhichOneof("outcome") == "result", outcome
    return [
        (one.class_id, one.score, one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max)
        for one in outcome.result.detections
    ]


def rows(answer: Any, image: int, least_score: float = 1e-6) -> list[tuple[float, ...]]:
    """The same of tensors, up to the rows that are empty."""
    kept = answer["scores"][image] >= least_score
    columns = answer["classes"][image][:, None], answer["scores"][image][:, None], answer["boxes"][image]
    return [tuple(row) for row in np.concatenate(columns, axis=1)[kept]]


def test_health_metadata_and_configuration(triton: TritonClient) -> None:
    live, ready, served, newest, unknown, server, model, config, detector = triton.call(
        ("is_server_live", {}),
        ("is_server_ready", {}),
        ("is_model_ready", {"model_name": _CLASSIFIER}),
        ("is_model_ready", {"model_name": _CLASSIFIER, "model_version": "2"}),
        ("is_model_ready", {"model_name": "nobody"}),
        ("get_server_metadata", {}),
        ("get_model_metadata", {"model_name": _CLASSIFIER}),
        ("get_model_config", {"model_name": _CLASSIFIER}),
        ("get_model_metadata", {"model_name": "colour-regions"}),
    )
    assert (live, ready, served, newest, unknown) == (True, True, True, True, False)
    assert server["name"] == "retinue"
    assert {"classification", "statistics", "system_shared_memory"} <= set(server["extensions"])
    assert model["versions"] == ["1", "2"]
    assert model["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": ["-1", "8", "8", "3"]}]
    assert model["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": ["-1", "3"]}]
    assert config["config"]["max_batch_size"] == 256
    assert config["config"]["input"] == [
        {"name": "images", "data_type": "TYPE_UINT8", "dims": ["8", "8", "3"]}
    ]
    assert {one["name"] for one in detector["inputs"]} == {
        *("images", "regions", "score_threshold", "iou_threshold")
    }


def test_what_is_not_there_is_not_found(triton: TritonClient) -> None:
    refusals = triton.call(
        ("get_model_metadata", {"model_name": "nobody"}),
        ("get_model_config", {"model_name": _CLASSIFIER, "model_version": "3"}),
        ("get_inference_statistics", {"model_name": "nobody"}),
    )
    assert [one["status"] for one in refusals] == ["StatusCode.NOT_FOUND"] * 3
    named, numbered, output = triton.infer(
        request("nobody", colours(0)),
        request(_CLASSIFIER, colours(0), model_version="1.5"),
        request(_CLASSIFIER, colours(0), "heatmap"),
    )
    assert named.status == "StatusCode.NOT_FOUND"
    assert (numbered.status, output.status) == ("StatusCode.INVALID_ARGUMENT",) * 2
    assert "'colour-classifier' has no output 'heatmap'; it gives 'probabilities'" in output.message


def test_statistics_go_up_by_what_was_asked(triton: TritonClient) -> None:
    def statistics() -> dict[str, Any]:
        (told,) = triton.call(("get_inference_statistics", {"model_name": "colour-segmenter"}))
        return told["model_stats"][0]  # type: ignore[no-any-return]

    def counted(told: Mapping[str, Any], part: str) -> tuple[int, int]:
        duration = told["inference_stats"].get(part, {})
        return int(duration.get("count", 0)), int(duration.get("ns", 0))

    def batched(told: Mapping[str, Any]) -> int:
        sizes = [
            int(one["batch_size"]) * int(one["compute_infer"]["count"]) for one in told.get("batch_stats", ())
        ]
        return sum(sizes)

    before = statistics()
    answers = triton.infer(
        *[request("colour-segmenter", colours(0, 1, 2))] * 4, request("colour-segmenter", [b"no image"])
    )
    assert [bool(one.message) for one in answers] == [False] * 4 + [True]
    # A batch is counted when it has run, which may be after its answers are sent.
    wait_until(lambda: batched(statistics()) - batched(before) == 12, "the batches of 12 images")
    after = statistics()
    grown = {
        part: tuple(np.subtract(counted(after, part), counted(before, part)))
        for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    }
    assert (grown["success"][0], grown["fail"][0]) == (4, 1)
    assert [grown[part][0] for part in ("queue", "compute_input", "compute_infer", "compute_output")] == [
        12
    ] * 4
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 12
    assert 1 <= int(after["execution_count"]) - int(before.get("execution_count", 0)) <= 12
    assert int(after["last_inference"]) > int(before.get("last_inference", 0))
    # Each of three images has all of the time of its request at most.
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert 0 < grown[part][1] <= 3 * grown["success"][1]


@pytest.mark.parametrize("how", ["sync", "async", "aio", "stream", "aio stream"])
def test_every_way_to_ask_has_an_answer_for_each_request(how: How, triton: TritonClient) -> None:
    requests = [
        request(_CLASSIFIER, colours(number % 3, 2), request_id=f"request {number}") for number in range(12)
    ]
    requests.insert(5, request(_CLASSIFIER, np.zeros((1, 9, 9, 3), np.uint8), request_id="bad"))
    answers = triton.infer(*requests, how=how)
    (bad,) = [one for one in answers if one.message]
    assert "takes UINT8 [-1, 8, 8, 3]" in bad.message
    if "stream" in how:
        assert bad.message.startswith("INPUT_MISMATCH: ")
    else:
        assert bad.status == "StatusCode.INVALID_ARGUMENT"
        assert answers[5] is bad
    by_id = {one.id: best_classes(one["probabilities"]) for one in answers if one is not bad}
    assert by_id == {f"request {number}": [number % 3, 2] for number in range(12)}


@pytest.mark.parametrize(("model", "shape"), [("fashion-cnn", (28, 28, 1)), ("mobilenet-v2", (224, 224, 3))])
def test_raw_tensors_have_the_answer_of_the_bare_graph(
    model: str, shape: tuple[int, ...], bundled: TritonClient, bundled_models: Path
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (5, *shape), np.uint8)
    path = bundled_models / model / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["probabilities"], {"images": pixels})
    (answer,) = bundled.infer(request(model, pixels))
    assert answer.outputs is not None
    assert answer.outputs.keys() == {"probabilities"}
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-4)


def test_a_heatmap_is_computed_where_it_is_asked_for_only(
    bundled: TritonClient, bundled_models: Path
) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (2, 28, 28, 1), np.uint8)
    session = onnxruntime.InferenceSession(bundled_models / "fashion-cnn" / "1" / "model.onnx")
    expected = dict(
        zip(
            ("heatmap", "probabilities"),
            session.run(["heatmap", "probabilities"], {"images": pixels}),
            strict=True,
        )
    )
    without, alone, both = bundled.infer(
        request("fashion-cnn", pixels),
        request("fashion-cnn", pixels, "heatmap"),
        request("fashion-cnn", pixels, "probabilities", "heatmap"),
    )
    assert [list(one.outputs or ()) for one in (without, alone, both)] == [
        *(["probabilities"], ["heatmap"], ["probabilities", "heatmap"])
    ]
    for answer in (alone, both):
        np.testing.assert_allclose(answer["heatmap"], expected["heatmap"], rtol=0, atol=0.01)
    np.testing.assert_allclose(both["probabilities"], expected["probabilities"], rtol=0, atol=1e-4)


def test_image_files_have_the_classes_and_scores_of_the_typed_api(
    bundled: TritonClient, bundled_typed: Connection, photos: Mapping[str, Path]
) -> None:
    files = [photos[name].read_bytes() for name in ("chelsea", "coffee", "rocket")]
    (named,) = bundled.infer(request("mobilenet-v2", files, ("probabilities", 4)))
    (told,) = bundled.infer(request("mobilenet-v2", files))
    typed_reply = bundled_typed.classify(*map(encoded, files), model="mobilenet-v2", top_k=4)
    assert (named.datatypes, named["probabilities"].shape) == ({"probabilities": "BYTES"}, (3, 4))
    for number, outcome in enumerate(typed_reply.outcomes):
        of_classes = [text.split(":", 2) for text in named["probabilities"][number]]
        expected = [(one.class_id, one.label) for one in outcome.result.classes]
        assert [(int(index), label) for _, index, label in of_classes] == expected
        scores = [one.score for one in outcome.result.classes]
        np.testing.assert_allclose([float(score) for score, _, _ in of_classes], scores, rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            [told["probabilities"][number][index] for index, _ in expected], scores, rtol=0, atol=1e-4
        )


def test_classes_are_named_with_value_index_and_label(triton: TritonClient) -> None:
    two, many = triton.infer(
        request(_CLASSIFIER, colours(2, 0), ("probabilities", 2)),
        request(_CLASSIFIER, colours(1), ("probabilities", 1000)),
    )
    assert [text[0] for text in two["probabilities"]] == ["1.000000:2:blue", "1.000000:0:red"]
    assert two["probabilities"].shape == (2, 2)
    # More than there are means all.
    assert [text.split(":", 2)[2] for text in many["probabilities"][0]] == ["green", "red", "blue"]


def test_boxes_of_image_files_are_those_of_the_typed_api_in_the_files_pixels(
    bundled: TritonClient, bundled_typed: Connection
) -> None:
    scene = ROOT / "examples" / "scene.jpg"
    file = scene.read_bytes()
    usual, more = bundled.infer(
        request("fashion-detector", [file]),
        request("fashion-detector", [file], inputs={"score_threshold": np.array([[0.3]], np.float32)}),
    )
    for answer, options in ((usual, {}), (more, {"score_threshold": 0.3})):
        reply = bundled_typed.detect(encoded(file), model="fashion-detector", **options)
        expected = detections(reply.outcomes[0])
        np.testing.assert_allclose(rows(answer, 0), expected, rtol=1e-4, atol=1e-3)
    assert len(rows(more, 0)) > len(rows(usual, 0)) > 1
    with Image.open(scene) as image:
        assert max(x_max for *_, x_max, _ in rows(usual, 0)) > image.width / 3


def test_boxes_of_pixels_are_in_the_networks_input(triton: TritonClient) -> None:
    large = pictures.png(pictures.RED, 80, 40)
    of_pixels, of_file = triton.infer(
        request("colour-detector", colours(0)), request("colour-detector", [large])
    )
    assert list(of_pixels["boxes"][0, 0]) == [0, 0, 4, 8]
    assert list(of_file["boxes"][0, 0]) == [0, 0, 40, 40]


def test_thresholds_are_each_images_own_as_in_the_typed_api(triton: TritonClient, typed: Connection) -> None:
    file = photo().encoded
    regions = (20, 0, 60, 40), _RIGHT, (0, 10, 20, 40)
    places = np.array([regions] * 3, np.float32)
    thresholds = np.array([0.4, 0.6, 0.9], np.float32)
    wide, narrow = (
        request(
            "colour-regions",
            [file] * 3,
            "boxes",
            "scores",
            "classes",
            inputs={"regions": places, "score_threshold": thresholds.reshape(shape)},
        )
        for shape in ((3, 1), (3,))
    )
    by_column, by_value = triton.infer(wide, narrow)
    for number, threshold in enumerate(thresholds):
        image = photo(*regions)
        expected = detections(
            typed.detect(image, model="colour-regions", score_threshold=threshold).outcomes[0]
        )
        for answer in (by_column, by_value):
            found = rows(answer, number)
            assert len(found) == len(expected)
            if expected:
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    # A region that is half red and half blue passes the lowest threshold only, as both.
    assert [len(rows(by_column, number)) for number in range(3)] == [3, 2, 2]
    (refused,) = triton.infer(
        request(
            "colour-regions", [file], inputs={"regions": places[:1], "score_threshold": thresholds[:1] + 1}
        )
    )
    assert refused.status == "StatusCode.INVALID_ARGUMENT"
    assert "score_threshold is outside of [0, 1]" in refused.message


def test_more_images_than_a_batch_are_answered_in_order(triton: TritonClient) -> None:
    order = [int(of) for of in np.random.default_rng(7).integers(0, 3, 100)]
    files = [pictures.png(list(pictures.COLOURS.values())[of]) for of in order]
    of_pixels, of_files, too_many = triton.infer(
        request(_CLASSIFIER, colours(*order)),
        request(_CLASSIFIER, files),
        request(_CLASSIFIER, colours(*[0] * 257)),
    )
    assert best_classes(of_pixels["probabilities"]) == order
    assert best_classes(of_files["probabilities"]) == order
    assert "at most 256 are taken; split it" in too_many.message


def test_an_image_that_cannot_be_read_fails_its_request_and_is_named(triton: TritonClient) -> None:
    good = pictures.png(pictures.RED)
    bad, after = triton.infer(request(_CLASSIFIER, [good, good, b"no image"]), request(_CLASSIFIER, [good]))
    assert bad.status == "StatusCode.INVALID_ARGUMENT"
    assert bad.message.startswith("image 2: ")
    assert best_classes(after["probabilities"]) == [0]


def test_versions_priorities_and_timeouts(triton: TritonClient) -> None:
    older, high, low, patient, expired = triton.infer(
        request(_CLASSIFIER, colours(1), model_version="1"),
        request(_CLASSIFIER, colours(1), priority=1),
        request(_CLASSIFIER, colours(1), priority=9),
        request(_CLASSIFIER, colours(1), timeout=30_000_000),
        request(_CLASSIFIER, colours(1), timeout=1),
    )
    assert [one.version for one in (older, high, low, patient)] == ["1", "2", "2", "2"]
    assert [best_classes(one["probabilities"]) for one in (older, high, low, patient)] == [[1]] * 4
    assert expired.status in _REFUSALS_OF_AN_EXPIRED_REQUEST
