"""Requests that come packed: unpacked no further than the limits, and counted as they grow.

gRPC would unpack a message as soon as it is there, in as many calls at once as there are, before anybody could count
it. So it is told to leave that to us.
"""

import asyncio
import zlib
from collections.abc import Callable

from retinue_server.errors import InvalidRequestError

# gzip's and zlib's first bytes. No message of ours begins so: the one is no protobuf, the other field 15 as a number.
# Source: RFC 1952, section 2.3.1, and RFC 1950, section 2.2, with the largest window, which gRPC uses.
_STARTS = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
# What is unpacked before it is counted.
_STEP_BYTES = 4 * 1024 * 1024
# zlib finds out which of the two it is. Source: zlib's manual, inflateInit2.
_EITHER_FORMAT = 32 + zlib.MAX_WBITS


def is_packed(message: bytes) -> bool:
    """Whether a message of gRPC is packed; nothing else of it says so to us."""
    return message.startswith(_STARTS)


async def unpacked(packed: bytes, hold: Callable[[int], None], max_bytes: int) -> bytes:
    """Unpacks gzip or deflate, in a thread.

    Args:
        packed: That.
        hold: Counts the bytes that are held, of both.
        max_bytes: The most that are unpacked.

    Raises:
        InvalidRequestError: It is neither, ends too early or late, or has more in it.
        OverloadedError: Other calls hold too many.
    """
    unpacker = zlib.decompressobj(_EITHER_FORMAT)
    made, rest = bytearray(), packed
    while not unpacker.eof:
        try:
            step = await asyncio.to_thread(unpacker.decompress, rest, _STEP_BYTES)
        except zlib.error:
            raise _badly_packed() from None
        rest = unpacker.unconsumed_tail
        if not step and not rest and not unpacker.eof:
            raise _badly_packed()
        made += step
        if len(made) > max_bytes:
            raise InvalidRequestError(
                f"the body has more than {max_bytes} bytes when it is unpacked; send smaller or fewer images.",
                reason="REQUEST_TOO_LARGE",
            )
        hold(len(packed) + len(made))
    if unpacker.unused_data:
        raise _badly_packed()
    hold(len(made))
    return bytes(made)


def _badly_packed() -> InvalidRequestError:
    return InvalidRequestError(
        "the body is not packed as its header says, or does not end where what is packed in it ends.",
        reason="CONTENT_ENCODING_INVALID",
    )
