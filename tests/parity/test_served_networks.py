"""The field's networks, exported with live weights and served: answers over gRPC are those of PyTorch."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from retinue.v1 import image_pb2
from retinue.v1 import manifest_pb2 as pb
from retinue.v1 import vision_service_pb2 as service
from tests.calls import Connection, connected, raw
from tests.server_process import running_server

from retinue_export import assembly, bundle, graph, inputs
from retinue_export.catalogue import proof, rows
from retinue_export.parity import Outputs

pytestmark = pytest.mark.slow

NETWORKS: Mapping[str, str] = {
    "LeNet-5": "lenet_5",
    "AlexNet": "alexnet",
    "ZFNet": "zfnet",
    "VGG": "vgg11",
    "GoogLeNet": "googlenet",
    "ResNet": "resnet18",
    "ResNet of 152 layers": "resnet152",
    "DenseNet": "densenet121",
    "MobileNet": "mobilenet_v2",
    "ShuffleNet": "shufflenet_v2_x1_0",
    "Xception": "legacy_xception",
    "SENet": "legacy_seresnet50",
    "four-stage Fashion-MNIST CNN": "fashion_cnn",
    "object localisation": "overfeat",
    "R-CNN": "rcnn",
    "Fast R-CNN": "fast_rcnn",
    "Faster R-CNN": "fasterrcnn_mobilenet_v3_large_320_fpn",
    "R-FCN": "rfcn",
    "YOLO": "yolo_v1",
    "YOLOv3": "yolo_v3",
    "SSD": "ssd300_vgg16",
    "FCN-32s": "fcn_32s",
    "FCN-16s": "fcn_16s",
    "FCN-8s": "fcn_8s",
    "deconvolution network": "deconvnet",
}
IMAGES = 3
LABELS = {pb.TASK_DETECT: 1000, pb.TASK_SEGMENT: 128}
"""As many as there are classes, or more."""


def written(
    candidate: assembly.Candidate, exported: assembly.Exported, answers: Outputs, models: Path
) -> None:
    """Writes a bundle without the comparison that export makes: the served answers are compared here."""
    manifest = candidate.manifest
    packaging = candidate.packaging
    classes = LABELS.get(manifest.task) or answers["probabilities"].shape[1]
    manifest.labels.extend(f"class {number}" for number in range(classes))
    manifest.input.CopyFrom(assembly.image_input(packaging.spec, packaging.normalisation))
    manifest.opset = graph.OPSET
    manifest.precision = pb.PRECISION_FP16_WEIGHTS
    packaging.describe(manifest)
    if manifest.task == pb.TASK_DETECT:
        manifest.detect.default_score_threshold = 0.5
    if manifest.task == pb.TASK_SEGMENT:
        manifest.segment.map_height, manifest.segment.map_width = answers["class_map"].shape[1:]
        manifest.segment.background_class_id = -1
    bundle.write(models, manifest, 1, exported.content)


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[rows.Row, Outputs, Outputs]]:
    """A row, what PyTorch answers to some photos, and what a server does."""
    (row,) = rows.matching([request.param])
    candidate = proof.live(row)
    images = candidate.parity_images()[:IMAGES]
    exported = assembly.export(candidate)
    expected = candidate.packaging.reference(exported.shipped)(images)
    models = tmp_path / "models"
    written(candidate, exported, expected, models)
    max_regions = candidate.manifest.detect.max_regions
    # With a cache that goes with the test: what is kept of all these networks takes gigabytes.
    cache = {"RETINUE_CACHE_FOLDER": str(tmp_path / "cache")}
    with running_server(models, environment=cache) as server, connected(server.grpc_address) as connection:
        yield row, expected, served(connection, row.task, requested(images, max_regions), expected)


def requested(images: npt.NDArray[np.uint8], max_regions: int) -> list[image_pb2.Image]:
    """Images of the input's own size, so that pixels of both are the same, with regions where a model takes some."""
    order = image_pb2.CHANNEL_ORDER_GRAY if images.shape[3] == 1 else image_pb2.CHANNEL_ORDER_RGB
    made = [raw(image, order) for image in images]
    for image, boxes in zip(made, inputs.regions(images, max_regions), strict=True):
        for x_min, y_min, x_max, y_max in boxes[boxes.any(axis=1)].tolist():
            image.regions.add(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    return made


def served(
    connection: Connection, task: pb.Task.ValueType, images: list[image_pb2.Image], expected: Outputs
) -> Outputs:
    """The answers over gRPC, in the form of a graph's outputs."""
    answers = {name: np.zeros_like(values) for name, values in expected.items() if name in _SERVED}
    if task == pb.TASK_CLASSIFY:
        classes = expected["probabilities"].shape[1]
        for row, outcome in enumerate(connection.classify(*images, top_k=classes).outcomes):
            for one in outcome.result.classes:
                answers["probabilities"][row, one.class_id] = one.score
    elif task == pb.TASK_SEGMENT:
        options = {"mask_format": service.MASK_FORMAT_RAW, "mask_size": service.MASK_SIZE_MODEL}
        for row, outcome in enumerate(connection.segment(*images, **options).outcomes):
            result = outcome.result
            answers["class_map"][row] = np.frombuffer(result.raw, np.uint8).reshape(
                result.height, result.width
            )
    else:
        for row, outcome in enumerate(connection.detect(*images, score_threshold=0).outcomes):
            for place, one in enumerate(outcome.result.detections):
                box = one.box
                answers["boxes"][row, place] = box.x_min, box.y_min, box.x_max, box.y_max
                answers["scores"][row, place] = one.score
                answers["classes"][row, place] = one.class_id
    return answers


_SERVED = ("probabilities", "class_map", "boxes", "scores", "classes")


def test_a_served_network_answers_as_in_pytorch(network: tuple[rows.Row, Outputs, Outputs]) -> None:
    row, expected, actual = network
    assert proof.distance(expected, actual) <= proof.LIMITS[row.task].allowed
    # Answers to different images differ, so that the comparison says something.
    first, last = (
        {name: values[place] for name, values in actual.items()} for place in (np.s_[:1], np.s_[-1:])
    )
    assert proof.distance(first, last) >= proof.LIMITS[row.task].least_spread
