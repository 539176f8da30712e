"""Where the server is, or where several are."""

import os
from collections.abc import Sequence

DEFAULT_ADDRESS = "localhost:8001"
DEFAULT_PORT = 8001
ADDRESS_VARIABLE = "RETINUE_SERVER"

# gRPC's own schemes (https://github.com/grpc/grpc/blob/master/doc/naming.md), handed on as they are.
_GRPC_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:")
# These have lists of their own.
_LISTING_SCHEMES = ("ipv4:", "ipv6:")


def resolve_address(address: str | Sequence[str] | None) -> str:
    """The address to connect to, or several, separated by commas.

    Args:
        address: "HOST:PORT", "HOST" for port 8001, "[IPv6]:PORT" or a gRPC target such as "unix:/run/a.sock"; several,
            separated by commas, or as a sequence. None means what the environment variable RETINUE_SERVER says, or
            localhost:8001.

    Raises:
        ValueError: It is no address; the message says what one looks like.
    """
    if address is None:
        address = os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    given = [address] if isinstance(address, str) else list(address)
    if not given:
        raise ValueError(f"There is no address: one is written HOST:PORT, such as {DEFAULT_ADDRESS}.")
    # What is given twice is one server all the same.
    found = list(dict.fromkeys(_resolved(one) for text in given for one in split_addresses(text)))
    lists = [one for one in found if one.startswith(_LISTING_SCHEMES)]
    # To gRPC, what follows would be addresses of the same list.
    if lists and len(found) > 1:
        raise ValueError(
            f"{lists[0]!r} is a list of gRPC's own, which stands alone: write each address for itself and without the "
            "scheme, such as 10.0.0.7:8001."
        )
    return ",".join(found)


def split_addresses(text: str) -> list[str]:
    """The addresses in what `resolve_address` takes or gives, each for itself; a list of gRPC's own is one."""
    text = text.strip()
    return [text] if text.startswith(_LISTING_SCHEMES) else text.split(",")


def first_address(text: str) -> str:
    """The first of the addresses in what `resolve_address` gives, also of those of a list of gRPC's own."""
    return split_addresses(text)[0].partition(",")[0]


def _resolved(address: str) -> str:
    address = address.strip()
    if address.startswith(_GRPC_SCHEMES):
        return address
    if "://" in address or "/" in address:
        raise ValueError(
            f"{address!r} is no gRPC address: it is written HOST:PORT, such as {DEFAULT_ADDRESS}, "
            "without a scheme and without a path."
        )
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(DEFAULT_PORT)
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is no address: it is written HOST:PORT, such as {DEFAULT_ADDRESS}.")
    if ":" in host and not host.startswith("["):
        raise ValueError(f"{address!r} is ambiguous: write an IPv6 address in brackets, such as [::1]:8001.")
    return f"{host}:{port}"
