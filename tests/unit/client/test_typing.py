import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "clients/python/src"
PREAMBLE = """
import io
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

from retinue_client import (
    AsyncClient, Classification, Client, Detection, Detections, Frame, ImageError, Segmentation
)

client = Client()
"""
RIGHT = """
assert_type(client.classify("a.jpg"), Classification)
assert_type(client.classify(b"...", top_k=3), Classification)
assert_type(client.detect(np.zeros((2, 2, 3), np.uint8), classes="bag"), Detections)
assert_type(client.segment(Image.new("L", (2, 2)), mask_format="raw"), Segmentation)
assert_type(client.classify(["a.jpg", Path("b.jpg")]), list[Classification | ImageError])
assert_type(client.detect(path for path in Path(".").iterdir()), list[Detections | ImageError])
assert_type(client.detect("a.jpg")[0], Detection)
assert_type(client.detect("a.jpg")[:2], Detections)

assert_type(client.classify(io.BytesIO(b"...")), Classification)
assert_type(client.detect(open("a.jpg", "rb")), Detections)
assert_type(client.stream("detect", ["a.jpg"], live=True), Generator[Frame[Detections], None, None])
for frame in client.stream("segment", [np.zeros((2, 2, 3), np.uint8)], mask_format="raw"):
    assert_type(frame.outcome, Segmentation | ImageError)

async def ask() -> None:
    async with AsyncClient() as other:
        assert_type(await other.classify("a.jpg"), Classification)
        assert_type(await other.segment(["a.jpg"]), list[Segmentation | ImageError])
        assert_type(other.stream("classify", ["a.jpg"]), AsyncGenerator[Frame[Classification], None])
"""
WRONG = """
client.segment("a.jpg", mask_format="jpeg")
client.classify("a.jpg", topk=1)
client.classify(3)
client.detect("a.jpg").boxes = None
client.stream("detect", ["a.jpg"], top_k=1)
"""


def check(path: Path, program: str) -> "subprocess.CompletedProcess[str]":
    path.write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(path.parent), str(path)]
    environment = {**os.environ, "MYPYPATH": str(SOURCES)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_type_checker_knows_what_each_call_answers_and_which_calls_are_wrong(tmp_path):
    right = check(tmp_path / "right.py", PREAMBLE + RIGHT)
    assert right.returncode == 0, right.stdout
    wrong = check(tmp_path / "wrong.py", PREAMBLE + WRONG)
    first = PREAMBLE.count("\n") + 2
    for line in range(first, first + 5):
        assert f"wrong.py:{line}: error" in wrong.stdout
