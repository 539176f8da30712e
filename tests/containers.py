"""podman with settings and a storage of its own (scripts/make-container-base), and pip's settings for its builds."""

import ast
import fcntl
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.prometheus_process import wait_for
from tests.server_process import ROOT
from tests.system_packages import require, unavailable

PACKAGES = (
    *("podman", "runc", "podman-compose", "netavark", "aardvark-dns", "iptables"),
    *("mmdebstrap", "debian-archive-keyring"),
)
BUILD_TIMEOUT_SECONDS = 600
START_TIMEOUT_SECONDS = 60
_PORTS = ("GRPC_PORT", "HTTP_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
_PIP_KEYS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "cert",
    "client-cert",
    "trusted-host",
    "proxy",
    "timeout",
)
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class Podman:
    """Runs podman and podman-compose as root, away from the user's own images.

    Args:
        environment: Variables that podman-compose replaces in the compose file.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        require(*PACKAGES)
        self._as_root = _as_root()
        proxies = {name: os.environ[name] for name in _PROXY_VARIABLES if name in os.environ}
        self._environment = {**proxies, **environment, "BUILDAH_FORMAT": "docker"}
        settings = self._run([str(ROOT / "scripts" / "make-container-base")]).splitlines()[-1]
        self._environment["CONTAINERS_CONF"] = f"{settings}/containers.conf"
        self._environment["CONTAINERS_STORAGE_CONF"] = f"{settings}/storage.conf"

    def __call__(self, *arguments: str) -> str:
        """Runs podman and returns its standard output; fails with what it said where it fails."""
        return self._run(["podman", *arguments])

    def succeeds(self, *arguments: str) -> bool:
        """Whether podman exits with 0."""
        return self._start(["podman", *arguments]).returncode == 0

    def compose(self, *arguments: str, tls: bool = False) -> str:
        """Runs podman-compose on the repository's files; fails where one of its podman commands does.

        Args:
            arguments: Its arguments after those that name files.
            tls: Whether docker-compose.tls.yml is taken besides docker-compose.yml.
        """
        names = ["docker-compose.yml", *(["docker-compose.tls.yml"] if tls else [])]
        files = [argument for name in names for argument in ("-f", str(ROOT / name))]
        done = self._start(["podman-compose", *files, *arguments])
        # It exits with 0 all the same, and says of each command how that ended.
        codes = re.findall(r"^exit code: (\d+)$", done.stdout + done.stderr, re.MULTILINE)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert set(codes) == {"0"}, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def _run(self, command: list[str]) -> str:
        done = self._start(command)
        assert done.returncode == 0, (
            f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout.strip()

    def _start(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        return subprocess.run(
            [*self._as_root, "env", *variables, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_SECONDS,
            check=False,
        )


def free_ports() -> dict[str, str]:
    """A free port for each that the compose file publishes, by its variable."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
    free = {name: str(opened.getsockname()[1]) for name, opened in zip(_PORTS, sockets, strict=True)}
    for opened in sockets:
        opened.close()
    return free


def podman_with_image(ports: Mapping[str, str], folder: Path) -> Podman:
    """podman, with the server's image built from this working tree as the compose file says.

    Args:
        ports: Those that the compose file publishes, by their variables.
        folder: Where what the build needs is written.
    """
    podman = Podman(ports)
    arguments = shlex.join(pip_build_arguments(folder))
    # Another process of the tests that builds the same meanwhile would only do it twice.
    with (ROOT / "server" / "Dockerfile").open() as turns:
        fcntl.flock(turns, fcntl.LOCK_EX)
        podman.compose(f"--podman-build-args={arguments}", "build", "server")
        # What earlier builds left behind; the layers of this one stay, and make the next one quick.
        podman("image", "prune", "--force", "--filter", "until=24h")
    return podman


def wait_until_healthy(podman: Podman, container: str) -> None:
    """Runs the check that compose waits for. podman leaves that to systemd, which need not be here."""
    try:
        wait_for(
            lambda: podman.succeeds("healthcheck", "run", container),
            f"{container} to be healthy",
            START_TIMEOUT_SECONDS,
        )
    except AssertionError as error:
        error.add_note(podman("logs", container))
        raise


def pip_build_arguments(folder: Path) -> list[str]:
    """What makes pip inside a build find packages as pip does here: `podman build` arguments.

    Mounted for the build's own commands only, so that nothing of this machine gets into the image.

    Args:
        folder: Where pip's configuration for the build is written.
    """
    settings = _pip_settings()
    configuration = folder / "pip.conf"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    configuration.write_text("\n".join(["[global]", *lines, ""]))
    words = [word for value in settings.values() for word in value.split()]
    # An index in a folder links to the packages beside that folder.
    places = [Path(word) for word in words if word.startswith("/")]
    places += [Path(word.removeprefix("file://")).parent for word in words if word.startswith("file://")]
    local = sorted({place for place in places if place.exists()})
    mounts = [f"{configuration}:/etc/pip.conf", *(f"{path}:{path}" for path in local)]
    return ["--network=host", *(f"--volume={mount}:ro" for mount in mounts)]


def _pip_settings() -> dict[str, str]:
    """pip's settings of this machine that say where packages come from; the environment wins over files."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split("=", 1) for line in listed.splitlines() if "=" in line]
    rows.sort(key=lambda row: row[0].startswith(":env:"))
    found = {
        name.rpartition(".")[2].removeprefix("default-"): str(ast.literal_eval(value)) for name, value in rows
    }
    return {name: value for name, value in found.items() if name in _PIP_KEYS}


def _as_root() -> list[str]:
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    try:
        allowed = subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        unavailable("containers are tested as root: neither root nor passwordless sudo")
    return sudo
