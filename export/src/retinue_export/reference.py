"""The PyTorch side of a bundle that exists already: the network it was exported from, rebuilt.

The weights come from the original file where it is given, else out of the bundle itself. The second proves
that the graph computes what the module defines, with whatever weights it holds; only the first proves whose
weights these are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export import (
    bundle,
    folding,
    graph,
    heatmaps,
    inputs,
    parity,
    pretrained,
    timm_models,
    torchvision_models,
    user_code,
    weight_files,
)
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation, Packaging
from retinue_export.parity import BATCH_SIZES, TOLERANCES, Compare, Feeds, Runner
from retinue_export.pretrained import Preset
from retinue_export.recipes.catalog import RECIPES
from retinue_export.user_answer import Answer
from retinue_export.weight_files import State
from retinue_server.bundle import manifest as manifest_file

_LIBRARIES: dict[str, Callable[[str, pb.ModelManifest], Preset]] = {
    torchvision_models.PREFIX: torchvision_models.preset_of,
    timm_models.PREFIX: lambda name, manifest: timm_models.find_preset(name, manifest.source.weights_sha256),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """What a bundle must agree with, and on what.

    Attributes:
        run: the PyTorch module as it was exported, uint8 [N,H,W,C] in.
        feeds: what the graph takes beside images.
        images: uint8 [N,H,W,C], real inputs prepared by the manifest's rule.
        weights_from: where the module's weights come from, for people.
        batch_sizes: at which sizes to compare.
        tolerances: how far each output may be from it.
        compare: how to.
    """

    run: Runner
    feeds: Feeds
    images: NDArray[np.uint8]
    weights_from: str
    batch_sizes: Sequence[int] = BATCH_SIZES
    tolerances: Mapping[str, float] = field(default_factory=lambda: TOLERANCES)
    compare: Compare = parity.compare


@dataclass(frozen=True, slots=True)
class _Origin:
    network: Callable[[], nn.Module]
    packaging: Packaging
    images: Callable[[], NDArray[np.uint8]]
    load: Callable[[nn.Module, State], None]


def load(
    folder: Path, manifest: pb.ModelManifest, weights: Path | None = None, module: str | None = None
) -> Reference:
    """Rebuilds the PyTorch side of a bundle.

    Args:
        folder: the version folder.
        manifest: its manifest, validated.
        weights: the file that the bundle was exported from; None takes the weights out of the bundle, or from `module`
            where the bundle was exported without a file.
        module: for a network of the user's own: `FILE.py:NAME`, or `package.module:NAME`, see `user_code.build`.

    Raises:
        ExportError: the bundle's architecture is unknown here, or the weights are others than the bundle's.
    """
    origin = _origin(manifest, module)
    if weights is not None:
        shipped = _from_file(origin, manifest, weights)
        weights_from = f"{weights.name}, the file that the bundle was exported from (same SHA-256)"
    elif module is not None and not manifest.source.weights_sha256:
        shipped = _shipped(origin.network(), manifest)
        weights_from = f"{module}, as it builds them now; where it draws them at random, they are others"
    elif manifest.precision == pb.PRECISION_INT8:
        raise ExportError(
            "An int8 bundle holds its weights in 8 bits only: verify it with --weights, the file it was exported from."
        )
    else:
        shipped = folding.folded(origin.network())
        load_initialisers(shipped, onnx.load(folder / manifest_file.MODEL_FILE))
        weights_from = (
            "the bundle itself: shows that the graph computes what the PyTorch module defines, "
            "not where the weights come from"
        )
    images = origin.images()
    packaging = heatmaps.of_bundle(manifest, origin.packaging, images)
    return Reference(
        packaging.reference(shipped),
        packaging.feeds,
        images,
        weights_from,
        packaging.batch_sizes,
        compare=packaging.compare,
    )


@torch.no_grad()
def load_initialisers(network: nn.Module, model: onnx.ModelProto) -> None:
    """Copies a graph's weights into the network that it was exported from.

    Counters of batch normalisation stay as they are. A bias of zeros, which export drops, is known by its layer: a
    Conv or Gemm that has the layer's weight and adds nothing.

    Raises:
        ExportError: the graph has no weight of that name and shape.
    """
    stored = {tensor.name.removesuffix(".fp16"): tensor for tensor in model.graph.initializer}
    adds_nothing = {
        node.input[1]
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 2
    }
    for name, value in network.state_dict().items():
        layer, _, part = f"network.{name}".rpartition(".")
        tensor = stored.get(f"{layer}.{part}")
        if part == "num_batches_tracked":
            continue
        if tensor is None and part == "bias" and f"{layer}.weight" in adds_nothing:
            value.zero_()
        elif tensor is None or tuple(tensor.dims) != tuple(value.shape):
            raise ExportError(
                f"The graph keeps no weight `{layer}.{part}` of shape {tuple(value.shape)} under its name: export has "
                "folded, shared or renamed it, or it is of another architecture than is defined here; "
                "verify it with --weights, the file it was exported from."
            )
        else:
            value.copy_(torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32)))


def _origin(manifest: pb.ModelManifest, module: str | None) -> _Origin:
    architecture = manifest.source.architecture
    load = partial(weight_files.load_into, described=architecture)
    if module is not None:
        return _user_origin(manifest, module, load)
    for recipe in RECIPES.values():
        if recipe.manifest.source.architecture == architecture:
            return _Origin(recipe.network, recipe.packaging, recipe.parity_images, load)
    if architecture.startswith(bundle.ADOPTED):
        raise ExportError(
            "The bundle was adopted: its hash and manifest hold, but comparing it needs the file that it was made of. "
            f"Give --adopted {manifest.source.weights} (SHA-256 {manifest.source.weights_sha256[:16]}...)."
        )
    for prefix, find in _LIBRARIES.items():
        if architecture.startswith(prefix):
            return _library_origin(manifest, find(architecture.removeprefix(prefix), manifest))
    raise ExportError(
        f"The bundle's architecture, {architecture or 'which it does not name'}, is unknown here: "
        "give --module FILE.py:FUNCTION, or package.module:FUNCTION, if code of yours builds it."
    )


def _library_origin(manifest: pb.ModelManifest, preset: Preset) -> _Origin:
    spec = manifest_file.input_spec(manifest)
    network = preset.build(len(manifest.labels))
    photos, _ = pretrained.parity_photos(preset.task)
    return _Origin(
        lambda: network,
        preset.packaging(network, spec),
        partial(photos, spec),
        preset.give_weights,
    )


def _user_origin(
    manifest: pb.ModelManifest, module: str, load: Callable[[nn.Module, State], None]
) -> _Origin:
    if not manifest.input.HasField("normalisation"):
        raise ExportError("The bundle does not say how it normalises its input: export it again.")
    spec = manifest_file.input_spec(manifest)
    normalisation = Normalisation(
        tuple(manifest.input.normalisation.mean), tuple(manifest.input.normalisation.deviation)
    )
    answer = Answer.of_bundle(manifest)
    network = user_code.build(module)
    answer.check(network, spec)
    return _Origin(
        lambda: network,
        answer.packaging(spec, normalisation),
        lambda: inputs.photos(spec),
        load,
    )


def _from_file(origin: _Origin, manifest: pb.ModelManifest, weights: Path) -> nn.Module:
    if not manifest.source.weights_sha256:
        raise ExportError("The bundle was not exported from a weights file: verify it without --weights.")
    state = weight_files.read(weights)
    actual = manifest_file.file_sha256(weights)
    if actual != manifest.source.weights_sha256:
        raise ExportError(
            f"{weights} has SHA-256 {actual}, but the bundle was exported from a file with "
            f"{manifest.source.weights_sha256}."
        )
    network = origin.network()
    origin.load(network, state)
    return _shipped(network, manifest)


def _shipped(network: nn.Module, manifest: pb.ModelManifest) -> nn.Module:
    shipped = folding.folded(network)
    return graph.rounded_to_fp16(shipped) if manifest.precision == pb.PRECISION_FP16_WEIGHTS else shipped
