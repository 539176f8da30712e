"""The bodies of HTTP requests: read no further than the limits, and unpacked no further either."""

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from retinue_server.errors import InvalidRequestError
from retinue_server.rpc.budget import Holding
from retinue_server.rpc.interceptor import check_size

# What is unpacked before it is counted.
_STEP_BYTES = 4 * 1024 * 1024
_UNPACKED = frozenset({"", "identity"})
_PACKED = frozenset({"gzip", "deflate"})
# zlib finds out which of the two it is. Source: zlib's manual, inflateInit2.
_EITHER_FORMAT = 32 + zlib.MAX_WBITS


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
    packing = request.headers.get("content-encoding", "").strip().lower()
    if packing not in _UNPACKED | _PACKED:
        raise InvalidRequestError(
            f"the body is packed as '{packing[:32]}'; send it as gzip or deflate, or as it is.",
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
    if packing in _PACKED:
        return bytes(await _unpacked(bytes(body), holding, max_bytes))
    return bytes(body)


async def _unpacked(packed: bytes, holding: Holding, max_bytes: int) -> bytearray:
    unpacker = zlib.decompressobj(_EITHER_FORMAT)
    unpacked, rest = bytearray(), packed
    while not unpacker.eof:
        try:
            step = await asyncio.to_thread(unpacker.decompress, rest, _STEP_BYTES)
        except zlib.error:
            raise _badly_packed() from None
        rest = unpacker.unconsumed_tail
        if not step and not rest and not unpacker.eof:
            raise _badly_packed()
        unpacked += step
        if len(unpacked) > max_bytes:
            raise InvalidRequestError(
                f"the body has more than {max_bytes} bytes when it is unpacked; send smaller or fewer images.",
                reason="REQUEST_TOO_LARGE",
            )
        holding.hold_request(len(packed) + len(unpacked))
    if unpacker.unused_data:
        raise _badly_packed()
    holding.hold_request(len(unpacked))
    return unpacked


def _badly_packed() -> InvalidRequestError:
    return InvalidRequestError(
        "the body is not packed as its header says, or does not end where what is packed in it ends.",
        reason="CONTENT_ENCODING_INVALID",
    )
