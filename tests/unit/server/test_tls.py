import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs
from tests.certificates import Authority, Pair

from retinue_server.errors import StartupError
from retinue_server.settings import Settings
from retinue_server.tls import IdentityFiles

AUTHORITY = Authority()
FIRST, SECOND = AUTHORITY.sign(), AUTHORITY.sign()


class Clock:
    """Unix time, moved by hand."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def files(folder: Path, pair: Pair, clock: Clock | None = None) -> IdentityFiles:
    return IdentityFiles(*pair.write(folder), clock=clock or Clock())


def test_what_the_files_hold_is_used(tmp_path: Path) -> None:
    identity = files(tmp_path, FIRST).current()
    assert (identity.chain, identity.key, identity.client_ca) == (FIRST.certificate, FIRST.key, b"")
    expires = x509.load_pem_x509_certificate(FIRST.certificate).not_valid_after_utc
    assert identity.expires_unix_seconds == expires.timestamp()


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    held = files(tmp_path, FIRST)
    assert held.current() is held.current()


def test_a_new_pair_is_taken_up(tmp_path: Path) -> None:
    held = files(tmp_path, FIRST)
    SECOND.write(tmp_path)
    with capture_logs() as events:
        assert held.current().chain == SECOND.certificate
        held.current()
    assert [event["event"] for event in events] == ["tls_files_read"]


def test_half_of_a_new_pair_changes_nothing_until_the_other_half_is_there(tmp_path: Path) -> None:
    clock = Clock()
    held = files(tmp_path, FIRST, clock)
    (tmp_path / "server.pem").write_bytes(SECOND.certificate)
    with capture_logs() as events:
        for _ in range(3):
            assert held.current().chain == FIRST.certificate
            clock.now += 2
    assert [event["event"] for event in events] == ["tls_files_refused"]
    assert "is not the key of the first certificate" in events[0]["reason"]
    (tmp_path / "server.key").write_bytes(SECOND.key)
    assert held.current().chain == SECOND.certificate


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
def test_files_that_go_change_nothing(name: str, tmp_path: Path) -> None:
    held = files(tmp_path, FIRST)
    (tmp_path / name).unlink()
    assert held.current().chain == FIRST.certificate


def test_a_certificate_of_tomorrow_is_taken_up_tomorrow(tmp_path: Path) -> None:
    clock = Clock()
    held = files(tmp_path, FIRST, clock)
    tomorrow = AUTHORITY.sign(begins_days=0.5)
    tomorrow.write(tmp_path)
    assert held.current().chain == FIRST.certificate
    clock.now += 86400
    assert held.current().chain == tomorrow.certificate


def test_other_authorities_of_callers_are_taken_up(tmp_path: Path) -> None:
    certificate, key = FIRST.write(tmp_path)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(AUTHORITY.certificate)
    held = IdentityFiles(certificate, key, ca)
    assert held.current().client_ca == AUTHORITY.certificate
    other = Authority("another").certificate
    ca.write_bytes(other)
    assert held.current().client_ca == other
    ca.write_bytes(b"nothing")
    assert held.current().client_ca == other


def encrypted(pair: Pair) -> bytes:
    return serialization.load_pem_private_key(pair.key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (Pair(FIRST.certificate, SECOND.key), "is not the key of the first certificate in"),
        (AUTHORITY.sign(expires_days=-0.5), "expired at 20"),
        (AUTHORITY.sign(begins_days=0.5), "is valid only from 20"),
        (Pair(b"nothing", FIRST.key), "has no certificate in PEM"),
        (Pair(FIRST.certificate, b"nothing"), "is no private key in PEM"),
        (Pair(FIRST.certificate, encrypted(FIRST)), "is encrypted, and nobody is there to ask"),
        (Pair(b"#" * (1 << 20) + b"\n", FIRST.key), "has more than 1048576 bytes"),
    ],
)
def test_what_nobody_would_accept_is_refused_at_the_start(pair: Pair, why: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=why) as raised:
        files(tmp_path, pair)
    assert raised.value.message.endswith(".")
    assert "\n" not in raised.value.message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    certificate, key = FIRST.write(tmp_path)
    with pytest.raises(StartupError, match=r"cannot read --tls-client-ca .*: No such file"):
        IdentityFiles(certificate, key, tmp_path / "nowhere.pem")
    key.unlink()
    with pytest.raises(StartupError, match=r"cannot read --tls-key .*: No such file"):
        IdentityFiles(certificate, key)


def test_settings_name_all_or_nothing(tmp_path: Path) -> None:
    assert IdentityFiles.of(Settings()) is None
    certificate, key = map(str, FIRST.write(tmp_path))
    assert IdentityFiles.of(Settings(tls_certificate=certificate, tls_key=key)) is not None
    for some in ({"tls_certificate": certificate}, {"tls_key": key}, {"tls_client_ca": certificate}):
        with pytest.raises(StartupError, match="need each other"):
            IdentityFiles.of(Settings(**some))
