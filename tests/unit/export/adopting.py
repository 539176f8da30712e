"""`retinue-export adopt`, for its tests."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tests.unit.export.command import run

NAMES = ["cat", "dog", "mug"]


def adopt(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> tuple[int, str, str]:
    return run(capsys, "adopt", str(path), "--name", "it", "--out", str(path.parent / "models"), *options)


def assert_refused(capsys: pytest.CaptureFixture[str], path: Path, options: list[str], *parts: str) -> None:
    code, _, err = adopt(capsys, path, *options)
    assert code == 2, err
    for part in parts:
        assert part in err
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert len(err.splitlines()) == 1
    assert not (path.parent / "models" / "it" / "1").exists()


def edited(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path
