"""From probabilities to the classes worth telling."""

import numpy as np
import numpy.typing as npt


def top_k(
    probabilities: npt.NDArray[np.float32], k: int, min_score: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The most probable classes.

    Args:
        probabilities: float32 [K], in [0, 1]. NaN is never returned.
        k: How many classes at most, at least 1; more than K means K.
        min_score: Classes of lower probability are left out, in [0, 1].

    Returns:
        Class ids int64 [n] and their probabilities float32 [n], n <= k, sorted by descending probability,
        equal ones by ascending id.
    """
    candidates = np.flatnonzero(probabilities >= min_score)
    scores = probabilities[candidates]
    if 0 < k < len(candidates):
        # Ties with the k-th stay in until the sort, which keeps the lower ids.
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        among_first = scores >= kth
        candidates, scores = candidates[among_first], scores[among_first]
    order = np.argsort(-scores, kind="stable")[: max(k, 0)]
    return candidates[order], scores[order]
