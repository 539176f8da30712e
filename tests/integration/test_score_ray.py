"""`retinue score --ray` on a cluster of two nodes of this machine, of which workers and then a node are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster
from tests import odd_bundles, pictures
from tests.ports import free_port

_LABELS = ("red", "green", "blue")
_FILES = 600
_ROWS_PER_PART = 15
_TIMEOUT_SECONDS = 240
_ATTEMPTS = 4
# Ray's own environment, too, for it starts slowly on a machine that has other things to do.
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "180000",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that takes some ten milliseconds for an image."""
    made = tmp_path_factory.mktemp("models")
    odd_bundles.slow_classifier(made, least_level=16)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose names say their colour, and a file that is none."""
    made = tmp_path_factory.mktemp("colours")
    for index in range(_FILES):
        label = _LABELS[index % 3]
        (made / f"{index:03}-{label}.png").write_bytes(pictures.png(pictures.COLOURS[label]))
    (made / "999-bad.png").write_bytes(b"no image")
    return made


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one processor each."""
    inherited = [name for name in os.environ if name.startswith("RETINUE_")]
    for name in inherited:
        monkeypatch.delenv(name)
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RETINUE_CACHE_FOLDER", str(tmp_path_factory.mktemp("cache")))
    made = _cluster()
    try:
        yield made
    finally:
        made.shutdown()


def _cluster() -> Any:
    """A cluster that has started: Ray gives a node half a minute to do so, which a busy machine may exceed."""
    for attempt in range(_ATTEMPTS):
        made = Cluster()
        try:
            made.add_node(include_dashboard=False, **_node())
            made.add_node(**_node())
        except Exception:
            made.shutdown()
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    return made


def _node() -> dict[str, int]:
    """One processor, and ports that are known: a node would wait for its agents, which start slowly, to tell them."""
    ports = (
        "metrics_agent_port",
        "metrics_export_port",
        "dashboard_agent_listen_port",
        "runtime_env_agent_port",
    )
    return {"num_cpus": 1, **{name: free_port() for name in ports}}


def _start(cluster: Any, models: Path, folder: Path, out: Path) -> "subprocess.Popen[str]":
    command = [
        *(str(Path(sys.executable).parent / "retinue"), "score", str(folder), "--task", "classify"),
        *("--out", str(out), "--rows-per-part", str(_ROWS_PER_PART)),
        *("--ray", cluster.address, "--models", str(models)),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _parts(out: Path) -> int:
    journal = out / "_journal.jsonl"
    return journal.read_bytes().count(b'{"part":') if journal.exists() else 0


def _wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _workers(cluster: Any) -> list[psutil.Process]:
    """The processes of this cluster that score."""
    found = []
    for node in cluster.list_all_nodes():
        for started in node.all_processes["raylet"]:
            children = psutil.Process(started.process.pid).children(recursive=True)
            found += [child for child in children if "MapBatches(PartScorer)" in " ".join(child.cmdline())]
    return found


def _expect_all(folder: Path, out: Path) -> None:
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == sorted(path.name for path in folder.iterdir())
    for row in rows[:-1]:
        best = max(row["classes"], key=lambda entry: entry["score"])
        assert row["path"].endswith(f"{best['label']}.png")
    assert rows[-1]["error_reason"] == "IMAGE_UNDECODABLE"
    lines = [json.loads(line) for line in (out / "_journal.jsonl").read_text().splitlines()]
    parts = -(-len(rows) // _ROWS_PER_PART)
    assert [line["part"] for line in lines[1:-1]] == list(range(parts))
    assert lines[-1] == {"finished": {"parts": parts, "rows": len(rows)}}
    assert sorted(path.name for path in out.iterdir() if path.name.startswith("part-")) == [
        line["file"] for line in lines[1:-1]
    ]


@pytest.mark.slow
def test_a_worker_and_a_node_that_are_killed_cost_no_row_and_double_none(
    cluster: Any, models: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    process = _start(cluster, models, folder, out)
    try:
        _wait_until(lambda: _parts(out) >= 2, process)
        _wait_until(lambda: bool(_workers(cluster)), process)
        _workers(cluster)[0].send_signal(signal.SIGKILL)
        so_far = _parts(out)
        _wait_until(lambda: _parts(out) >= so_far + 4, process)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        assert process.poll() is None
        stdout, stderr = process.communicate(timeout=_TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, "Traceback" in stderr) == (1, False), stderr
    assert f"scored {_FILES} of {_FILES + 1} images" in stdout
    _expect_all(folder, out)
    # Those of all workers together: twelve at random, and six of the lowest scores.
    assert (out / "_report.html").read_text(encoding="utf-8").count("<img") == 18
