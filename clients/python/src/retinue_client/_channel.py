"""How both clients connect, and what they limit where the caller does not say."""

from ipaddress import ip_address
from urllib.parse import urlsplit

DEFAULT_TIMEOUT_SECONDS = 60.0
DEFAULT_MAX_REQUEST_IMAGES = 32
DEFAULT_MAX_REQUEST_BYTES = 16 << 20
# One request is computed while the next is read and sent.
REQUESTS_IN_FLIGHT = 2

# gRPC counts nanoseconds since 1970 in 64 bits, and takes a deadline beyond them for one that has passed.
_LONGEST_DEADLINE_SECONDS = 1e9

# Class maps of large images are large, and what may be sent is the server's to say. gRPC's own longest wait
# before it connects again is two minutes, which is longer than a server takes to start.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
# https://github.com/grpc/grpc/blob/master/doc/naming.md
_SCHEMES_OF_HOSTS = ("dns", "ipv4", "ipv6")
_SCHEMES_OF_SOCKETS = ("unix:", "unix-abstract:")


def channel_options(address: str) -> tuple[tuple[str, int], ...]:
    """GRPC's options of a channel to `address`, a target as `resolve_address` gives it.

    A server of this machine is never asked through the proxy that `http_proxy` names, which would not find it.
    """
    return (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if _is_loopback(address) else _OPTIONS


def is_local(address: str) -> bool:
    """Whether what is sent to `address` stays on this machine."""
    return address.startswith(_SCHEMES_OF_SOCKETS) or _is_loopback(address)


def _is_loopback(address: str) -> bool:
    scheme, _, rest = address.partition(":")
    # Such as dns://AUTHORITY/HOST:PORT, where only the host matters.
    target = rest.rpartition("/")[2] if scheme in _SCHEMES_OF_HOSTS else address
    try:
        host = urlsplit(f"//{target}").hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def deadline_seconds(timeout_seconds: float | None) -> float | None:
    """The timeout as gRPC takes it: one of decades, or an infinite one, is none."""
    endless = timeout_seconds is not None and timeout_seconds > _LONGEST_DEADLINE_SECONDS
    return None if endless else timeout_seconds
