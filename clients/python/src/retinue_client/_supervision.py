"""Results as the supervision package's, whose trackers, zones and annotators then take them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import supervision


def supervision_detections(
    boxes: npt.NDArray[np.float32] | None,
    class_ids: npt.NDArray[np.integer],
    labels: Sequence[str],
    *,
    scores: npt.NDArray[np.float32] | None = None,
    masks: npt.NDArray[np.bool_] | None = None,
    data: dict[str, npt.NDArray[Any]] | None = None,
) -> "supervision.Detections":
    """Its Detections, of arrays of their own.

    Args:
        boxes: float32 [D, 4], x_min, y_min, x_max, y_max; None means those around the masks.
        class_ids: int [D].
        labels: D names.
        scores: float32 [D].
        masks: bool [D, H, W].
        data: What there is besides of each, D rows.

    Raises:
        ImportError: supervision is not installed.
    """
    package = _package()
    around = package.mask_to_xyxy(masks) if boxes is None else boxes
    return package.Detections(
        xyxy=np.array(around, dtype=np.float32).reshape(-1, 4),
        mask=masks,
        confidence=None if scores is None else scores.copy(),
        class_id=class_ids.astype(np.int64),
        data={"class_name": np.array(labels, dtype=np.str_), **(data or {})},
    )


def supervision_classifications(
    class_ids: npt.NDArray[np.integer], scores: npt.NDArray[np.float32]
) -> "supervision.Classifications":
    """Its Classifications.

    Args:
        class_ids: int [K].
        scores: float32 [K].

    Raises:
        ImportError: supervision is not installed.
    """
    return _package().Classifications(class_id=class_ids.astype(np.int64), confidence=scores.copy())


def _package() -> Any:
    try:
        import supervision  # noqa: PLC0415 (it is an extra)
    except ImportError as exc:
        raise ImportError(f"{exc}: install retinue-client[supervision].") from exc
    return supervision
