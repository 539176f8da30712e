"""Bytes from outside cost an error that says what is wrong, and little time and memory, wherever they come in."""

import random
import resource
import time
from pathlib import Path

import pytest
from tests.fuzz.mutations import mutated
from tests.fuzz.target import Target
from tests.fuzz.targets import REGRESSIONS, TARGETS, regressions

_INPUTS = 4000
_MOST_BYTES = 256 * 1024 * 1024


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_no_input_breaks_it(target: Target) -> None:
    """A look at each target; `make fuzz` searches them."""
    seeds = target.seeds()
    inputs = [b"", *seeds, *mutated(seeds, _INPUTS, target.max_bytes, random.Random(0))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in inputs:
        _run(target, data)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < _MOST_BYTES


@pytest.mark.parametrize(
    ("target", "path"),
    [
        pytest.param(one, path, id=f"{one.name}-{path.name}")
        for one in TARGETS.values()
        for path in regressions(one)
    ],
)
def test_what_once_broke_it_does_not_any_more(target: Target, path: Path) -> None:
    _run(target, path.read_bytes())


def test_every_regression_has_its_target() -> None:
    assert {folder.name for folder in REGRESSIONS.glob("*")} <= TARGETS.keys()


def _run(target: Target, data: bytes) -> None:
    began = time.thread_time()
    try:
        target.run(data)
    except BaseException as error:
        error.add_note(f"input of {target.name}: {data[:4096]!r}")
        raise
    assert time.thread_time() - began < target.seconds, f"{target.name} takes too long for {data[:4096]!r}"
