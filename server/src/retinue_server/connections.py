"""Connections: how many there may be, how long they live, and how those are found that nobody is behind any more."""

import resource
import socket
from contextlib import suppress
from dataclasses import dataclass

from retinue_server.settings import Settings

# For models, the log, sockets that listen, and what libraries open.
_OTHER_FILES = 128
_PORTS = 2
_HEAD_TO_METADATA = 4
_MILLISECONDS = 1000
# gRPC's own. More of them in a row and a caller is told to calm down.
_PING_STRIKES = 2
# Without any it would refuse pings of connections without calls that come sooner than after two hours.
_YES = 1
_NEVER = 2**31 - 1
_PROBES = 3
# Source: MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL of Linux's tcp.h.
_LONGEST_PROBE_SECONDS = 32_767


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What both ports allow connections.

    Attributes:
        most: Of each port.
        age_seconds: When one takes no more requests; 0 for never.
        grace_seconds: How long its requests may go on then.
        idle_seconds: When one without a request is closed.
        arrival_seconds: How long the head of a request, its body, and the reading of a piece of its reply may take.
        keepalive_seconds: After how long a silence the other side is asked whether it is there.
        keepalive_timeout_seconds: How long it may take to say so.
        ping_seconds: How often the other side may ask.
        metadata_bytes: What may come beside a request over gRPC.
        head_bytes: What the head of one over HTTP may have.
    """

    most: int = 4096
    age_seconds: int = 0
    grace_seconds: int = 0
    idle_seconds: int = 300
    arrival_seconds: float = 60
    keepalive_seconds: int = 60
    keepalive_timeout_seconds: int = 20
    ping_seconds: int = 10
    metadata_bytes: int = 16 * 1024
    head_bytes: int = 64 * 1024

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        """Those that are set, and no more connections than there are file descriptors for."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = max((files - _OTHER_FILES) // _PORTS, 1)
        return cls(
            min(settings.max_connections, room),
            settings.max_connection_age_seconds,
            settings.max_connection_age_grace_seconds,
            settings.max_connection_idle_seconds,
            settings.arrival_timeout_seconds,
            settings.keepalive_seconds,
            settings.keepalive_timeout_seconds,
            settings.min_ping_seconds,
            settings.max_metadata_bytes,
            _HEAD_TO_METADATA * settings.max_metadata_bytes,
        )

    def grpc_options(self) -> list[tuple[str, int]]:
        """As the grpc library reads them."""
        age_ms = self.age_seconds * _MILLISECONDS or _NEVER
        return [
            ("grpc.max_allowed_incoming_connections", self.most),
            ("grpc.max_connection_age_ms", age_ms),
            ("grpc.max_connection_age_grace_ms", self.grace_seconds * _MILLISECONDS),
            ("grpc.max_connection_idle_ms", self.idle_seconds * _MILLISECONDS),
            ("grpc.server_handshake_timeout_ms", int(self.arrival_seconds * _MILLISECONDS)),
            ("grpc.keepalive_time_ms", self.keepalive_seconds * _MILLISECONDS),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout_seconds * _MILLISECONDS),
            ("grpc.keepalive_permit_without_calls", _YES),
            ("grpc.http2.min_ping_interval_without_data_ms", self.ping_seconds * _MILLISECONDS),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", self.ping_seconds * _MILLISECONDS),
            ("grpc.http2.max_ping_strikes", _PING_STRIKES),
            # What lies between the two is refused at random.
            ("grpc.max_metadata_size", self.metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.metadata_bytes),
        ]

    def watch(self, one: socket.socket) -> None:
        """Has the system ask whether the other side of a TCP connection is there, and give up where it is not."""
        probe_seconds = -(-self.keepalive_timeout_seconds // _PROBES)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        one.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, min(self.keepalive_seconds, _LONGEST_PROBE_SECONDS)
        )
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, min(probe_seconds, _LONGEST_PROBE_SECONDS))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        # Of a reply that nobody acknowledges, too, which the system would send again for a quarter of an hour.
        timeout_seconds = self.keepalive_seconds + self.keepalive_timeout_seconds
        one.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(timeout_seconds * _MILLISECONDS, _NEVER)
        )


def allow_files() -> None:
    """Raises the number of files this process may open to the most that it may raise it to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # a system may have a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
