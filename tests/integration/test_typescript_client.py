"""The TypeScript client: its own tests against real servers, servers that restart, and its page in docs."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests import colour_bundles, pictures
from tests.certificates import Authority
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ROOT, ServerProcess, running_server
from tests.system_packages import require

CLIENT = ROOT / "clients" / "typescript"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
TIMEOUT_SECONDS = 120
TOKENS = [
    {"name": "a-token-that-infers", "scopes": ["infer"]},
    {"name": "a-token-that-observes", "scopes": ["observe"]},
    {"name": "a-token-of-the-slow", "scopes": ["infer"], "requests_per_second": 0.01},
]


def run(*command: str, folder: Path = CLIENT, **environment: str) -> str:
    """What a command prints in a folder."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    """The client is compiled, with its tests."""
    require("nodejs", "npm")
    run(str(ROOT / "scripts" / "install-node-packages"))
    run("npm", "run", "--silent", "build")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a tiny bundle of every kind."""
    folder = tmp_path_factory.mktemp("models")
    for make in (
        colour_bundles.classifier,
        colour_bundles.locator,
        colour_bundles.detector,
        colour_bundles.region_detector,
        colour_bundles.segmenter,
    ):
        make(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files, certificates, keys and tokens."""
    folder = tmp_path_factory.mktemp("typescript")
    red = pictures.png(pictures.RED, 200, 200)
    (folder / "red.png").write_bytes(red)
    (folder / "truncated.png").write_bytes(red[:60])
    authority = Authority()
    authority.sign().write(folder)
    authority.sign("caller").write(folder, "caller")
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "stranger.pem").write_bytes(Authority("a stranger").certificate)
    entries = [
        # The secret is the name.
        {**token, "sha256": hashlib.sha256(str(token["name"]).encode()).hexdigest()}
        for token in TOKENS
    ]
    tokens = folder / "tokens.json"
    tokens.write_text(json.dumps({"tokens": entries}))
    tokens.chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def plain(models: Path) -> Iterator[ServerProcess]:
    with running_server(models) as server:
        yield server


@pytest.fixture(scope="module")
def secured(models: Path, folder: Path) -> Iterator[ServerProcess]:
    """A server that wants TLS, a certificate and a token."""
    flags = {"tls-certificate": "server.pem", "tls-key": "server.key", "tls-client-ca": "ca.pem"}
    flags["tokens"] = "tokens.json"
    arguments = [word for name, file in flags.items() for word in (f"--{name}", str(folder / file))]
    with running_server(models, *arguments) as server:
        yield server


def test_its_own_tests_pass_against_real_servers(
    plain: ServerProcess, secured: ServerProcess, folder: Path
) -> None:
    printed = run(
        "npm",
        "test",
        RETINUE_TEST_SERVER=plain.grpc_address,
        RETINUE_TEST_HTTP=plain.http_url.removeprefix("http://"),
        RETINUE_TEST_SECURED=secured.grpc_address,
        RETINUE_TEST_FOLDER=str(folder),
    )
    assert "# skipped 0\n" in printed
    assert "# pass 0\n" not in printed


def test_no_call_fails_while_servers_are_restarted_in_turn(models: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(running_server(models)) for _ in range(2)]
        address = ",".join(one.grpc_address for one in servers)
        traffic = stack.enter_context(
            subprocess.Popen(
                ["node", "dist/test/traffic.js", address],
                cwd=CLIENT,
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(traffic.kill)
        for one in servers:
            wait_until(lambda one=one: _answered(one) > 0, "it to be asked")  # type: ignore[misc]
        for one in servers:
            assert one.terminate() == 0
            port = one.grpc_address.rpartition(":")[2]
            fresh = stack.enter_context(running_server(models, "--grpc-port", port))
            wait_until(lambda fresh=fresh: _answered(fresh) > 0, "it to be found")  # type: ignore[misc]
        printed, _ = traffic.communicate(timeout=TIMEOUT_SECONDS)
    assert set(json.loads(printed)) == {"blue"}


def _answered(server: ServerProcess) -> float:
    return MetricsPage(server.http_url).total("retinue_requests_total", method="Classify", code="OK")


def test_the_session_in_the_docs_prints_what_is_shown(server: ServerProcess) -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    found = re.search(r"```typescript\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert found is not None
    code, shown = found.groups()
    # Inside of the package its own name leads to it.
    session = CLIENT / "dist" / "session"
    session.mkdir(exist_ok=True)
    (session / "session.ts").write_text(code.replace("localhost:8001", server.grpc_address))
    settings = {
        "extends": "../../tsconfig.json",
        "compilerOptions": {"rootDir": ".", "outDir": ".", "incremental": False},
        "files": ["session.ts"],
        "include": [],
    }
    (session / "tsconfig.json").write_text(json.dumps(settings))
    run("npx", "tsc", "--project", str(session))
    assert run("node", str(session / "session.js"), folder=ROOT) == shown
