"""The bodies of HTTP requests: read no further than the limits, and unpacked no further either."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from retinue_server.errors import InvalidRequestError
from retinue_server.rpc import packing
from retinue_server.rpc.budget import Holding
from retinue_server.rpc.interceptor import check_size

_UNPACKED = frozenset({"", "identity"})
_PACKED = frozenset({"gzip", "deflate"})


class CallerLeft(asyncio.CancelledError):
    """The connection was closed before the answer was there."""


async def read(request: Request, holding: Holding, max_bytes: int, timeout_seconds: float) -> bytes:
    """Reads the body of a request.

    Args:
        request: Whose.
        holding: Counts the bytes as they come.
        max_bytes: The most that are taken, also when they are unpacked.
        timeout_seconds: How long they may take: whoever sends slower holds memory for nothing.

    Raises:
        InvalidRequestError: There are more, they come too slowly, or are packed in a way that is not known here.
        OverloadedError: Other calls hold too many.
        CallerLeft: The caller has.
    """
    packed_as = request.headers.get("content-encoding", "").strip().lower()
    if packed_as not in _UNPACKED | _PACKED:
        raise InvalidRequestError(
            f"the body is packed as '{packed_as[:32]}'; send it as gzip or deflate, or as it is.",
            reason="CONTENT_ENCODING_UNKNOWN",
        )
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit():
        check_size(int(declared), max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_seconds):
            async for piece in request.stream():
                body += piece
                check_size(len(body), max_bytes)
                holding.hold_request(len(body))
    except ClientDisconnect:
        raise CallerLeft from None
    except TimeoutError:
        raise InvalidRequestError(
            f"the body was not there after {timeout_seconds:g} s; send it in one go.", reason="BODY_TOO_SLOW"
        ) from None
    if packed_as in _PACKED:
        return await packing.unpacked(bytes(body), holding.hold_request, max_bytes)
    return bytes(body)
