"""Which of a model's versions answers a request that names none, or names it by a label."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b

from retinue.v1 import serving_pb2 as pb

from retinue_server.bundle.serving import named, version_of

Draw = Callable[[], float]
"""Gives numbers in [0, 1) by chance."""

Metadata = Callable[[str], str | None]
"""Gives the entry of that name of a request's metadata, None where there is none."""

_WHOLE = 100

# A version, and where its share ends: a percentage.
_Shares = Sequence[tuple[int, float]]


def no_metadata(key: str) -> str | None:
    """That of a request that has none."""
    return None


class Route:
    """How requests of one model find their version.

    What a split gives to a version that is not served is shared out among those that are, in proportion; where none of
    them is, the newest version that is served has it.

    Args:
        model: The model's name.
        policy: How its versions are to be served.
        versions: Those that are, at least one.

    Attributes:
        policy: As above.
        main: The version of the largest share, or the newest where nothing is split.
        missing: The versions that the policy names and that are not served.
    """

    def __init__(self, model: str, policy: pb.ServingPolicy, versions: Collection[int]) -> None:
        self.policy = policy
        self._model = model
        self._versions = frozenset(versions)
        self.missing = named(policy) - self._versions
        split = [(version_of(policy, share), share.percent) for share in policy.split]
        there = [(version, percent) for version, percent in split if version in self._versions]
        self._shares = _cumulated(split)
        self._shares_there = _cumulated(there)
        percents: Counter[int] = Counter()
        for version, percent in there:
            percents[version] += percent
        self.main = max(percents, key=percents.__getitem__, default=max(versions))

    def of_label(self, label: str) -> int | None:
        """The version of a label, served or not; None where there is no such label."""
        return self.policy.labels.get(label)

    def pick(self, metadata: Metadata, draw: Draw) -> int:
        """The version that answers a request which names none."""
        if not self._shares_there:
            return self.main
        key = metadata(self.policy.sticky_key) if self.policy.sticky_key else None
        version = _at(self._shares, self._point(key, "") if key else draw())
        if version in self._versions:
            return version
        # A second point, so that whoever has a version that is served keeps it.
        return _at(self._shares_there, self._point(key, "again") if key else draw())

    def shadow(self, version: int, draw: Draw) -> int | None:
        """The version that a copy of a request goes to which another has answered, where one is to be made."""
        if not self.policy.HasField("shadow"):
            return None
        shadow = self.policy.shadow
        candidate = version_of(self.policy, shadow)
        if candidate == version or candidate not in self._versions or draw() * _WHOLE >= shadow.percent:
            return None
        return candidate

    def _point(self, key: str, turn: str) -> float:
        """Where a key lies in [0, 1): the same in all processes, and another for each model."""
        text = "\0".join((self._model, turn, key)).encode(errors="surrogateescape")
        # As many bits as a float has.
        return (int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 11) / (1 << 53)


def _cumulated(split: Sequence[tuple[int, int]]) -> _Shares:
    ends, end = [], 0
    for version, percent in split:
        end += percent
        ends.append((version, end))
    return ends


def _at(shares: _Shares, point: float) -> int:
    """The version in whose share a point in [0, 1) of the whole lies."""
    whole = shares[-1][1]
    return next(version for version, end in shares if point * whole < end)
