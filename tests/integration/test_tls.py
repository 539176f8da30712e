"""TLS on both ports: who is let in, and certificates that change under traffic."""

import http.client
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import grpc
import psutil
import pytest
from cryptography import x509
from tests.calls import Connection, flat
from tests.certificates import Authority, Pair
from tests.integration.test_bad_start import told_why
from tests.metrics_page import wait_until
from tests.server_process import ROOT, ServerProcess, running_server

AUTHORITY, STRANGER = Authority(), Authority("a stranger")
SERVER, CALLER = AUTHORITY.sign(), AUTHORITY.sign("caller")


@dataclass(frozen=True)
class Served:
    """A server, and the folder of its certificate and of the authorities of callers."""

    process: ServerProcess
    folder: Path


@contextmanager
def encrypted(models: Path, folder: Path, *arguments: str, mutual: bool = False) -> Iterator[Served]:
    certificate, key = SERVER.write(folder)
    ca = folder / "ca.pem"
    ca.write_bytes(AUTHORITY.certificate)
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    if mutual:
        flags += ["--tls-client-ca", str(ca)]
    with running_server(models, *flags, *arguments) as process:
        yield Served(process, folder)


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two front-ends"])
def served(
    request: pytest.FixtureRequest, colour_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tls")
    with encrypted(colour_models, folder, "--workers", str(request.param)) as one:
        yield one


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two front-ends"])
def mutual(
    request: pytest.FixtureRequest, colour_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("mtls")
    with encrypted(colour_models, folder, "--workers", str(request.param), mutual=True) as one:
        yield one


@contextmanager
def channel(served: Served, ca: Authority = AUTHORITY, caller: Pair | None = None) -> Iterator[Connection]:
    credentials = grpc.ssl_channel_credentials(
        ca.certificate, caller.key if caller else None, caller.certificate if caller else None
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(served.process.grpc_address, credentials, options) as one:
        yield Connection(one)


def label(connection: Connection) -> str:
    reply = connection.classify(flat(255, 0, 0), model="colour-classifier")
    return str(reply.outcomes[0].result.classes[0].label)


def context(folder: Path, ca: Authority = AUTHORITY, caller: Pair | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=ca.certificate.decode())
    if caller:
        made.load_cert_chain(*caller.write(folder / "callers", "caller"))
    return made


def get(served: Served, path: str, how: ssl.SSLContext) -> tuple[int, str]:
    port = int(served.process.http_url.rpartition(":")[2])
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=how)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def serial(served: Served, port: int) -> int:
    """Of the certificate that a port shows to a new connection."""
    shown = ssl.get_server_certificate(("127.0.0.1", port))
    return x509.load_pem_x509_certificate(shown.encode()).serial_number


def test_both_ports_speak_tls(served: Served) -> None:
    with channel(served) as connection:
        assert label(connection) == "red"
    assert get(served, "/readyz", context(served.folder)) == (200, "ready\n")
    # Over the way that the process with the HTTP port has to the front-ends.
    status, page = get(served, "/v1/models", context(served.folder))
    assert (status, "colour-classifier" in page) == (200, True)
    _, metrics = get(served, "/metrics", context(served.folder))
    line = next(line for line in metrics.splitlines() if line.startswith("retinue_tls_certificate_expiry"))
    assert float(line.split()[1]) > 0


def test_a_caller_who_does_not_know_the_authority_turns_away(served: Served) -> None:
    with channel(served, ca=STRANGER) as connection, pytest.raises(grpc.RpcError) as raised:
        label(connection)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ssl.SSLCertVerificationError):
        get(served, "/readyz", context(served.folder, ca=STRANGER))


def test_a_caller_without_encryption_is_not_answered(served: Served) -> None:
    with grpc.insecure_channel(served.process.grpc_address) as plain, pytest.raises(grpc.RpcError) as raised:
        label(Connection(plain))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    port = int(served.process.http_url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/readyz")
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.getresponse()
    connection.close()


def test_old_versions_of_tls_are_not_spoken(served: Served) -> None:
    old = context(served.folder)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    # Else OpenSSL would not even offer it.
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(OSError, match=r"(?i)alert|reset|eof|closed"):
        get(served, "/readyz", old)


def test_certificates_change_under_traffic_without_a_failed_call(served: Served) -> None:
    done, answered = Event(), []

    def call() -> None:
        while not done.is_set():
            # A connection each, so that many handshakes meet the change.
            with channel(served) as connection:
                answered.append(label(connection))
            answered.append(str(get(served, "/readyz", context(served.folder))[0]))

    callers = [Thread(target=call) for _ in range(2)]
    with channel(served) as kept:
        label(kept)
        for caller in callers:
            caller.start()
        ports = [
            int(address.rpartition(":")[2])
            for address in (served.process.grpc_address, served.process.http_url)
        ]
        try:
            for _ in range(3):
                fresh = AUTHORITY.sign()
                fresh.write(served.folder)
                wanted = x509.load_pem_x509_certificate(fresh.certificate).serial_number
                for port in ports:
                    wait_until(
                        lambda port=port, wanted=wanted: serial(served, port) == wanted, "the new certificate"
                    )
                seen = len(answered)
                wait_until(lambda seen=seen: len(answered) > seen + 4, "calls after it")
            assert label(kept) == "red"
        finally:
            done.set()
            for caller in callers:
                caller.join()
    assert set(answered) == {"red", "200"}
    assert all(caller.is_alive() is False for caller in callers)


def test_a_pair_that_does_not_fit_leaves_the_former_which_is_logged(served: Served) -> None:
    before = (served.folder / "server.pem").read_bytes()
    (served.folder / "server.pem").write_bytes(AUTHORITY.sign().certificate)
    try:
        assert get(served, "/readyz", context(served.folder))[0] == 200
        with channel(served) as connection:
            assert label(connection) == "red"
        told = served.process.wait_for_event("tls_files_refused")
        assert "is not the key" in told["reason"]
    finally:
        (served.folder / "server.pem").write_bytes(before)


def test_a_caller_with_a_certificate_is_answered(mutual: Served) -> None:
    with channel(mutual, caller=CALLER) as connection:
        assert label(connection) == "red"
    status, page = get(mutual, "/v1/models", context(mutual.folder, caller=CALLER))
    assert (status, "colour-classifier" in page) == (200, True)


@pytest.mark.parametrize(
    "caller",
    [None, STRANGER.sign("caller"), AUTHORITY.sign("caller", expires_days=-0.5)],
    ids=["no certificate", "of a stranger", "expired"],
)
def test_a_caller_without_a_certificate_that_holds_is_not_answered(
    caller: Pair | None, mutual: Served
) -> None:
    with channel(mutual, caller=caller) as connection, pytest.raises(grpc.RpcError) as raised:
        label(connection)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(OSError, match=r"(?i)alert|reset|pipe|eof|closed"):
        get(mutual, "/livez", context(mutual.folder, caller=caller))


def test_authorities_of_callers_change_without_restart(mutual: Served) -> None:
    ca = mutual.folder / "ca.pem"
    stranger = STRANGER.sign("caller")
    ca.write_bytes(STRANGER.certificate)
    try:
        assert get(mutual, "/livez", context(mutual.folder, caller=stranger))[0] == 200
        with channel(mutual, caller=stranger) as connection:
            assert label(connection) == "red"
        with channel(mutual, caller=CALLER) as connection, pytest.raises(grpc.RpcError):
            label(connection)
        with pytest.raises(OSError, match=r"(?i)alert|reset|pipe|eof|closed"):
            get(mutual, "/livez", context(mutual.folder, caller=CALLER))
    finally:
        ca.write_bytes(AUTHORITY.certificate)


def checked(served: Served, **environment: str) -> int:
    """What the image's health check exits with."""
    lines = (ROOT / "server" / "Dockerfile").read_text().replace("\\\n", "")
    found = re.search(r"HEALTHCHECK .* CMD (\[.*\])$", lines, re.MULTILINE)
    assert found is not None
    arguments = [sys.executable, *json.loads(found[1])[1:]]
    port = served.process.http_url.rpartition(":")[2]
    environment = {"RETINUE_HTTP_PORT": port, **environment}
    return subprocess.run(arguments, env=environment, capture_output=True, check=False).returncode


def test_the_images_health_check_speaks_tls(served: Served) -> None:
    assert checked(served, RETINUE_TLS_CERTIFICATE="server.pem") == 0
    assert checked(served) == 1


def test_the_images_health_check_shows_a_certificate_where_it_has_one(mutual: Served) -> None:
    certificate, key = map(str, CALLER.write(mutual.folder / "probe"))
    pair = {"RETINUE_CLIENT_CERTIFICATE": certificate, "RETINUE_CLIENT_KEY": key}
    assert checked(mutual, RETINUE_TLS_CERTIFICATE="server.pem", **pair) == 0
    assert checked(mutual, RETINUE_TLS_CERTIFICATE="server.pem") == 1


def test_the_way_between_processes_is_this_users_alone(mutual: Served) -> None:
    sockets = [
        Path(one.laddr)
        for child in psutil.Process(mutual.process.process.pid).children()
        for one in child.net_connections("unix")
        if str(one.laddr).endswith(".sock")
    ]
    for one in sockets:
        assert one.parent.stat().st_mode & 0o077 == 0
    workers = len(psutil.Process(mutual.process.process.pid).children())
    assert len({one for one in sockets}) == workers


def test_the_way_between_processes_outlives_one_and_leaves_nothing(
    colour_models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    certificate, key = SERVER.write(tmp_path)
    flags = ("--workers", "1", "--tls-certificate", str(certificate), "--tls-key", str(key))
    with running_server(colour_models, *flags, environment={"TMPDIR": str(folder)}) as server:
        assert [one.name.startswith("retinue-") for one in folder.iterdir()] == [True]
        one = Served(server, tmp_path)
        assert get(one, "/v1/models", context(tmp_path))[0] == 200
        (front_end,) = psutil.Process(server.process.pid).children()
        front_end.kill()
        server.wait_for_event("worker_died")
        wait_until(lambda: get(one, "/v1/models", context(tmp_path))[0] == 200, "the next front-end")
        assert server.terminate() == 0
    assert list(folder.iterdir()) == []


def test_a_server_does_not_start_with_a_pair_that_does_not_fit(colour_models: Path, tmp_path: Path) -> None:
    certificate, key = Pair(SERVER.certificate, CALLER.key).write(tmp_path)
    flags = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    assert "is not the key of" in told_why("--models", str(colour_models), *flags)
    assert "need each other" in told_why("--models", str(colour_models), *flags[:2])


def test_idle_connections_at_the_end_are_no_errors(colour_models: Path, tmp_path: Path) -> None:
    """To end a connection under TLS waits for the other side, which need not listen."""
    with encrypted(colour_models, tmp_path) as served:
        host, _, port = served.process.http_url.partition("//")[2].partition(":")
        kept = http.client.HTTPSConnection(host, int(port), context=context(tmp_path))
        kept.request("GET", "/livez")
        assert kept.getresponse().read() is not None
        assert served.process.terminate() == 0
        kept.close()
        assert [event for event in served.process.events if event["level"] == "error"] == []
