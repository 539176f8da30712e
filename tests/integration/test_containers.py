"""The Dockerfile and docker-compose.yml, built and run for real with podman.

The base image and Prometheus's are stand-ins made of Debian packages, under the official names: no registry is needed.
Grafana has no such package: tests/unit/deploy reads its provisioning, and test_dashboard.py runs its queries.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from retinue.v1 import image_pb2, vision_service_pb2, vision_service_pb2_grpc
from tests.containers import Podman, free_ports, podman_with_image, wait_until_healthy
from tests.prometheus_process import wait_for
from tests.server_process import ROOT

pytestmark = [pytest.mark.container, pytest.mark.slow]

IMAGE = "retinue-server:0.1.0"
USER_ID = "10001"
# More than the server takes to drain; docker-compose.yml grants as much.
GRACE_SECONDS = 40
# As deploy/README.md has it, and without a temporary folder, too.
FEWEST_RIGHTS = (
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--pids-limit", "256", "--memory", "2g"),
)
PROMETHEUS_UP = 'up{job="retinue", instance="server:8080"}'


@dataclass(frozen=True)
class Stack:
    """The running containers.

    Attributes:
        podman: What runs them.
        server: The server's container.
        prometheus: Prometheus's container.
        grpc_address: Where the server's gRPC port is published.
        http_url: Where its HTTP port is published.
        prometheus_url: Where Prometheus is published.
    """

    podman: Podman
    server: str
    prometheus: str
    grpc_address: str
    http_url: str
    prometheus_url: str


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    return free_ports()


@pytest.fixture(scope="module")
def podman(ports: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Podman:
    return podman_with_image(ports, tmp_path_factory.mktemp("pip"))


@pytest.fixture(scope="module")
def stack(podman: Podman, ports: dict[str, str]) -> Iterator[Stack]:
    """Server and Prometheus of the compose file, both healthy."""
    project = f"retinue-test-{os.getpid()}"
    made = Stack(
        podman,
        server=f"{project}_server_1",
        prometheus=f"{project}_prometheus_1",
        grpc_address=f"127.0.0.1:{ports['GRPC_PORT']}",
        http_url=f"http://127.0.0.1:{ports['HTTP_PORT']}",
        prometheus_url=f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}",
    )
    try:
        podman.compose("-p", project, "up", "--detach", "--no-build", "server", "prometheus")
        for container in (made.server, made.prometheus):
            wait_until_healthy(podman, container)
        yield made
    finally:
        podman("rm", "--force", "--ignore", "--time", "0", made.server, made.prometheus)
        podman("volume", "rm", "--force", f"{project}_prometheus-data", f"{project}_server-cache")
        podman("network", "rm", "--force", f"{project}_default")


@pytest.fixture
def lone_server(podman: Podman) -> Iterator[str]:
    """A container of the image alone, with nothing mounted, nothing set and as few rights as there can be; ready."""
    alone = ("--network", "none", "--env", "RETINUE_INSECURE=true")
    container = podman("run", "--detach", *alone, *FEWEST_RIGHTS, IMAGE)
    try:
        wait_until_healthy(podman, container)
        yield container
    finally:
        podman("rm", "--force", "--time", "0", container)


def test_the_image_runs_as_a_user_without_rights(stack: Stack) -> None:
    status = stack.podman("exec", stack.server, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)

    assert fields["Uid"].split() == [USER_ID] * 4
    assert fields["Gid"].split() == [USER_ID] * 4
    assert int(fields["CapEff"], 16) == 0
    assert int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert not stack.podman.succeeds("exec", stack.server, "touch", "/opt/retinue/written")


def test_the_image_holds_no_torch_no_compiler_and_no_installer(podman: Podman) -> None:
    asked = (
        "import importlib.util as u, shutil as s;"
        "print([m for m in ('torch', 'pip', 'retinue_export', 'pytest') if u.find_spec(m)],"
        "[c for c in ('cc', 'gcc', 'g++', 'clang', 'ld', 'make') if s.which(c)])"
    )

    assert podman("run", "--rm", "--network=none", "--entrypoint=python", IMAGE, "-c", asked) == "[] []"


def test_nothing_in_the_image_gives_its_caller_other_rights(podman: Podman) -> None:
    asked = ("/", "-xdev", "-perm", "/6000", "-type", "f")

    assert podman("run", "--rm", "--network=none", "--user=0", "--entrypoint=find", IMAGE, *asked) == ""


def test_the_image_has_a_bill_of_the_packages_that_it_holds(podman: Podman) -> None:
    asked = (
        "from importlib.metadata import distributions as d; print(*(f'{p.name}=={p.version}' for p in d()))"
    )
    run = ("run", "--rm", "--network=none")
    holds = podman(*run, "--entrypoint=python", IMAGE, "-c", asked).split()
    bill = json.loads(podman(*run, "--entrypoint=cat", IMAGE, "/usr/share/sbom/retinue-server.cdx.json"))

    listed = {f"{one['name']}=={one['version']}" for one in bill["components"]}
    assert listed == {package for package in holds if not package.startswith("retinue-")}
    assert listed <= set((ROOT / "constraints.txt").read_text().splitlines())


def test_the_image_is_of_sensible_size(
    podman: Podman, record_property: Callable[[str, object], None]
) -> None:
    size_bytes = int(podman("image", "inspect", "--format", "{{.Size}}", IMAGE))

    record_property("image_bytes", size_bytes)
    # Python, ONNX Runtime, NumPy, grpc and the models; the base alone is 180 MB.
    assert 180e6 < size_bytes < 520e6


def test_nothing_of_this_machine_is_left_in_the_image(podman: Podman) -> None:
    image = json.loads(podman("image", "inspect", IMAGE))[0]
    names = {setting.split("=", 1)[0] for setting in image["Config"]["Env"]}

    assert names == {
        "PATH",
        "ORT_DISABLE_TELEMETRY",
        *(
            f"RETINUE_{name}"
            for name in ("MODELS", "HOST", "GRPC_PORT", "HTTP_PORT", "PROVIDER", "CACHE_FOLDER")
        ),
    }
    # What was mounted for the build leaves empty mount points behind, and nothing in them.
    pip_settings = podman(
        *(
            "run",
            "--rm",
            "--network=none",
            "--entrypoint=sh",
            IMAGE,
            "-c",
            "cat /etc/pip.conf 2>/dev/null || true",
        )
    )
    assert pip_settings == ""


def test_a_photo_is_classified_through_the_published_port(stack: Stack, photos: dict[str, Path]) -> None:
    request = vision_service_pb2.ClassifyRequest(
        model="mobilenet-v2", images=[image_pb2.Image(encoded=photos["chelsea"].read_bytes())], top_k=3
    )

    with grpc.insecure_channel(stack.grpc_address) as channel:
        answer = vision_service_pb2_grpc.VisionServiceStub(channel).Classify(request, timeout=30)

    assert any("cat" in label.label for label in answer.outcomes[0].result.classes)


def test_prometheus_in_its_container_watches_the_server_by_name(stack: Stack) -> None:
    def ask(path: str, **parameters: str) -> Any:
        return httpx.get(f"{stack.prometheus_url}/api/v1/{path}", params=parameters).json()["data"]

    wait_for(
        lambda: [series["value"][1] for series in ask("query", query=PROMETHEUS_UP)["result"]] == ["1"],
        "the server to be up in Prometheus",
    )
    wait_for(lambda: ask("query", query="retinue_model_info")["result"], "the server's metrics in Prometheus")
    assert {group["name"] for group in ask("rules")["groups"]} == {"retinue", "retinue-objectives"}


def test_every_port_is_published_to_this_machine_only(stack: Stack) -> None:
    published = "\n".join(stack.podman("port", container) for container in (stack.server, stack.prometheus))

    addresses = [line.split(" -> ")[1] for line in published.splitlines()]
    assert len(addresses) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_the_image_serves_the_bundled_models_by_itself(podman: Podman, lone_server: str) -> None:
    asked = "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080); c.request('GET', '/metrics');"
    metrics = podman("exec", lone_server, "python", "-c", f"{asked} print(c.getresponse().read().decode())")

    bundles = sorted(path.parent.parent.name for path in (ROOT / "models").glob("*/*/manifest.json"))
    assert bundles
    assert sorted(re.findall(r'^retinue_model_info{.*\bmodel="([^"]*)"', metrics, re.MULTILINE)) == bundles


def test_a_server_that_may_write_nothing_anywhere_is_ready(podman: Podman, lone_server: str) -> None:
    asked = "import os, pathlib; print([p for p in ('/', '/tmp', '/models', '/home/retinue', '/var/cache/retinue') "
    asked += "if os.access(p, os.W_OK)], pathlib.Path('/proc/1/status').read_text())"
    written, _, status = podman("exec", lone_server, "python", "-c", asked).partition(" ")

    assert written == "[]"
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    ready = "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080); c.request('GET', '/readyz'); "
    assert (
        podman("exec", lone_server, "python", "-c", f"{ready}print(c.getresponse().read())") == "b'ready\\n'"
    )


def test_the_health_check_fails_where_nothing_is_served(podman: Podman) -> None:
    check = json.loads(podman("image", "inspect", IMAGE))[0]["Healthcheck"]["Test"]
    assert check[0] == "CMD"

    assert not podman.succeeds("run", "--rm", "--network=none", f"--entrypoint={check[1]}", IMAGE, *check[2:])


def test_sigterm_ends_the_server_in_order(podman: Podman, lone_server: str) -> None:
    podman("stop", "--time", str(GRACE_SECONDS), lone_server)

    # 137 would mean that the grace ran out.
    assert podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", lone_server) == "exited 0"
