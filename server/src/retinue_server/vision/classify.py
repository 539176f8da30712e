"""From probabilities to the classes worth telling."""

import numpy as np
import numpy.typing as npt

from retinue_server.errors import EngineError

# How far sums of 32-bit floats may lie outside of [0, 1].
_ROUNDING = 1e-4
# So many are sorted as a whole sooner than the best of them are found.
_FEW_CLASSES = 64

Ranks = tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]


def check_probabilities(values: npt.NDArray[np.float32]) -> None:
    """Refuses what no network in order answers with.

    Args:
        values: float32, of any shape.

    Raises:
        EngineError: One is NaN or, by more than rounding, outside of [0, 1].
    """
    if not _are_probabilities(values.reshape(1, -1)).all():
        raise EngineError("the model gave a score that is no number in [0, 1]; its bundle is broken.")


class Ranking:
    """The most probable classes of each image of a batch, found for all of them at once.

    Args:
        probabilities: float32 [N,K], in [0, 1].
    """

    def __init__(self, probabilities: npt.NDArray[np.float32]) -> None:
        self._probabilities = probabilities
        self._are_probabilities: list[bool] = _are_probabilities(probabilities).tolist()
        self._best: dict[int, tuple[list[list[int]], list[list[float]]]] = {}

    def top_k(self, row: int, k: int, min_score: float) -> tuple[list[int], list[float]]:
        """The most probable classes of one image.

        Args:
            row: Which image.
            k: How many classes at most, at least 1; more than K means K.
            min_score: Classes of lower probability are left out, in [0, 1].

        Returns:
            Class ids and their probabilities, sorted by descending probability, equal ones by ascending id.

        Raises:
            EngineError: A probability of this image is none.
        """
        if not self._are_probabilities[row]:
            check_probabilities(self._probabilities[row])
        if k not in self._best:
            class_ids, scores = best(self._probabilities, k)
            self._best[k] = class_ids.tolist(), np.minimum(scores, 1).tolist()
        class_ids_of, scores_of = self._best[k]
        ids, found = class_ids_of[row], scores_of[row]
        if found[-1] < min_score:
            worth_telling = sum(score >= min_score for score in found)
            return ids[:worth_telling], found[:worth_telling]
        return ids, found


def best(values: npt.NDArray[np.float32], k: int) -> Ranks:
    """The k largest of each row: columns int [N,k] and values float32 [N,k], equal ones by ascending column.

    Args:
        values: float32 [N,K].
        k: At least 1; more than K means K.
    """
    rows, columns = values.shape
    if k < columns and columns > _FEW_CLASSES:
        kth = np.partition(values, columns - k, axis=1)[:, columns - k, None]
        _, candidates = np.nonzero(values >= kth)
        # There are more where several are equal to the k-th, and fewer where one is NaN.
        if len(candidates) == rows * k:
            by_row = candidates.reshape(rows, k)
            order = np.argsort(-np.take_along_axis(values, by_row, axis=1), axis=1, kind="stable")
            found = np.take_along_axis(by_row, order, axis=1)
            return found, np.take_along_axis(values, found, axis=1)
    found = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return found, np.take_along_axis(values, found, axis=1)


def _are_probabilities(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether all of a row are in [0, 1], but for rounding: bool [N]."""
    if not values.shape[1]:
        return np.ones(len(values), np.bool_)
    # The least and the greatest of values with a NaN are NaN, which is neither larger nor smaller than anything.
    in_range: npt.NDArray[np.bool_] = (values.min(axis=1) >= -_ROUNDING) & (
        values.max(axis=1) <= 1 + _ROUNDING
    )
    return in_range
