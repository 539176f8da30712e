"""`retinue score` with several real servers, which are killed and started again while it works."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests import odd_bundles, pictures
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

_LABELS = ("red", "green", "blue")
_FILES = 900

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that takes some ten milliseconds for an image."""
    made = tmp_path_factory.mktemp("models")
    odd_bundles.slow_classifier(made, least_level=16)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose names say their colour."""
    made = tmp_path_factory.mktemp("colours")
    for index in range(_FILES):
        label = _LABELS[index % 3]
        (made / f"{index:03}-{label}.png").write_bytes(pictures.png(pictures.COLOURS[label]))
    return made


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `retinue score FOLDER --out tmp_path/results.parquet`, with what is given."""
    program = str(Path(sys.executable).parent / "retinue")
    command = [
        program,
        "score",
        str(folder),
        "--task",
        "classify",
        "--out",
        str(tmp_path / "results.parquet"),
    ]
    processes = []

    def run(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def _answered(server: ServerProcess) -> float:
    return MetricsPage(server.http_url).total("retinue_images_total", outcome="answered")


def _expect_each_once(process: "subprocess.Popen[str]", folder: Path, tmp_path: Path) -> None:
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    assert f"scored {_FILES} of {_FILES} images" in stdout
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["path"] for row in rows] == sorted(path.name for path in folder.iterdir())
    for row in rows:
        best = max(row["classes"], key=lambda entry: entry["score"])
        assert row["path"].endswith(f"{best['label']}.png")


@pytest.mark.slow
def test_servers_that_come_late_are_killed_and_started_again_cost_no_row(
    models: Path, folder: Path, start: Start, tmp_path: Path
) -> None:
    with running_server(models) as late:
        late.process.kill()
        late.wait()
    port = late.grpc_address.rpartition(":")[2]
    with running_server(models) as other:
        process = start("--server", f"{late.grpc_address},{other.grpc_address}")
        wait_until(lambda: _answered(other) >= 32, "the job to begin with the one that is there")
        with running_server(models, "--grpc-port", port) as joined:
            wait_until(lambda: _answered(joined) >= 16, "the late one to get its part")
            joined.process.kill()
            joined.wait()
        with running_server(models, "--grpc-port", port) as again:
            wait_until(lambda: _answered(again) >= 16, "it to be at work again")
            # The only one that was there all the time.
            other.process.kill()
            other.wait()
            assert process.poll() is None
            _expect_each_once(process, folder, tmp_path)
