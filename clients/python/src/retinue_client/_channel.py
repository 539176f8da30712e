"""How both clients connect, and what they limit where the caller does not say."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias
from urllib.parse import urlsplit

from retinue_client._address import split_addresses

DEFAULT_TIMEOUT_SECONDS = 60.0
DEFAULT_MAX_REQUEST_IMAGES = 32
DEFAULT_MAX_REQUEST_BYTES = 16 << 20
# One request is computed while the next is read and sent.
REQUESTS_IN_FLIGHT = 2

Options: TypeAlias = tuple[tuple[str, int | str], ...]

# gRPC counts nanoseconds since 1970 in 64 bits, and takes a deadline beyond them for one that has passed.
_LONGEST_DEADLINE_SECONDS = 1e9

# Class maps of large images are large, and what may be sent is the server's to say. gRPC's own longest wait
# before it connects again is two minutes, which is longer than a server takes to start.
_OPTIONS: Options = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A server that vanished without a word, its machine with it, would otherwise be waited for as long as TCP does,
    # which is a quarter of an hour. Servers allow a ping every 10 seconds (--min-ping-seconds).
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
# Each server in turn, of those that say that they are ready: one that drains says so here, and is called no more before
# it closes its connections. Source: gRFC A17 (client-side health checking), gRPC's service_config.proto.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
}
_BALANCING: Options = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A name is asked for again when a connection ends. gRPC would do so every 30 seconds at most, in which time all
    # servers of a name may have been replaced, one after the other.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)
# https://github.com/grpc/grpc/blob/master/doc/naming.md
_SCHEMES_OF_HOSTS = ("dns", "ipv4", "ipv6")
_SCHEMES_OF_SOCKETS = ("unix:", "unix-abstract:")


@dataclass(frozen=True, slots=True)
class Target:
    """What one channel leads to.

    Attributes:
        address: As people are told.
        name: As gRPC takes it.
        balanced: Whether there are, or may be, others that do the same.
    """

    address: str
    name: str
    balanced: bool

    @property
    def options(self) -> Options:
        """What gRPC is told of the channel, besides `channel_options`."""
        return _BALANCING if self.balanced else ()


def targets(address: str, *, apart: bool) -> list[Target]:
    """The channels that lead to an address, or to several, as `resolve_address` gives them.

    gRPC itself balances over the addresses of a name, and over several IP addresses. It has no target for several
    names, so these have a channel each.

    Args:
        address: Where the servers are.
        apart: Whether IP addresses have a channel each, too.
    """
    given = split_addresses(address)
    if len(given) == 1:
        return [Target(address, address, _may_be_several(address))]
    for scheme, kind in (("ipv4", IPv4Address), ("ipv6", IPv6Address)):
        if not apart and all(isinstance(_ip(one), kind) for one in given):
            return [Target(address, f"{scheme}:{address}", balanced=True)]
    return [Target(one, one, balanced=True) for one in given]


def channel_options(address: str) -> Options:
    """GRPC's options of a channel to `address`, a target.

    A server of this machine is never asked through the proxy that `http_proxy` names, which would not find it.
    """
    return (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if _all(_is_loopback, address) else _OPTIONS


def is_local(address: str) -> bool:
    """Whether what is sent to `address`, or to any of several, stays on this machine."""
    return _all(lambda one: one.startswith(_SCHEMES_OF_SOCKETS) or _is_loopback(one), address)


def _all(holds: Callable[[str], bool], address: str) -> bool:
    scheme, _, listed = address.partition(":")
    # gRPC's lists have the scheme once, before the first.
    hosts = listed if scheme in ("ipv4", "ipv6") else address
    return all(holds(one) for one in hosts.split(","))


def _is_loopback(address: str) -> bool:
    host = _host(address)
    found = _ip(address)
    return host == "localhost" or (found is not None and found.is_loopback)


def _may_be_several(address: str) -> bool:
    """Whether one address can lead to more than one server."""
    if address.startswith(_SCHEMES_OF_SOCKETS) or address.startswith("vsock:"):
        return False
    return "," in address or not (_ip(address) or _host(address) == "localhost")


def _ip(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(_host(address))
    except ValueError:
        return None


def _host(address: str) -> str:
    """The host of HOST:PORT, of [IPv6]:PORT or of a target of gRPC; empty where there is none."""
    scheme, _, rest = address.partition(":")
    # Such as dns://AUTHORITY/HOST:PORT, where only the host matters.
    target = rest.rpartition("/")[2] if scheme in _SCHEMES_OF_HOSTS else address
    try:
        return urlsplit(f"//{target}").hostname or ""
    except ValueError:
        return ""


def deadline_seconds(timeout_seconds: float | None) -> float | None:
    """The timeout as gRPC takes it: one of decades, or an infinite one, is none."""
    endless = timeout_seconds is not None and timeout_seconds > _LONGEST_DEADLINE_SECONDS
    return None if endless else timeout_seconds
