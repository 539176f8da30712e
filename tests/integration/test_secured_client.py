"""The Python client and its command line, and servers that want TLS, a certificate or a token."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.certificates import Authority
from tests.ports import free_port
from tests.server_process import ServerProcess, running_server

from retinue_client import (
    AsyncClient,
    AuthenticationError,
    Client,
    OverloadedError,
    ServerUnreachableError,
    Tls,
)

AUTHORITY, STRANGER = Authority(), Authority("a stranger")
SECRETS = {"infer": "a-token-that-infers", "observe": "a-token-that-observes", "slow": "a-token-of-the-slow"}


@dataclass(frozen=True)
class Served:
    process: ServerProcess
    folder: Path

    @property
    def address(self) -> str:
        return self.process.grpc_address

    @property
    def tls(self) -> Tls:
        """What a caller needs."""
        return Tls(self.folder / "ca.pem", self.folder / "caller.pem", self.folder / "caller.key")


@pytest.fixture(scope="module")
def served(colour_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that wants everything."""
    folder = tmp_path_factory.mktemp("secured")
    certificate, key = AUTHORITY.sign().write(folder)
    AUTHORITY.sign("caller").write(folder, "caller")
    (folder / "ca.pem").write_bytes(AUTHORITY.certificate)
    (folder / "stranger.pem").write_bytes(STRANGER.certificate)
    tokens = folder / "tokens.json"
    entries = [
        {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), "scopes": ["infer"]}
        for name, secret in SECRETS.items()
    ]
    entries[1]["scopes"] = ["observe"]
    entries[2]["requests_per_second"] = 0.01
    tokens.write_text(json.dumps({"tokens": entries}))
    tokens.chmod(0o600)
    flags = {"certificate": certificate, "key": key, "client-ca": folder / "ca.pem"}
    arguments = [word for name, path in flags.items() for word in (f"--tls-{name}", str(path))]
    with running_server(colour_models, *arguments, "--tokens", str(tokens)) as process:
        yield Served(process, folder)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_a_client_that_has_everything_is_answered(served: Served, red: Path) -> None:
    with Client(served.address, tls=served.tls, token=SECRETS["infer"]) as client:
        assert client.classify(red, model="colour-classifier").classes[0].label == "red"


async def test_so_is_one_of_asyncio(served: Served, red: Path) -> None:
    async with AsyncClient(served.address, tls=served.tls, token=SECRETS["infer"]) as client:
        assert (await client.classify(red, model="colour-classifier")).classes[0].label == "red"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_of_several_addresses_each_shows_a_certificate_of_its_own(
    kind: type[Client] | type[AsyncClient], served: Served, red: Path
) -> None:
    """What a certificate names is one of them; and who is asked whether they are ready wants no token for that."""
    port = served.address.rpartition(":")[2]
    for addresses in (
        [f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"],
        [f"localhost:{port}", f"127.0.0.1:{port}"],
    ):
        client = kind(addresses, tls=served.tls, token=SECRETS["infer"])
        for _ in range(4):
            answer: Any = client.classify(red, model="colour-classifier")
            assert (answer if kind is Client else await answer).best.label == "red"
        closed: Any = client.close()
        if kind is AsyncClient:
            await closed


@pytest.mark.parametrize(
    ("token", "reason"),
    [("", "UNAUTHENTICATED"), ("unknown", "UNAUTHENTICATED"), (SECRETS["observe"], "SCOPE_MISSING")],
)
def test_a_token_that_does_not_do_is_an_error_of_its_own(
    token: str, reason: str, served: Served, red: Path
) -> None:
    with (
        Client(served.address, tls=served.tls, token=token) as client,
        pytest.raises(AuthenticationError) as raised,
    ):
        client.classify(red, model="colour-classifier")
    assert raised.value.reason == reason
    assert not token or token not in str(raised.value)


def test_a_limit_says_when_to_come_back(served: Served) -> None:
    with Client(served.address, tls=served.tls, token=SECRETS["slow"]) as client:
        client.list_models()
        with pytest.raises(OverloadedError) as raised:
            client.list_models()
    assert raised.value.retry_after_seconds is not None
    assert raised.value.retry_after_seconds > 1


def test_who_cannot_connect_is_told_why(served: Served) -> None:
    without = Tls(served.folder / "ca.pem")
    stranger = Tls(served.folder / "stranger.pem")
    for tls, why in (
        (None, "It may speak TLS"),
        (without, "want to see a certificate"),
        (stranger, "a certificate that this client does not trust"),
    ):
        with Client(served.address, tls=tls) as client, pytest.raises(ServerUnreachableError, match=why):
            client.list_models()


def test_a_server_without_tls_is_told_from_one_with(colour_server: ServerProcess, served: Served) -> None:
    with (
        Client(colour_server.grpc_address, tls=served.tls) as client,
        pytest.raises(ServerUnreachableError, match="does not speak TLS"),
    ):
        client.list_models()


def retinue(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
    return subprocess.run(
        [sys.executable, "-c", "from retinue_client.cli import main; main()", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_line_takes_files_and_the_environment(served: Served, red: Path) -> None:
    token = served.folder / "token"
    token.write_text(SECRETS["infer"] + "\n")
    tls = served.tls
    options = ("--tls-ca", tls.ca, "--tls-certificate", tls.certificate, "--tls-key", tls.key)
    command = ("classify", str(red), "--model", "colour-classifier", "--server", served.address, "--json")
    done = retinue(*map(str, options), "--token-file", str(token), *command)
    assert (done.returncode, done.stderr) == (0, "")
    environment = {
        "RETINUE_TLS_CA": str(tls.ca),
        "RETINUE_CLIENT_CERTIFICATE": str(tls.certificate),
        "RETINUE_CLIENT_KEY": str(tls.key),
        "RETINUE_TOKEN": SECRETS["infer"],
    }
    assert retinue(*command, **environment).returncode == 0
    refused = retinue(*command, **{**environment, "RETINUE_TOKEN": "unknown"})
    assert refused.returncode == 2
    assert "the call needs a token that this server knows" in refused.stderr
    assert "unknown" not in refused.stderr


def test_the_processes_of_a_measurement_bring_the_token(served: Served, red: Path) -> None:
    tls = served.tls
    environment = {
        "RETINUE_TLS_CA": str(tls.ca),
        "RETINUE_CLIENT_CERTIFICATE": str(tls.certificate),
        "RETINUE_CLIENT_KEY": str(tls.key),
        "RETINUE_TOKEN": SECRETS["infer"],
    }
    asked = ("--task", "classify", "--model", "colour-classifier", "--concurrency", "1", "--processes", "1")
    short = ("--seconds", "0.3", "--warm-up", "0.1", "--server", served.address, "--json", "-")
    done = retinue("bench", str(red), *asked, *short, **environment)
    assert done.returncode == 0, done.stderr
    assert SECRETS["infer"] not in done.stdout + done.stderr
