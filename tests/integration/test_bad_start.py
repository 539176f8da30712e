"""A server that cannot start as it is told ends with exit code 2 and one sentence that says what to do."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
from tests.calls import Connection, flat
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess

_WITHOUT_CUDA = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="the installed ONNX Runtime has the CUDA provider",
)
_EXIT_CODE = 2


def told_why(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Starts a server that must not come up; returns the one sentence it ends with."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "retinue_server", "--log-format", "json", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # Where an argument names none; somebody else may have the usual ones.
        env=clean | {"RETINUE_GRPC_PORT": "0", "RETINUE_HTTP_PORT": "0"} | (environment or {}),
    )
    assert ended.returncode == _EXIT_CODE, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    (sentence,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert sentence.startswith("retinue-server: ")
    assert sentence.endswith(".")
    return sentence


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_models_folder_that_does_not_exist(tmp_path: Path) -> None:
    sentence = told_why("--models", str(tmp_path / "nowhere"))
    assert f"the models folder '{tmp_path / 'nowhere'}' does not exist" in sentence
    assert "--models" in sentence


def test_a_models_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    sentence = told_why("--models", str(path))
    assert f"'{path}' is a file" in sentence
    assert "--models" in sentence


def test_models_to_load_where_all_are(colour_models: Path) -> None:
    sentence = told_why("--models", str(colour_models), "--load-models", "colour-classifier")
    assert "--load-models is for --model-control explicit" in sentence
    explicit = ("--model-control", "explicit", "--grpc-port", "0", "--http-port", "0")
    sentence = told_why(
        "--models", str(colour_models), *explicit, "--load-models", "colour-classifier,nobody"
    )
    assert "--load-models names 'nobody'" in sentence
    sentence = told_why("--models", str(colour_models), *explicit, "--load-models", "../colour-classifier")
    assert "--load-models (RETINUE_LOAD_MODELS) is '../colour-classifier'" in sentence


def test_an_empty_models_folder(tmp_path: Path) -> None:
    sentence = told_why("--models", str(tmp_path))
    assert "holds no bundle" in sentence
    assert "NAME/VERSION/model.onnx" in sentence
    assert "retinue-export" in sentence


def test_a_grpc_port_in_use(colour_models: Path, taken_port: int) -> None:
    sentence = told_why("--models", str(colour_models), "--grpc-port", str(taken_port), "--http-port", "0")
    assert f"cannot listen on 127.0.0.1:{taken_port}" in sentence
    assert "--grpc-port" in sentence


def test_an_http_port_in_use(colour_models: Path, taken_port: int) -> None:
    sentence = told_why("--models", str(colour_models), "--grpc-port", "0", "--http-port", str(taken_port))
    assert f"cannot listen on 127.0.0.1:{taken_port}" in sentence
    assert "--http-port" in sentence


def test_the_ports_of_another_retinue_server_which_still_answers(
    colour_models: Path, colour_server: ServerProcess, colour: Connection
) -> None:
    grpc_port, http_port = (
        re.findall(r"\d+$", address)[0] for address in (colour_server.grpc_address, colour_server.http_url)
    )
    models = ("--models", str(colour_models))
    assert "--grpc-port" in told_why(*models, "--grpc-port", grpc_port, "--http-port", "0")
    assert "--http-port" in told_why(*models, "--grpc-port", "0", "--http-port", http_port)
    assert colour.classify(flat(255, 0, 0)).outcomes[0].result.classes[0].label == "red"
    assert MetricsPage(colour_server.http_url).value("retinue_ready") == 1


def test_a_host_that_is_not_this_machine(colour_models: Path) -> None:
    # 192.0.2.0/24 is set aside for documentation (RFC 5737).
    ports = ("--grpc-port", "0", "--http-port", "0")
    assert "--host" in told_why("--models", str(colour_models), "--host", "192.0.2.1", "--insecure", *ports)


def test_an_address_that_others_reach_without_credentials(colour_models: Path) -> None:
    start = ("--models", str(colour_models))
    for environment in (None, {"RETINUE_INSECURE": "false"}):
        told = told_why(*start, "--host", "0.0.0.0", environment=environment)
        for way in ("--host 0.0.0.0", "--tokens", "--tls-client-ca", "--insecure"):
            assert way in told
    # A certificate of the server alone says nothing of callers.
    assert "--tokens" in told_why(*start, "--host", "::", "--tls-certificate", "x", "--tls-key", "y")


@_WITHOUT_CUDA
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_where_there_is_none(provider: str, colour_models: Path) -> None:
    sentence = told_why("--models", str(colour_models), "--provider", provider)
    assert f"--provider {provider} cannot run here" in sentence
    assert "retinue-server[gpu]" in sentence
    assert "--provider auto" in sentence


@_WITHOUT_CUDA
def test_auto_falls_back_to_the_cpu_and_says_so(colour_server: ServerProcess, colour: Connection) -> None:
    logged = colour_server.wait_for_event("provider_fallback")
    assert logged["provider"] == "CPUExecutionProvider"
    assert logged["reason"].startswith("CUDAExecutionProvider: ")

    execution = colour.get_model("colour-classifier").execution
    assert execution.provider == "CPUExecutionProvider"
    assert execution.requested_provider == "auto"
    assert execution.fallback_reason == logged["reason"]

    info = MetricsPage(colour_server.http_url).find("retinue_model_info", provider="CPUExecutionProvider")
    assert {sample.labels["fallback"] for sample in info} == {"true"}


def test_a_bad_flag() -> None:
    sentence = told_why("--grpc-port", "abc")
    assert "--grpc-port" in sentence
    assert "'abc'" in sentence


def test_a_bad_environment_variable() -> None:
    sentence = told_why(environment={"RETINUE_PROVIDER": "abacus"})
    assert "RETINUE_PROVIDER" in sentence
    assert "'abacus'" in sentence


def test_a_bad_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "retinue.toml"
    path.write_text("grpc_prot = 8001\n")
    assert "unknown settings: grpc_prot" in told_why("--config", str(path))
    assert "No such file" in told_why("--config", str(tmp_path / "nowhere.toml"))


def test_an_unknown_flag_is_refused_with_the_nearest() -> None:
    assert "no flag '--grpc-prot' (the nearest is --grpc-port)" in told_why("--grpc-prot", "1")
