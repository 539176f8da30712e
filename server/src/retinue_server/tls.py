"""Who the server is, and whom it asks who they are: PEM files that are read again when they change."""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from retinue_server.errors import StartupError
from retinue_server.followed import Followed, bounded_bytes
from retinue_server.settings import Settings

# A chain of certificates has some thousand bytes, a bundle of all public authorities a quarter of this.
_MOST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """What the files held when they were read, all of one moment.

    Attributes:
        chain: The server's certificate and those between it and its authority, PEM.
        key: Its private key, PEM.
        client_ca: The authorities of callers' certificates, PEM; empty where callers need none.
        expires_unix_seconds: When the server's certificate does.
        context: The same for Python's connections.
    """

    chain: bytes
    key: bytes
    client_ca: bytes
    expires_unix_seconds: float
    context: ssl.SSLContext


class IdentityFiles:
    """The files of the server's identity. Any thread may ask for what they hold now.

    They are looked at whenever that is asked for, which is with each new connection, so that nothing need watch them.

    Args:
        certificate: The server's certificate, with those between it and its authority, PEM.
        key: Its private key, PEM.
        client_ca: The authorities of callers' certificates, PEM; None asks callers for none.
        clock: Unix time.

    Raises:
        StartupError: A file cannot be read, or they do not fit each other, or the certificate is not valid now.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._clock = clock
        paths = [certificate, key] + ([client_ca] if client_ca else [])
        self._files = Followed("tls_files", paths, self._read, clock)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Those that the settings name; None where connections are not encrypted.

        Raises:
            StartupError: As above, or one is named without another that it needs.
        """
        certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        if not (certificate or key or client_ca):
            return None
        if not (certificate and key):
            raise StartupError(
                "--tls-certificate and --tls-key need each other, and --tls-client-ca needs both; name all of them."
            )
        return cls(Path(certificate), Path(key), Path(client_ca) if client_ca else None)

    def current(self) -> Identity:
        """What the files hold now, or what they held before where that cannot be used, which is logged once."""
        return self._files.current()

    def following_context(self) -> ssl.SSLContext:
        """A context for a server's socket, of which each new connection begins with what the files hold then."""
        context = _FollowingContext(ssl.PROTOCOL_TLS_SERVER)
        context.current = self.current
        return context

    def _read(self) -> Identity:
        chain = bounded_bytes("--tls-certificate", self._certificate, _MOST_BYTES)
        key = bounded_bytes("--tls-key", self._key, _MOST_BYTES)
        expires = self._check(chain, key)
        client_ca = b""
        if self._client_ca:
            client_ca = bounded_bytes("--tls-client-ca", self._client_ca, _MOST_BYTES)
            _certificates("--tls-client-ca", self._client_ca, client_ca)
        return Identity(chain, key, client_ca, expires, self._context(client_ca))

    def _check(self, chain: bytes, key: bytes) -> float:
        """Refuses a certificate that nobody would accept; returns when it expires."""
        leaf = _certificates("--tls-certificate", self._certificate, chain)[0]
        try:
            fits = load_pem_private_key(key, None).public_key() == leaf.public_key()
        except TypeError as error:
            raise StartupError(
                f"--tls-key '{self._key}' is encrypted, and nobody is there to ask; give one without a password."
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise StartupError(f"--tls-key '{self._key}' is no private key in PEM.") from error
        if not fits:
            raise StartupError(
                f"--tls-key '{self._key}' is not the key of the first certificate in '{self._certificate}'."
            )
        begins, expires = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        if expires <= self._clock():
            raise StartupError(f"--tls-certificate '{self._certificate}' expired at {_shown(expires)}.")
        if begins > self._clock():
            raise StartupError(
                f"--tls-certificate '{self._certificate}' is valid only from {_shown(begins)}."
            )
        return expires

    def _context(self, client_ca: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._certificate, self._key)
            if client_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=client_ca.decode())
        except (OSError, ValueError) as error:
            # An ssl.SSLError is an OSError.
            raise StartupError(
                f"--tls-certificate '{self._certificate}' cannot be used: {getattr(error, 'reason', None) or error}."
            ) from error
        return context


class _FollowingContext(ssl.SSLContext):
    """Event loops ask it for each connection's encryption, and it asks what holds now."""

    current: Callable[[], Identity]

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return self.current().context.wrap_bio(*arguments, **options)


def _certificates(flag: str, path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise StartupError(f"{flag} '{path}' has no certificate in PEM that can be read.") from error


def _shown(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="seconds")
