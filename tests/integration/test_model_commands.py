"""`retinue models` against a real server: what is served, loaded, unloaded and compared."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import colour_bundles, living_bundles, pictures
from tests.server_process import ServerProcess, running_server

from retinue_client import AsyncClient, Client, ModelControlError, ModelNotFoundError, ModelState

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    living_bundles.put(folder, "colours", 1)
    living_bundles.put(folder, "colours", 2, inverted=True)
    shares = [{"label": "stable", "percent": 90}, {"version": 2, "percent": 10}]
    policy = {"labels": {"stable": 1}, "split": shares, "shadow": {"version": 2, "percent": 100}}
    (folder / "colours" / "serving.json").write_text(json.dumps(policy))
    living_bundles.put(folder, "others", 1)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with running_server(models, "--model-control", "explicit", "--load-models", "colours") as server:
        yield server


@pytest.fixture(scope="module")
def retinue(server: ServerProcess) -> Command:
    program = str(Path(sys.executable).parent / "retinue")
    environment = {**os.environ, "RETINUE_SERVER": server.grpc_address, "NO_COLOR": "1"}

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [program, "models", *map(str, arguments)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_models_are_loaded_and_unloaded(retinue: Command) -> None:
    assert [json.loads(line)["state"] for line in retinue("list", "--all", "--json").stdout.splitlines()] == [
        "ready",
        "ready",
        "unavailable",
    ]
    loaded = retinue("load", "others")
    assert (loaded.returncode, loaded.stdout) == (0, "others is served in version 1.\n")
    assert "others" in retinue().stdout
    unloaded = retinue("unload", "others")
    assert (unloaded.returncode, unloaded.stdout) == (0, "others is no longer served.\n")
    assert "others" not in retinue("list").stdout
    row = next(line for line in retinue("list", "--all").stdout.splitlines() if line.startswith("others"))
    assert row.split(maxsplit=3)[1:3] == ["1", "unavailable"]
    missing = retinue("load", "nobody")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("retinue: ")
    assert "'nobody'" in missing.stderr


def test_versions_are_compared_by_what_they_say_and_what_they_answer(
    retinue: Command, tmp_path: Path
) -> None:
    picture = tmp_path / "red.png"
    picture.write_bytes(pictures.png(pictures.RED))
    same = retinue("diff", "colours", 2, 2, picture)
    assert same.returncode == 0
    assert "colours says the same of version 2 and version 2." in same.stdout
    assert "100.0%" in same.stdout
    other = retinue("diff", "colours", 1, 2, picture)
    assert other.returncode == 0
    assert "version 1" in other.stdout
    assert "red-1" in other.stdout
    assert "mean of 1: 0.0%" in other.stdout
    told = json.loads(retinue("diff", "colours", 1, 2, picture, "--json").stdout)
    assert told["agreement"] == {str(picture): 0.0}
    assert "red-1" in told["fields"]["labels"]["old"]
    assert "sha256" in told["fields"]


def test_labels_name_versions_and_folders_name_images(retinue: Command, tmp_path: Path) -> None:
    (tmp_path / "photos" / "reds").mkdir(parents=True)
    for name in ("a.png", "reds/b.png"):
        (tmp_path / "photos" / name).write_bytes(pictures.png(pictures.RED))
    (tmp_path / "photos" / "notes.txt").touch()
    told = retinue("diff", "colours", "stable", 2, tmp_path / "photos")
    assert told.returncode == 0
    assert "version 1 (stable)" in told.stdout
    assert "mean of 2: 0.0%" in told.stdout
    rows = {line.split()[0]: line for line in told.stdout.splitlines()}
    # Labels say where requests go, and not what a model is.
    assert {"sha256", "labels"} <= rows.keys()
    assert rows.keys().isdisjoint({"version_labels", "traffic_percent", "shadow_percent", "sticky_key"})
    assert "[" not in told.stdout
    numbers = json.loads(retinue("diff", "colours", "stable", "2", "--json").stdout)
    assert (numbers["old"], numbers["new"]) == (1, 2)
    unknown = retinue("diff", "colours", "stable", "canary")
    assert (unknown.returncode, "'canary'" in unknown.stderr) == (2, True)
    (tmp_path / "none").mkdir()
    nothing = retinue("diff", "colours", 1, 2, tmp_path / "none")
    assert (nothing.returncode, "the folder has no images" in nothing.stderr) == (2, True)


def test_versions_that_answer_different_questions_are_not_asked(
    retinue: Command, models: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "red.png"
    picture.write_bytes(pictures.png(pictures.RED))
    living_bundles.put(models, "mixed", 1)
    colour_bundles.detector(models, "mixed", 2)
    try:
        assert retinue("load", "mixed").returncode == 0
        assert "task" in retinue("diff", "mixed", 1, 2).stdout
        asked = retinue("diff", "mixed", 1, 2, picture)
        assert (asked.returncode, asked.stdout) == (2, "")
        assert asked.stderr.startswith("retinue: mixed answers another question in version 2 than in 1")
        assert retinue("unload", "mixed").returncode == 0
    finally:
        living_bundles.take_all_away(models, "mixed")


def test_an_image_that_cannot_be_compared_fails_alone(retinue: Command, tmp_path: Path) -> None:
    picture, text = tmp_path / "red.png", tmp_path / "text.png"
    picture.write_bytes(pictures.png(pictures.RED))
    text.write_bytes(b"no image")
    done = retinue("diff", "colours", 1, 1, text, picture, tmp_path / "missing.png")
    assert done.returncode == 1
    assert "mean of 1: 100.0%" in done.stdout
    assert "text.png: IMAGE_UNDECODABLE" in done.stderr
    assert "missing.png" in done.stderr
    unknown = retinue("diff", "colours", 1, 7, picture)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "has no version 7" in unknown.stderr


async def test_clients_load_and_unload(server: ServerProcess) -> None:
    with Client(server.grpc_address) as client:
        client.load_model("others")
        assert ModelState("others", 1, "ready", "") in client.list_versions()
        with pytest.raises(ModelNotFoundError, match="'nobody'"):
            client.load_model("nobody")
    async with AsyncClient(server.grpc_address) as client:
        await client.unload_model("others")
        assert "unavailable" in [one.state for one in await client.list_versions() if one.name == "others"]
        with pytest.raises(ModelNotFoundError, match="not loaded; load it with `retinue models load others`"):
            await client.get_model("others")
        with pytest.raises(ModelNotFoundError, match="there is no model 'nobody'"):
            await client.get_model("nobody")


def test_a_server_that_loads_nothing_by_calls_says_so(colour_server: ServerProcess) -> None:
    with (
        Client(colour_server.grpc_address) as client,
        pytest.raises(ModelControlError, match="--model-control explicit"),
    ):
        client.load_model("colour-classifier")
