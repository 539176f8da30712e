"""docs/clients.md is always true: its Python runs, and the first of it prints what is shown."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tests import readme
from tests.server_process import ROOT, ServerProcess

TEXT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
QUICKSTART = PROGRAMS[0]
SHOWN = re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0]

# Stands in for OpenCV and for a camera that gives ten frames.
CAMERA = """
import numpy as np

class VideoCapture:
    def __init__(self, number):
        self.left = 10

    def read(self):
        self.left -= 1
        return self.left >= 0, np.zeros((48, 64, 3), np.uint8)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the guide's programs find what they name."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with av.open(str(tmp_path / "clip.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 160, 120
        for level in range(0, 250, 50):
            picture = np.full((120, 160, 3), level, np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        video.mux(stream.encode())
    return tmp_path


def run(program: str, server: ServerProcess, folder: Path) -> str:
    if "import cv2" in program:
        (folder / "cv2.py").write_text(CAMERA)
    (folder / "program.py").write_text(program.replace("localhost:8001", server.grpc_address))
    return readme.run("python program.py", folder=folder)


@pytest.mark.parametrize("program", PROGRAMS[1:])
def test_the_python_of_the_guide_runs(program: str, server: ServerProcess, folder: Path) -> None:
    printed = run(program, server, folder)
    drawn = {path.name for path in folder.glob("*.png")} | {path.name for path in folder.glob("*.jpg")}

    assert printed or drawn
    if "av.open" in program:
        assert drawn == {f"frame-{index:04}.jpg" for index in range(5)}
    if "VideoCapture" in program:
        assert printed.splitlines()[-1].startswith("9 ")


def test_the_quickstart_has_thirty_lines_and_prints_what_is_shown(
    server: ServerProcess, folder: Path
) -> None:
    assert len(QUICKSTART.splitlines()) <= 30

    printed = run(QUICKSTART, server, folder)

    # Scores, edges and areas differ in their last digits from machine to machine, and times altogether.
    figures = re.compile(r"\d+\.\d* ms|\d+")
    assert figures.sub("#", printed) == figures.sub("#", SHOWN)
    with Image.open(folder / "scene-boxes.png") as drawn:
        assert drawn.size == (960, 720)
