"""Tokens go where others cannot read them, and nowhere else."""

import grpc
import pytest
from tests.certificates import Authority
from typer.testing import CliRunner

from retinue_client import AsyncClient, Client, Tls
from retinue_client._security import Security
from retinue_client.cli._app import app

TOKEN = "retinue_0123456789"
VARIABLES = ("RETINUE_TOKEN", "RETINUE_TLS_CA", "RETINUE_CLIENT_CERTIFICATE", "RETINUE_CLIENT_KEY")


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path):
    authority = Authority()
    certificate, key = authority.sign().write(tmp_path)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.certificate)
    return ca, certificate, key


@pytest.mark.parametrize(
    "address", ["localhost:8001", "127.0.0.1:8001", "[::1]:8001", "dns:///localhost:8001", "unix:/run/a.sock"]
)
def test_a_token_goes_to_this_machine_without_tls(address):
    security = Security.resolve(address, None, TOKEN)
    assert security.metadata == (("authorization", f"Bearer {TOKEN}"),)
    assert not security.encrypted


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address", ["models.example:8001", "10.0.0.7:8001", "dns:///a.example:1", "ipv4:10.0.0.7:1"]
)
def test_a_token_goes_nowhere_else_without_tls(kind, address):
    with pytest.raises(ValueError, match=r"not sent to .* without TLS") as raised:
        kind(address, token=TOKEN)
    assert TOKEN not in str(raised.value)


def test_a_token_goes_anywhere_with_tls(files):
    assert Security.resolve("models.example:8001", Tls(files[0]), TOKEN).encrypted


def test_the_environment_says_what_arguments_do_not(files, monkeypatch):
    ca, certificate, key = files
    monkeypatch.setenv("RETINUE_TOKEN", TOKEN)
    for name, path in zip(VARIABLES[1:], files, strict=True):
        monkeypatch.setenv(name, str(path))
    security = Security.resolve("models.example:8001", None, None)
    assert (security.token, security.ca) == (TOKEN, ca.read_bytes())
    assert (security.certificate, security.key) == (certificate.read_bytes(), key.read_bytes())
    other = Security.resolve("models.example:8001", Tls(), "another")
    assert (other.token, other.ca, other.certificate) == ("another", None, None)
    monkeypatch.setenv("RETINUE_TLS_CA", "public")
    assert Security.resolve("models.example:8001", None, None).ca is None


@pytest.mark.parametrize("token", ["two words", "new\nline", "ümlaut"])
def test_a_token_that_is_none_is_refused_and_not_shown(token):
    with pytest.raises(ValueError, match="printable ASCII") as raised:
        Client("localhost", token=token)
    assert token not in str(raised.value)


def test_files_that_cannot_be_used_are_named(files, tmp_path):
    ca, certificate, _ = files
    with pytest.raises(ValueError, match="need each other"):
        Client("localhost", tls=Tls(ca, certificate))
    with pytest.raises(ValueError, match=r"'.*nowhere.pem' cannot be read: No such file"):
        Client("localhost", tls=Tls(tmp_path / "nowhere.pem"))
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="is no PEM file"):
        Client("localhost", tls=Tls(tmp_path / "text"))


def test_a_token_is_shown_by_nothing():
    with Client("localhost", token=TOKEN) as client:
        assert TOKEN not in repr(client)
        assert TOKEN not in repr(client._security)


@pytest.fixture
def run(monkeypatch, server):
    """Runs the command line, options before the command included."""
    monkeypatch.setenv("RETINUE_SERVER", server.address)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
def asked(monkeypatch):
    """What the fake gets beside each call."""
    beside = []

    class Noting(grpc.ServerInterceptor):
        def intercept_service(self, continuation, details):
            beside.append(dict(details.invocation_metadata).get("authorization"))
            return continuation(details)

    started = grpc.server
    monkeypatch.setattr(
        grpc, "server", lambda *given, **more: started(*given, interceptors=(Noting(),), **more)
    )
    return beside


def test_every_call_brings_the_token(asked, server):
    with Client(server.address, token=TOKEN) as client:
        client.list_models()
        client.classify(b"a")
        client.classify([b"a", b"b"])
    assert set(asked) == {f"Bearer {TOKEN}"}


async def test_every_call_of_asyncio_does(asked, server):
    async with AsyncClient(server.address, token=TOKEN) as client:
        await client.list_models()
        await client.classify(b"a")
    assert set(asked) == {f"Bearer {TOKEN}"}


def test_the_command_line_reads_a_token_from_a_file_or_the_environment(
    asked, server, tmp_path, monkeypatch, run
):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert run("--token-file", str(path), "models").exit_code == 0
    monkeypatch.setenv("RETINUE_TOKEN", "from-the-environment")
    assert run("models").exit_code == 0
    assert asked == [f"Bearer {TOKEN}", "Bearer from-the-environment"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--token-file", "nowhere", "models"), "--token-file: 'nowhere' cannot be read"),
        (("--tls-ca", "nowhere", "models"), "'nowhere' cannot be read: No such file"),
        (("--tls-certificate", "a.pem", "models"), "need each other"),
    ],
)
def test_the_command_line_says_what_cannot_be_used(arguments, why, run):
    done = run(*arguments)
    assert (done.exit_code, why in done.output) == (2, True)


def test_no_option_takes_the_token_itself():
    names = {name for option in app.registered_callback.callback.__annotations__ for name in [option]}
    assert "token_file" in names
    assert "token" not in names
