"""Class maps as bytes: PNG, COCO's run lengths, or as they are."""

import zlib
from collections.abc import Iterable
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from retinue_server.vision.segment import ClassMap


def encode_png(class_map: ClassMap) -> bytes:
    """A greyscale PNG whose grey level is the class id: 8 bits a pixel for uint8, 16 for uint16.

    Args:
        class_map: uint8 or uint16 [h, w].
    """
    buffer = BytesIO()
    # Run-length coding suits areas of one class: a third of the bytes of the fastest level, in the same time.
    Image.fromarray(np.ascontiguousarray(class_map)).save(buffer, "PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def encode_raw(class_map: ClassMap, num_classes: int) -> bytes:
    """The class ids, row-major: 8 bits each, or 16 bits little-endian beyond 256 classes."""
    return class_map.astype("u1" if num_classes <= 256 else "<u2", copy=False).tobytes()


def encode_coco_rle(class_map: ClassMap, class_ids: Iterable[int]) -> list[tuple[int, bytes]]:
    """One run-length mask for each of these classes that is present.

    The runs of all classes are found in one pass, and no mask is ever written out: memory grows with the
    number of runs and not with that of classes.

    Args:
        class_map: uint8 or uint16 [h, w]; in Fortran order it is read without a copy.
        class_ids: The classes to encode.

    Returns:
        Class ids, ascending, with COCO's compressed counts, byte for byte those of `pycocotools.mask.encode`.
    """
    height, width = class_map.shape
    down_the_columns = class_map.ravel(order="F")
    changes = np.flatnonzero(down_the_columns[1:] != down_the_columns[:-1])
    starts = np.concatenate(([0], changes + 1)).astype(np.uint32)
    ends = np.append(starts[1:], np.uint32(down_the_columns.size))
    classes = down_the_columns[starts]
    masks = []
    for class_id in sorted(set(class_ids)):
        runs = np.flatnonzero(classes == class_id)
        if runs.size:
            counts = _counts(starts[runs], ends[runs], down_the_columns.size)
            uncompressed = {"size": [height, width], "counts": counts}
            masks.append((class_id, coco_mask.frPyObjects(uncompressed, height, width)["counts"]))
    return masks


def encode_placed(down_the_columns: npt.NDArray[np.bool_], x: int, y: int, width: int, height: int) -> bytes:
    """A mask of which only a part may show anything.

    Args:
        down_the_columns: [w, h + 1], the part with its axes exchanged, and with a last row that is false.
        x: Where its first column lies in the image.
        y: Likewise its first row.
        width: Of the whole mask in pixels.
        height: Likewise.

    Returns:
        COCO's compressed counts, byte for byte those of `pycocotools.mask.encode`.
    """
    flat = down_the_columns.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    column, row = np.divmod(changes, down_the_columns.shape[1])
    starts, ends = ((column + x) * height + row + y).astype(np.uint32).reshape(-1, 2).T
    # Where the part is as high as the image, a run may go on in the next column.
    joined = starts[1:] == ends[:-1]
    starts, ends = (
        starts[np.append(True, ~joined)[: starts.size]],
        ends[np.append(~joined, True)[: ends.size]],
    )
    counts = _counts(starts, ends, width * height) if starts.size else np.array([width * height], np.uint32)
    uncompressed = {"size": [height, width], "counts": counts}
    return bytes(coco_mask.frPyObjects(uncompressed, height, width)["counts"])


def _counts(
    starts: npt.NDArray[np.uint32], ends: npt.NDArray[np.uint32], total: int
) -> npt.NDArray[np.uint32]:
    """Lengths of alternating runs, beginning with zeros, from where the runs of ones start and end."""
    edges = np.empty(2 * starts.size, np.uint32)
    edges[0::2], edges[1::2] = starts, ends
    counts = np.diff(edges, prepend=np.uint32(0))
    return counts if ends[-1] == total else np.append(counts, np.uint32(total - ends[-1]))
