"""The classes of two bundles, brought together by name."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retinue_export.errors import ExportError


class SharedLabels:
    """One numbering for the classes of both bundles.

    Where a list has a name more than once, the first is the other list's first, and so on.

    Args:
        a: the labels of one bundle, by class id.
        b: those of the other.

    Attributes:
        names: by shared id: those of A, then those that only B has.
        of_a: int64, the shared id of each class of A.
        of_b: likewise of B.
        common: how many classes both have.
        only_in_a: the names of those that B does not have.
        only_in_b: likewise.

    Raises:
        ExportError: no class is in both.
    """

    def __init__(self, a: Sequence[str], b: Sequence[str]) -> None:
        in_a, in_b = _numbered(a), _numbered(b)
        shared = {key: place for place, key in enumerate(dict.fromkeys((*in_a, *in_b)))}
        self.names = [name for name, _ in shared]
        self.of_a: NDArray[np.int64] = np.array([shared[key] for key in in_a], np.int64)
        self.of_b: NDArray[np.int64] = np.array([shared[key] for key in in_b], np.int64)
        self.common = len(in_a) + len(in_b) - len(shared)
        known_to_a, known_to_b = set(in_a), set(in_b)
        self.only_in_a = [key[0] for key in in_a if key not in known_to_b]
        self.only_in_b = [key[0] for key in in_b if key not in known_to_a]
        if not self.common:
            raise ExportError(
                f"The bundles have no label in common (A has {a[0]!r}, B {b[0]!r}, ...): they cannot be compared."
            )

    @property
    def are_the_same(self) -> bool:
        """Whether both bundles know the same classes, in whatever order."""
        return self.common == len(self.names)


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with how often it came before."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered
