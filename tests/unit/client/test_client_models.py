"""What a client tells of the models of its server."""

import json

import pytest
from retinue.v1 import serving_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import ModelNotFoundError


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
