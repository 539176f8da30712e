"""Inputs made of others by a seed: bytes changed, cut out, doubled, taken from a neighbour."""

import random
from collections.abc import Iterator, Sequence

_TELLING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def mutated(seeds: Sequence[bytes], count: int, max_bytes: int, chance: random.Random) -> Iterator[bytes]:
    """So many inputs, each some steps away from one of the seeds."""
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 4, 8, 32))):
            _step(data, seeds, chance)
        yield bytes(data[:max_bytes])


def _step(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    # Headers are at the start.
    place = chance.randrange(min(len(data), chance.choice((16, 100, 10_000))) or 1)
    end = place + chance.choice((1, 2, 4, 16, 200))
    match chance.randrange(7):
        case 0:
            data[place : place + 1] = bytes((chance.randrange(256),))
        case 1:
            data[place : place + 1] = bytes((chance.choice(_TELLING),))
        case 2:
            data[place : place + 4] = chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF)).to_bytes(4, "little")
        case 3:
            del data[place:end]
        case 4:
            data[place:place] = data[place:end]
        case 5:
            other = chance.choice(seeds)
            start = chance.randrange(len(other) or 1)
            data[place:end] = other[start : start + end - place]
        case _:
            del data[chance.randrange(len(data) or 1) :]
