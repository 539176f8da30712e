"""Files that would fill the memory: refused before they are run."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tests.unit.export.adopting import adopt, assert_refused, edited


def _sized(batch: int | str, side: int | None = None) -> Callable[[onnx.ModelProto], None]:
    """Makes a graph state another batch, and other rows and columns."""

    def change(model: onnx.ModelProto) -> None:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        for dim, size in zip(
            dims, (batch, 3, side or dims[2].dim_value, side or dims[3].dim_value), strict=True
        ):
            if isinstance(size, str):
                dim.dim_param = size
            else:
                dim.dim_value = size
        model.graph.output[0].type.tensor_type.shape.dim[0].CopyFrom(dims[0])

    return change


@pytest.mark.parametrize(("batch", "side"), [(1025, None), (2**31, None), (64, 1024)])
def test_a_batch_that_fills_the_memory_is_refused(
    batch: int, side: int | None, classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(classifier, _sized(batch, side))
    assert_refused(capsys, path, told, f"takes {batch} images at once", "export it with batch 1")


@pytest.mark.parametrize("batch", [1, "N"])
def test_images_that_fill_the_memory_are_refused(
    batch: int | str, classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(classifier, _sized(batch, 8192))
    assert_refused(capsys, path, told, "takes images of 8192x8192 pixels", "export it for smaller ones")


def test_a_batch_of_usual_size_is_taken(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = adopt(capsys, edited(classifier, _sized(256)), *told)
    assert (code, err) == (0, "")
