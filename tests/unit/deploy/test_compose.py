"""docker-compose.yml and the Dockerfile agree with each other, with the settings and with what they mount."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server_process import ROOT

from retinue_server import __version__
from retinue_server.settings import Settings

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
TLS: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.tls.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "server" / "Dockerfile").read_text()
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())

every_service = pytest.mark.parametrize("name", SERVICES)


@every_service
def test_an_image_is_pinned_to_a_version(name: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[name]["image"])


def test_the_servers_image_carries_the_servers_version() -> None:
    assert SERVICES["server"]["image"] == f"retinue-server:{__version__}"
    assert GPU["services"]["server"]["image"] == f"retinue-server:{__version__}-gpu"
    assert TLS["services"]["credentials"]["image"] == f"retinue-server:{__version__}"


@every_service
def test_ports_are_published_to_this_machine_only_and_can_be_changed(name: str) -> None:
    for port in SERVICES[name]["ports"]:
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z]+_PORT:-(\d+)\}:\1", port)


@every_service
def test_what_is_mounted_is_there_and_read_only(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source, target, *options = volume.split(":")
        assert target.startswith("/")
        if source.startswith("./"):
            assert (ROOT / source).is_dir()
            assert options == ["ro,z"]
        else:
            assert source in COMPOSE["volumes"]


@every_service
def test_what_is_waited_for_has_a_health_check(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[needed] or "\nHEALTHCHECK " in DOCKERFILE


def test_the_server_may_drain_before_it_is_killed() -> None:
    grace_seconds = int(SERVICES["server"]["stop_grace_period"].removesuffix("s"))

    assert grace_seconds > Settings.model_fields["drain_seconds"].default


def test_the_dockerfile_sets_settings_that_exist() -> None:
    names = re.findall(r"^(?:ENV)? +RETINUE_(\w+)=", DOCKERFILE, re.MULTILINE)

    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_prometheus_scrapes_the_servers_http_port() -> None:
    port = re.search(r"RETINUE_HTTP_PORT=(\d+)", DOCKERFILE)
    assert port is not None
    (scrape,) = PROMETHEUS["scrape_configs"]

    assert scrape["static_configs"] == [{"targets": [f"server:{port[1]}"]}]


def test_the_build_sees_everything_that_the_dockerfile_copies() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]

    assert sorted(copied) == sorted(allowed)


def test_the_gpu_file_builds_the_gpu_runtime_and_refuses_to_fall_back() -> None:
    server = GPU["services"]["server"]

    assert server["build"]["args"] == {"RUNTIME": "gpu"}
    assert server["environment"] == {"RETINUE_PROVIDER": "cuda"}
    assert server["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_the_tls_file_sets_settings_that_exist_to_files_that_are_made() -> None:
    settings = {
        name.removeprefix("RETINUE_").lower(): value
        for name, value in TLS["services"]["server"]["environment"].items()
    }
    making = TLS["services"]["credentials"]["entrypoint"][-1]

    assert settings.pop("insecure") == "false"
    assert settings.keys() == {"tls_certificate", "tls_key", "tokens"} <= set(Settings.model_fields)
    for path in map(Path, settings.values()):
        assert f"server-credentials:{path.parent}:ro" in TLS["services"]["server"]["volumes"]
        assert f" {path.name} " in making


def test_prometheus_differs_with_tls_in_how_it_reaches_the_server_only() -> None:
    secured = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus-tls.yml").read_text())
    (scrape,) = secured["scrape_configs"]
    reached = {key: scrape.pop(key) for key in ("scheme", "tls_config", "authorization")}

    assert secured == PROMETHEUS
    assert reached["scheme"] == "https"
    (volume,) = TLS["services"]["prometheus"]["volumes"]
    for file in (reached["tls_config"]["ca_file"], reached["authorization"]["credentials_file"]):
        assert volume == f"prometheus-credentials:{Path(file).parent}:ro"
    assert "--config.file=/etc/prometheus/prometheus-tls.yml" in TLS["services"]["prometheus"]["command"]
