"""`retinue score` killed at random, a hundred times: no row is lost, none is there twice."""

import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests import colour_bundles, pictures
from tests.score_jobs import WarmProcess
from tests.server_process import ServerProcess, running_server

_KILLS = 100
_IMAGES = 240
_LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    colour_bundles.classifier(models)
    colour_bundles.detector(models)
    with running_server(models) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose names say their colour; every fortieth is none."""
    made = tmp_path_factory.mktemp("pictures")
    for index in range(_IMAGES):
        label = _LABELS[index % 3]
        content = b"no image" if index % 40 == 7 else pictures.png(pictures.COLOURS[label], 20 + index, 10)
        (made / f"{index:03}-{label}.png").write_bytes(content)
    return made


@pytest.fixture
def warm(server: ServerProcess) -> Iterator[WarmProcess]:
    process = WarmProcess({"RETINUE_SERVER": server.grpc_address})
    yield process
    process.close()


def _files(out: Path) -> dict[str, bytes]:
    """The results, without what has times in it."""
    untimed = (path for path in out.rglob("*") if path.is_file() and path.name[0] != "_")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in untimed}


def _shown(out: Path) -> list[str]:
    """The images that the report shows, and their results."""
    return re.findall("<figcaption>.*?</figcaption>", (out / "_report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_job_that_is_killed_a_hundred_times_loses_no_row_and_doubles_none(
    warm: WarmProcess, folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"

    def arguments(out: Path, task: str) -> list[object]:
        return ["score", folder, "--task", task, "--out", out, "--rows-per-part", 16]

    expected, shown, seconds = {}, {}, {}
    for name, task in (("c.parquet", "classify"), ("d.json", "detect")):
        began = time.monotonic()
        warm.start(arguments(tmp_path / name, task), log)
        assert warm.end() == 1, log.read_text()
        seconds[name] = time.monotonic() - began
        expected[name], shown[name] = _files(tmp_path / name), _shown(tmp_path / name)

    dice = random.Random(7)
    kills = jobs = 0
    while kills < _KILLS:
        name, task = (("c.parquet", "classify"), ("d.json", "detect"))[jobs % 2]
        out = tmp_path / f"{jobs}" / name
        out.parent.mkdir()
        jobs += 1
        while True:
            process = warm.start(arguments(out, task), log)
            # From before it has begun to after it has ended.
            time.sleep(dice.uniform(0, seconds[name] * 1.1))
            warm.kill(process)
            code = warm.end()
            if code >= 0:
                break
            kills += 1
        # The one that ended by itself had been killed too late: what it says is that of a job without kills.
        assert code in (0, 1), log.read_text()
        assert _files(out) == expected[name]
        assert _shown(out) == shown[name]
        summary = json.loads((out / "_summary.json").read_text())
        assert (summary["images"], summary["failed"]) == (_IMAGES, 6)
    assert jobs > 2
    rows = pq.read_table(tmp_path / "0" / "c.parquet").to_pylist()
    assert [row["path"] for row in rows] == sorted(path.name for path in folder.iterdir())
    assert sum(row["error_reason"] is not None for row in rows) == 6
