"""`retinue score --local`: the engine in the job's own process answers as a server does."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests import odd_bundles, pictures
from tests.server_process import ROOT, ServerProcess

_PROGRAM = str(Path(sys.executable).parent / "retinue")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Without variables of this machine, and with a cache of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
    return {**inherited, "RETINUE_CACHE_FOLDER": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos and tiny pictures, several times, and files that cannot be read."""
    made = tmp_path_factory.mktemp("images")
    for copy in range(3):
        for name in ("cat.jpg", "coffee.jpg"):
            shutil.copy(ROOT / "examples" / name, made / f"{copy}-{name}")
        for label, colour in pictures.COLOURS.items():
            (made / f"{copy}-{label}.png").write_bytes(pictures.png(colour, 40, 30))
    (made / "empty.png").write_bytes(b"")
    (made / "text.jpg").write_bytes(b"no image")
    return made


def _score(environment: dict[str, str], folder: Path, out: Path, *arguments: str) -> tuple[int, str, str]:
    command = [_PROGRAM, "score", str(folder), "--out", str(out), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def _rounded(value: Any) -> Any:
    """Numbers to four digits: which images ran together may change the last ones."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return {key: _rounded(one) for key, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("task", "model"),
    [("classify", "mobilenet-v2"), ("detect", "fashion-detector")],
    ids=["classify", "detect"],
)
def test_rows_are_those_that_a_server_gives(
    server: ServerProcess,
    environment: dict[str, str],
    folder: Path,
    bundled_models: Path,
    tmp_path: Path,
    task: str,
    model: str,
) -> None:
    asked = ["--task", task, "--model", model]
    remote, local = tmp_path / "remote.parquet", tmp_path / "local.parquet"
    assert _score(environment, folder, remote, *asked, "--server", server.grpc_address)[0] == 1
    code, stdout, stderr = _score(
        environment, folder, local, *asked, "--local", "--models", str(bundled_models)
    )
    assert (code, "2 failed (" in stdout) == (1, True), stderr
    expected, rows = (_rounded(pq.read_table(out).to_pylist()) for out in (remote, local))
    assert rows == expected
    assert sum(row["model"] == model for row in rows) == len(rows) - 2


def test_a_model_that_is_not_there_or_cannot_be_loaded_is_said_at_once(
    environment: dict[str, str], folder: Path, bundled_models: Path, tmp_path: Path
) -> None:
    asked = ["--task", "classify", "--local", "--model"]
    code, _, stderr = _score(
        environment, folder, tmp_path / "out.parquet", *asked, "nope", "--models", str(bundled_models)
    )
    assert (code, "no bundle of 'nope'" in stderr) == (2, True)
    broken = odd_bundles.slow_classifier(tmp_path / "models")
    (broken / "model.onnx").write_bytes(b"cut short")
    code, _, stderr = _score(
        environment,
        folder,
        tmp_path / "out.parquet",
        *asked,
        "slow-classifier",
        "--models",
        str(tmp_path / "models"),
    )
    assert (code, "SHA-256" in stderr) == (2, True)
    assert not list(tmp_path.glob("out.parquet*"))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_ends_cleanly(
    sign: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    odd_bundles.slow_classifier(tmp_path / "models", least_level=16)
    made = tmp_path / "images"
    made.mkdir()
    (made / "!.png").write_bytes(b"no image")
    for index in range(2000):
        (made / f"{index:04}.png").write_bytes(pictures.png(pictures.RED))
    command = [
        *(_PROGRAM, "score", str(made), "--task", "classify", "--out", str(tmp_path / "out.parquet")),
        *("--local", "--models", str(tmp_path / "models")),
    ]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # Once the failure of the first file is on the screen, the engine is at work.
        assert process.stderr is not None
        assert "!.png: IMAGE_UNDECODABLE" in process.stderr.readline()
        process.send_signal(sign)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
