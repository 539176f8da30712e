from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.server.served import served_model

from retinue_server import __version__
from retinue_server.app import Ready
from retinue_server.banner import banner
from retinue_server.catalog import Catalog
from retinue_server.errors import BundleError
from retinue_server.results import Task
from retinue_server.runtime.providers import CPU, Provider

MODELS = (
    served_model("cats", 3),
    served_model("a-detector-of-long-name", 12, Task.DETECT),
    served_model("ground", 1, Task.SEGMENT),
)
READY = Ready("127.0.0.1", 8001, 8080, Catalog(MODELS, {}), Provider(CPU, "cpu", "", ((CPU, {}),)), 1.26)


def commands(text: str) -> list[str]:
    """What is to be tried next, from the name of the program on."""
    lines = text[text.index("Try next") :].splitlines()[1:]
    return ["retinue " + line.partition("retinue ")[2] for line in lines]


def test_it_tells_the_version_the_provider_and_the_addresses() -> None:
    text = banner(READY)
    assert text.startswith(f"Retinue {__version__} is ready after 1.3 s, on {CPU}.\n")
    assert "  gRPC  localhost:8001\n" in text
    assert "  HTTP  http://localhost:8080  (/metrics, /livez, /readyz)\n" in text
    assert "Page" not in text
    assert "  Page  http://localhost:8080/ui/\n" in banner(replace(READY, has_page=True))


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "localhost"), ("0.0.0.0", "localhost"), ("::", "localhost"), ("10.0.0.7", "10.0.0.7")],
)
def test_an_address_can_be_typed_as_it_is_shown(host: str, shown: str) -> None:
    text = banner(replace(READY, host=host, grpc_port=9001))
    assert f"  gRPC  {shown}:9001\n" in text
    assert all(command.endswith(f" --server {shown}:9001") for command in commands(text))


def test_it_lists_the_models_in_columns() -> None:
    lines = banner(READY).splitlines()
    header = next(line for line in lines if "largest batch" in line)
    rows = [line for line in lines if "32x64 (h x w)" in line]
    assert [row.split()[:3] for row in rows] == [
        ["a-detector-of-long-name", "12", "detect"],
        ["cats", "3", "classify"],
        ["ground", "1", "segment"],
    ]
    assert {row.index("32x64 (h x w)") for row in rows} == {header.index("input")}
    assert all(row.split()[-2:] == ["8", "123"] for row in rows)


def test_it_tells_what_is_not_served_and_why() -> None:
    failures = {("birds", 3): BundleError("manifest.json: field `labels` must name at least one class.")}
    text = banner(replace(READY, catalog=Catalog(MODELS, failures)))
    assert "  birds 3 is NOT served: manifest.json: field `labels` must name at least one class.\n" in text


def test_it_says_where_no_model_is_loaded() -> None:
    text = banner(replace(READY, catalog=Catalog([], {})))
    assert text.splitlines()[-1] == "  No model is loaded yet."


def test_there_is_one_command_to_try_for_each_task_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the pictures of this repository are not at hand.
    monkeypatch.chdir(tmp_path)
    assert commands(banner(READY)) == [
        "retinue classify PHOTO.jpg --model cats",
        "retinue detect PHOTO.jpg --model a-detector-of-long-name --draw detections.png",
        "retinue segment PHOTO.jpg --model ground --draw segments.png",
    ]
    only_one = banner(replace(READY, catalog=Catalog(MODELS[:1], {})))
    assert commands(only_one) == ["retinue classify PHOTO.jpg --model cats"]


def test_commands_have_what_a_server_asks_for() -> None:
    guarded = replace(READY, encrypted=True, client_options=" --tls-ca CA.pem --token-file TOKEN")
    told = banner(guarded)
    assert "gRPC  localhost:8001  (TLS)" in told
    assert "HTTP  https://localhost:8080" in told
    assert " --tls-ca CA.pem --token-file TOKEN classify " in told
