"""Adopted bundles and the files they were made of, run side by side for tests."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from retinue_export import inputs, nms
from retinue_export.adoption import adopted, reading
from retinue_export.adoption.facts import Facts, Told
from retinue_export.nms import Suppression
from retinue_server.bundle import manifest as manifest_file

Array = NDArray[np.generic]
Found = list[tuple[int, float, NDArray[np.float32]]]


def adopt(path: Path, told: Told | None = None) -> Path:
    """The version folder of the bundle that a file becomes."""
    told = told or Told()
    file = reading.read(path)
    facts = Facts(path.name, told)
    layout = adopted.layout_of(file, told)
    adopted.learn(file, layout, facts)
    understood = adopted.understand(file, layout, facts)
    return adopted.build(understood, "adopted", path.parent / "models", 1, lambda _stage: None)


def answers(folder: Path, images: NDArray[np.uint8]) -> Mapping[str, Array]:
    """What a bundle answers to a batch."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    manifest = manifest_file.read(folder)
    fed: dict[str, Array] = {"images": images}
    if manifest.detect.adjustable_thresholds:
        detect = manifest.detect
        suppression = Suppression(detect.max_detections, detect.min_score, detect.nms_iou_threshold)
        fed |= nms.thresholds(suppression, len(images))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, fed), strict=True))


def original(path: Path, pixels: NDArray[np.float32]) -> list[Array]:
    """What the foreign file answers to each of float32 [N,...], one at a time: its outputs, [N,...] each."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fed = session.get_inputs()[0].name
    extra = {value.name: np.ones((1, 64, 64), np.int64) for value in session.get_inputs()[1:]}
    rows = [session.run(None, {fed: pixels[number : number + 1], **extra}) for number in range(len(pixels))]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def photos(folder: Path) -> NDArray[np.uint8]:
    return inputs.photos(manifest_file.input_spec(manifest_file.read(folder)))[:7]


def levels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [N,3,H,W] in [0, 1]."""
    return (images.transpose(0, 3, 1, 2) / 255).astype(np.float32)


def rows(batch: Mapping[str, Array], number: int) -> Found:
    """Class, score and box of each detection of an image."""
    parts = (batch[name][number] for name in ("classes", "scores", "boxes"))
    return [(int(kind), float(score), box) for kind, score, box in zip(*parts, strict=True) if score > 0]


def overlap(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Intersection over union of two x1,y1,x2,y2."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    common = float(sides.clip(0).prod())
    union = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()) - common
    return common / union if union > 0 else 0.0


def suppressed(found: Found, threshold: float) -> Found:
    """The best of each class, one after the other, without what overlaps with a better one."""
    kept: Found = []
    for one in sorted(found, key=lambda entry: -entry[1]):
        if all(one[0] != other[0] or overlap(one[2], other[2]) <= threshold for other in kept):
            kept.append(one)
    return kept


def assert_same(actual: Found, expected: Found) -> None:
    order = [(kind, round(score, 4)) for kind, score, _ in expected]
    assert [(kind, round(score, 4)) for kind, score, _ in actual] == order
    for (_, score, box), (_, wanted, wanted_box) in zip(actual, expected, strict=True):
        assert abs(score - wanted) < 1e-4
        np.testing.assert_allclose(box, wanted_box, atol=1e-2)
