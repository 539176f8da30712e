"""The gRPC port, for one process or for several that share it."""

import errno
import socket
from tempfile import TemporaryDirectory

from retinue_server.errors import StartupError

# An address has 108 bytes, of which the socket's name takes up to eight, and one ends it. Source: unix(7).
_LONGEST_FOLDER = 99


def address(host: str, port: int) -> str:
    """As the grpc library reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(host: str, port: int) -> StartupError:
    """What a server says that does not get its port."""
    return StartupError(
        f"cannot listen on {address(host, port)}: the port is in use or the address is not this machine's; "
        "choose others with --grpc-port and --host."
    )


class SharedPort:
    """A port that several processes of this user may listen on: it is kept for them, and nothing listens here itself.

    Sockets that share a port must all say so (SO_REUSEPORT). But two servers of which each shares its own would quietly
    divide the calls, so whether anybody listens there is tried first, without sharing.

    Args:
        host: Address to listen on.
        port: Port, 0 for a free one.

    Attributes:
        port: The port.

    Raises:
        StartupError: It is taken, or the address is not this machine's.
    """

    def __init__(self, host: str, port: int) -> None:
        self._sockets: list[socket.socket] = []
        self.port = port
        missing: OSError | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, where in found:
                try:
                    self._keep(family, where[0])
                except OSError as error:
                    # A name may have addresses of kinds that this machine does not use.
                    if error.errno == errno.EADDRINUSE:
                        raise
                    missing = error
            if not self._sockets:
                raise missing or OSError(f"{host} has no address")
        except OSError as error:
            self.close()
            raise cannot_listen(host, port) from error

    def close(self) -> None:
        """Gives the port back."""
        for one in self._sockets:
            one.close()

    def _keep(self, family: int, where: str | int) -> None:
        with _bound(family, (where, self.port)) as alone:
            # Two sockets may be bound to one port before either listens.
            alone.listen(1)
            self.port = int(alone.getsockname()[1])
        self._sockets.append(_bound(family, (where, self.port), shared=True))


class PrivateSockets:
    """Addresses that only this user's processes reach: sockets in a folder that nobody else may enter.

    Raises:
        StartupError: There can be no such folder, or its name is too long for an address.
    """

    def __init__(self) -> None:
        try:
            self._folder = TemporaryDirectory(prefix="retinue-")
        except OSError as error:
            raise StartupError(
                f"--workers needs a folder for sockets, and none can be made: {error.strerror}; name one with TMPDIR."
            ) from error
        if len(self._folder.name) > _LONGEST_FOLDER:
            self.close()
            raise StartupError(
                f"--workers has sockets in the folder for temporary files, whose name may have {_LONGEST_FOLDER} "
                "characters; name a shorter one with TMPDIR."
            )

    def address(self, number: int) -> str:
        """One of them, as the grpc library reads it."""
        return f"unix:{self._folder.name}/{number}.sock"

    def close(self) -> None:
        """Removes them."""
        self._folder.cleanup()


def _bound(family: int, where: tuple[str | int, int], *, shared: bool = False) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(where)
    except OSError:
        one.close()
        raise
    return one
