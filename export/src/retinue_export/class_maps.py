"""Class maps, which name the class of each pixel: what a manifest says of them."""

from collections.abc import Sequence

from retinue.v1 import manifest_pb2 as pb

from retinue_export.errors import ExportError

MOST_IN_A_BYTE = 256
"""Classes that a class map of uint8 can tell apart."""
_BACKGROUNDS = ("background", "__background__")
"""What pixels are called that belong to no object: here, and by torchvision."""


def describe_class_map(manifest: pb.ModelManifest, shape: Sequence[int]) -> None:
    """Writes into a segmenter's manifest what its class map is.

    Args:
        manifest: has its labels; see `background_of` for those for no object.
        shape: of the logits, [N,K,h,w].

    Raises:
        ExportError: there are too many classes.
    """
    names = list(manifest.labels)
    if len(names) > MOST_IN_A_BYTE:
        raise ExportError(
            f"The module answers {len(names)} classes, and a class map has room for {MOST_IN_A_BYTE}."
        )
    manifest.segment.map_height, manifest.segment.map_width = shape[2:]
    manifest.segment.background_class_id = background_of(names)


def background_of(labels: Sequence[str]) -> int:
    """The class id of pixels that belong to no object, whose label is "background" or "__background__"; -1 if none."""
    return next((labels.index(name) for name in _BACKGROUNDS if name in labels), -1)
