"""What a bundle takes and gives as tensors, for callers who speak the Open Inference Protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle.manifest import input_spec
from retinue_server.runtime import contract
from retinue_server.tensors import BYTES, TensorSpec, datatype_of


@dataclass(frozen=True, slots=True)
class Interface:
    """The tensors of a model.

    Attributes:
        inputs: What it takes, by name.
        outputs: What it gives, by name.
        batched: Whether all of them have a row for each image.
        extra_outputs: The names of those that are computed only where they are asked for.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batched: bool = True
    extra_outputs: frozenset[str] = frozenset()


def of_bundle(
    manifest: pb.ModelManifest, answer_rows: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
) -> Interface:
    """The tensors of a bundle. Thresholds are each image's own, [N,1], whatever the graph takes.

    Args:
        manifest: The bundle's.
        answer_rows: The element type and the shape for one image of each output.
    """
    spec = input_spec(manifest)
    inputs = [
        TensorSpec(contract.IMAGES, "UINT8", (-1, spec.height, spec.width, spec.channels), encoded=True)
    ]
    if manifest.detect.adjustable_thresholds:
        inputs += [
            TensorSpec(name, "FP32", (-1, 1), optional=True)
            for name in (contract.SCORE_THRESHOLD, contract.IOU_THRESHOLD)
        ]
    if most := manifest.detect.max_regions:
        inputs.append(TensorSpec(contract.REGIONS, "FP32", (-1, most, 4)))
    outputs = [
        TensorSpec(name, datatype_of(dtype), (-1, *shape)) for name, (dtype, shape) in answer_rows.items()
    ]
    return Interface(
        {one.name: one for one in inputs},
        {one.name: one for one in outputs},
        extra_outputs=frozenset(contract.extra_outputs(manifest)),
    )


def takes(spec: TensorSpec, datatype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may be an input: of its type and shape, or encoded images instead of their pixels."""
    if spec.encoded and datatype == BYTES:
        return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if spec.optional and len(shape) == 1:
        # One value an image.
        shape = (*shape, 1)
    fits = all(size in (-1, found) for size, found in zip(spec.shape, shape, strict=False))
    return datatype == spec.datatype and len(shape) == len(spec.shape) and fits
