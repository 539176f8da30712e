"""How a connection is encrypted, and what says who calls."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from retinue_client._channel import Options, channel_options, is_local

TOKEN_VARIABLE = "RETINUE_TOKEN"
CA_VARIABLE = "RETINUE_TLS_CA"
# Names without TLS, since RETINUE_TLS_CERTIFICATE and RETINUE_TLS_KEY are the server's.
CERTIFICATE_VARIABLE = "RETINUE_CLIENT_CERTIFICATE"
KEY_VARIABLE = "RETINUE_CLIENT_KEY"
# As an authority: those that gRPC brings.
PUBLIC = "public"

_Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to a server: which certificates it may show, and which is shown to it.

    Attributes:
        ca: PEM file of the authorities that may have signed the server's certificate. None means the public ones, as
            gRPC brings them.
        certificate: PEM file of the client's own certificate, for a server that wants one.
        key: PEM file of its private key.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Security:
    """What `Tls` and a token come to, read once, for any number of connections; processes may be handed it.

    Attributes:
        encrypted: Whether connections are.
        ca: The authorities, PEM, or None for the public ones.
        certificate: The client's, PEM, or None.
        key: Its private key, PEM, or None.
        token: What says who calls; empty for nothing.
    """

    encrypted: bool = False
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str = ""

    @classmethod
    def resolve(cls, address: str, tls: Tls | None, token: str | None) -> "Security":
        """Reads what is given, or what the environment names instead.

        Args:
            address: The target, as `resolve_address` gives it.
            tls: None means what RETINUE_TLS_CA and the other variables say.
            token: None means what RETINUE_TOKEN says.

        Raises:
            ValueError: A file cannot be read, a certificate has no key, the token is none, or others could read it on
                its way.
        """
        tls = _tls_of_environment() if tls is None else tls
        token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ValueError("The token has characters that none has: it is printable ASCII without spaces.")
        if token and tls is None and not is_local(address):
            raise ValueError(
                f"The token is not sent to {address} without TLS, since others could read it on its way: name the "
                f"authority of the server's certificate, with tls, --tls-ca or {CA_VARIABLE}."
            )
        if tls is None:
            return cls(token=token)
        if (tls.certificate is None) != (tls.key is None):
            raise ValueError("A client's certificate and its private key need each other; name both.")
        ca, certificate, key = (
            None if path is None else _content(path) for path in (tls.ca, tls.certificate, tls.key)
        )
        return cls(True, ca, certificate, key, token)

    @property
    def metadata(self) -> _Metadata:
        """What goes beside each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel(self, address: str, options: Options = ()) -> grpc.Channel:
        """A connection to `address`, with these of gRPC's options besides the usual ones."""
        options = (*channel_options(address), *options)
        if not self.encrypted:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, self._credentials(), options=options)

    def aio_channel(self, address: str, options: Options = ()) -> grpc.aio.Channel:
        """The same for asyncio."""
        options = (*channel_options(address), *options)
        if not self.encrypted:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, self._credentials(), options=options)

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


# No encryption, and nobody in particular.
PLAIN = Security()


def _tls_of_environment() -> Tls | None:
    ca, certificate, key = (
        os.environ.get(name) or None for name in (CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE)
    )
    if ca is None and certificate is None and key is None:
        return None
    return Tls(None if ca == PUBLIC else ca, certificate, key)


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as exc:
        raise ValueError(f"{os.fspath(path)!r} cannot be read: {exc.strerror}.") from exc
    # gRPC would only say that it has failed, and only in its own log.
    if b"-----BEGIN " not in content:
        raise ValueError(f"{os.fspath(path)!r} is no PEM file.")
    return content
