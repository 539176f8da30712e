"""From probabilities to the classes worth telling."""

import numpy as np
import numpy.typing as npt

from retinue_server.errors import EngineError

# How far sums of 32-bit floats may lie outside of [0, 1].
_ROUNDING = 1e-4


def check_probabilities(values: npt.NDArray[np.float32]) -> None:
    """Refuses what no network in order answers with.

    Args:
        values: float32 [K].

    Raises:
        EngineError: One is NaN or, by more than rounding, outside of [0, 1].
    """
    # The least and the greatest of values with a NaN are NaN, which is neither larger nor smaller than anything.
    if values.size and not -_ROUNDING <= values.min() <= values.max() <= 1 + _ROUNDING:
        raise EngineError("the model gave a score that is no number in [0, 1]; its bundle is broken.")


def top_k(
    probabilities: npt.NDArray[np.float32], k: int, min_score: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The most probable classes.

    Args:
        probabilities: float32 [K], in [0, 1].
        k: How many classes at most, at least 1; more than K means K.
        min_score: Classes of lower probability are left out, in [0, 1].

    Returns:
        Class ids int64 [n] and their probabilities float32 [n], n <= k, sorted by descending probability,
        equal ones by ascending id.

    Raises:
        EngineError: A probability is none.
    """
    check_probabilities(probabilities)
    candidates = np.flatnonzero(probabilities >= min_score)
    scores = probabilities[candidates]
    if 0 < k < len(candidates):
        # Ties with the k-th stay in until the sort, which keeps the lower ids.
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        among_first = scores >= kth
        candidates, scores = candidates[among_first], scores[among_first]
    order = np.argsort(-scores, kind="stable")[: max(k, 0)]
    return candidates[order], np.minimum(scores[order], 1)
