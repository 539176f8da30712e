"""Settings reach a real server from file, environment and flags."""

import os
import subprocess
import sys
from pathlib import Path

from tests.calls import connected, flat, refused
from tests.server_process import running_server


def printed(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What `retinue-server --print-config` prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
    return subprocess.run(
        [sys.executable, "-m", "retinue_server", "--print-config", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=clean | (environment or {}),
    ).stdout


def test_a_printed_configuration_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "retinue.toml"
    first = printed("--models", 'my "models"', "--provider", "cpu", environment={"RETINUE_GRPC_PORT": "9001"})
    path.write_text(first)
    assert printed("--config", str(path)) == first
    assert 'models = "my \\"models\\""\n' in first
    assert "grpc_port = 9001\n" in first


def test_a_server_obeys_flags_before_the_environment_before_the_file(
    colour_models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "retinue.toml"
    path.write_text("max_images_per_request = 1\nmax_image_pixels = 100\ninstances = 3\nprovider = 'cpu'\n")
    environment = {"RETINUE_MAX_IMAGES_PER_REQUEST": "2", "RETINUE_INSTANCES": "2"}
    arguments = ("--config", str(path), "--max-images-per-request", "4")

    with running_server(colour_models, *arguments, environment=environment) as server:
        with connected(server.grpc_address) as connection:
            five = refused(lambda: connection.classify(*[flat(0)] * 5))
            four = connection.classify(*[flat(0)] * 4)
            large = connection.classify(flat(0, side=11))
            execution = connection.get_model("colour-classifier").execution
        assert server.terminate() == 0

    assert "at most 4 are taken" in five.message
    assert len(four.outcomes) == 4
    assert "at most 100 pixels" in large.outcomes[0].error.message
    assert execution.instances == 2
    assert execution.requested_provider == "cpu"
    # The provider that was asked for is no fallback.
    assert execution.fallback_reason == ""
    assert not any(event["event"] == "provider_fallback" for event in server.events)
