"""docker-compose.tls.yml, run for real with podman: from the first start to a call, a scrape, rules and panels."""

import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.containers import Podman, free_ports, podman_with_image, wait_until_healthy
from tests.prometheus_process import wait_for
from tests.server_process import ROOT

pytestmark = [pytest.mark.container, pytest.mark.slow]

TLS: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.tls.yml").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
SERVER_ID, PROMETHEUS_ID = "10001", "65534"


@dataclass(frozen=True)
class Stack:
    """The running containers.

    Attributes:
        podman: What runs them.
        project: What their names begin with.
        ports: Those that are published, by their variables.
        ca: The file of the authority, as the user has read it from the server's container.
        token: The file of the caller's token, likewise.
    """

    podman: Podman
    project: str
    ports: dict[str, str]
    ca: Path
    token: Path

    def container(self, service: str) -> str:
        return f"{self.project}_{service}_1"

    def execute(self, service: str, *command: str) -> str:
        return self.podman("exec", self.container(service), *command)

    def retinue(self, *options: str) -> "subprocess.CompletedProcess[str]":
        """Classifies a photo with the installed command."""
        program = str(Path(sys.executable).parent / "retinue")
        photo = str(ROOT / "examples" / "cat.jpg")
        server = ("--server", f"localhost:{self.ports['GRPC_PORT']}", "--model", "mobilenet-v2")
        return subprocess.run(
            [program, *options, "classify", photo, *server],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ask_prometheus(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.ports['PROMETHEUS_PORT']}/api/v1/{path}"
        answer = httpx.get(url, params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Server and Prometheus, healthy after a first start, and what a caller needs."""
    ports = free_ports()
    podman = podman_with_image(ports, tmp_path_factory.mktemp("pip"))
    folder = tmp_path_factory.mktemp("caller")
    made = Stack(podman, f"retinue-tls-{os.getpid()}", ports, folder / "ca.pem", folder / "client.token")
    try:
        podman.compose("-p", made.project, "up", "--detach", "--no-build", "server", "prometheus", tls=True)
        for service in ("server", "prometheus"):
            wait_until_healthy(podman, made.container(service))
        for file in (made.ca, made.token):
            file.write_text(made.execute("server", "cat", f"/etc/retinue/{file.name}"))
        yield made
    finally:
        services = ("server", "prometheus", "credentials")
        podman("rm", "--force", "--ignore", "--time", "0", *map(made.container, services))
        for volume in ("server-cache", "prometheus-data", *TLS["volumes"]):
            podman("volume", "rm", "--force", f"{made.project}_{volume}")
        podman("network", "rm", "--force", f"{made.project}_default")


def test_each_container_has_its_own_credentials_and_no_others(stack: Stack) -> None:
    def files(service: str, folder: str) -> set[str]:
        return set(stack.execute(service, "sh", "-c", f"stat -c '%n %u %a' {folder}/*").splitlines())

    assert files("server", "/etc/retinue") == {
        f"/etc/retinue/{name} {SERVER_ID} 600"
        for name in ("ca.pem", "server.pem", "server.key", "tokens.toml", "client.token")
    }
    assert files("prometheus", "/etc/prometheus-credentials") == {
        f"/etc/prometheus-credentials/{name} {PROMETHEUS_ID} 600" for name in ("ca.pem", "observe.token")
    }


def test_a_caller_with_the_authority_and_a_token_is_answered(stack: Stack) -> None:
    done = stack.retinue("--tls-ca", str(stack.ca), "--token-file", str(stack.token))

    assert done.returncode == 0, done.stderr
    assert "Egyptian cat" in done.stdout


def test_nobody_else_is_answered(stack: Stack) -> None:
    without_token = stack.retinue("--tls-ca", str(stack.ca))
    without_tls = stack.retinue()

    assert without_token.returncode != 0
    assert "token" in without_token.stderr
    assert without_tls.returncode != 0
    assert "TLS" in without_tls.stderr
    trusted = ssl.create_default_context(cafile=str(stack.ca))
    with httpx.Client(base_url=f"https://localhost:{stack.ports['HTTP_PORT']}", verify=trusted) as client:
        assert client.get("/readyz").status_code == 200
        assert client.get("/metrics").status_code == 401
        # The caller's token is for calls, not for looking on.
        token = {"authorization": f"Bearer {stack.token.read_text().strip()}"}
        assert client.get("/metrics", headers=token).status_code == 403


def test_prometheus_scrapes_over_tls_with_its_token(stack: Stack) -> None:
    def targets() -> list[tuple[str, str]]:
        active = stack.ask_prometheus("targets")["activeTargets"]
        return [(target["scrapeUrl"], target["health"]) for target in active]

    wait_for(
        lambda: targets() == [("https://server:8080/metrics", "up")], "the server to be up in Prometheus"
    )
    wait_for(lambda: stack.ask_prometheus("query", query="retinue_model_info")["result"], "its metrics")


def test_every_alert_is_loaded_and_can_be_evaluated(stack: Stack) -> None:
    def rules() -> dict[str, str]:
        groups = stack.ask_prometheus("rules")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    wanted = {rule.get("alert") or rule["record"]: "ok" for group in ALERTS for rule in group["rules"]}
    wait_for(lambda: rules() == wanted, "the rules to have been evaluated")


def _queries(dashboard: Path) -> list[str]:
    """What Grafana asks for its panels, with every variable at `All`."""
    panels = json.loads(dashboard.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    timed = [re.sub(r"\$__(rate_interval|range)\b", "1m", query) for query in asked]
    return [re.sub(r"\$\{?\w+\}?", ".*", query) for query in timed]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_shows_what_happens(dashboard: Path, stack: Stack) -> None:
    # test_dashboard.py has made everything happen that a panel shows, and asks for each one's data; here some does.
    assert stack.retinue("--tls-ca", str(stack.ca), "--token-file", str(stack.token)).returncode == 0
    queries = [query for query in _queries(dashboard) if "gpu" not in query]

    def shows() -> bool:
        return any(stack.ask_prometheus("query", query=query)["result"] for query in queries)

    # A rate is there when Prometheus has looked twice.
    wait_for(lambda: shows() or not queries, "something to be shown")


def test_a_later_start_renews_the_certificate_and_nothing_else(stack: Stack) -> None:
    address = ("localhost", int(stack.ports["HTTP_PORT"]))
    certificate = ssl.get_server_certificate(address)
    tokens = stack.execute("server", "cat", "/etc/retinue/tokens.toml")

    stack.podman("start", "--attach", stack.container("credentials"))

    assert ssl.get_server_certificate(address) != certificate
    assert stack.execute("server", "cat", "/etc/retinue/tokens.toml") == tokens
    assert stack.retinue("--tls-ca", str(stack.ca), "--token-file", str(stack.token)).returncode == 0
