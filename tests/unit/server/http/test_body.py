"""Bodies are read as far as the limits and no further, packed or not."""

import asyncio
import gzip
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import Request

from retinue_server.errors import InvalidRequestError, OverloadedError, RetinueError
from retinue_server.http import body
from retinue_server.http.body import CallerLeft
from retinue_server.rpc import packing
from retinue_server.rpc.budget import ByteBudget, Holding

MOST = 1000


class Sender:
    """Sends the pieces of a body, and then leaves or never goes on where it is told so."""

    def __init__(self, pieces: Sequence[bytes], end: str = "complete") -> None:
        self._pieces = list(pieces)
        self._end = end
        self.taken = 0

    async def receive(self) -> dict[str, Any]:
        if self.taken < len(self._pieces):
            self.taken += 1
            more = self.taken < len(self._pieces) or self._end != "complete"
            return {"type": "http.request", "body": self._pieces[self.taken - 1], "more_body": more}
        if self._end == "leaves":
            return {"type": "http.disconnect"}
        return await asyncio.get_running_loop().create_future()


async def read(
    *pieces: bytes, end: str = "complete", holding: Holding | None = None, **headers: str
) -> bytes:
    return await read_from(Sender(pieces, end), holding, **headers)


async def read_from(sender: Sender, holding: Holding | None = None, **headers: str) -> bytes:
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [
            (name.replace("_", "-").encode("latin-1"), value.encode("latin-1"))
            for name, value in headers.items()
        ],
    }
    request = Request(scope, sender.receive)
    return await body.read(request, holding or Holding(ByteBudget(10 * MOST)), MOST, 0.1)


async def refused(error: type[RetinueError], *pieces: bytes, **how: Any) -> str:
    with pytest.raises(error) as raised:
        await read(*pieces, **how)
    return raised.value.reason


async def test_a_body_is_read_whole() -> None:
    assert await read(b"") == b""
    assert await read(b"one ", b"", b"two") == b"one two"
    assert await read(bytes(MOST), content_length=str(MOST)) == bytes(MOST)


async def test_a_declared_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    sender = Sender([bytes(10)])
    with pytest.raises(InvalidRequestError) as raised:
        await read_from(sender, content_length=str(MOST + 1))
    assert raised.value.reason == "REQUEST_TOO_LARGE"
    assert sender.taken == 0


@pytest.mark.parametrize("length", ["3", "", "-1", "\u00b2", "9x"])
async def test_more_than_the_limit_is_refused_whatever_was_declared(length: str) -> None:
    sender = Sender([bytes(600)] * 5)
    with pytest.raises(InvalidRequestError) as raised:
        await read_from(sender, content_length=length)
    assert raised.value.reason == "REQUEST_TOO_LARGE"
    assert sender.taken == 2


@pytest.mark.parametrize("packing", ["gzip", "GZIP ", "deflate"])
async def test_packed_bodies_are_unpacked(packing: str) -> None:
    content = bytes(range(200)) * 5
    packed = zlib.compress(content) if packing == "deflate" else gzip.compress(content)
    assert await read(packed[:7], packed[7:], content_encoding=packing) == content
    assert await read(content, content_encoding="identity") == content


async def test_a_large_body_is_unpacked_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_STEP_BYTES", 7)
    content = bytes(range(250)) * 4
    assert await read(gzip.compress(content), content_encoding="gzip") == content


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"not packed",
        gzip.compress(b"whole")[:-1],
        gzip.compress(b"whole")[:12],
        gzip.compress(b"whole") + b"x",
        gzip.compress(b"one") + gzip.compress(b"two"),
        gzip.compress(b"whole")[:-8] + bytes(8),
        # zlib of another dictionary.
        b"\x78\xbb\x00\x00\x00\x01\x03\x00",
    ],
    ids=["none", "plain", "short", "shorter", "trailing", "two", "checksum", "dictionary"],
)
async def test_what_is_not_packed_as_it_says_is_refused(packed: bytes) -> None:
    assert await refused(InvalidRequestError, packed, content_encoding="gzip") == "CONTENT_ENCODING_INVALID"


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "x" * 5000, "\u00ff"])
async def test_other_packings_are_refused(packing: str) -> None:
    assert await refused(InvalidRequestError, b"", content_encoding=packing) == "CONTENT_ENCODING_UNKNOWN"


async def test_what_unpacks_to_more_than_the_limit_is_refused_and_never_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "_STEP_BYTES", 512)
    made = []

    class Counting:
        def __init__(self, unpacker: Any) -> None:
            self._unpacker = unpacker

        def decompress(self, *arguments: Any) -> bytes:
            step: bytes = self._unpacker.decompress(*arguments)
            made.append(len(step))
            return step

        def __getattr__(self, name: str) -> Any:
            return getattr(self._unpacker, name)

    original = zlib.decompressobj
    monkeypatch.setattr(packing.zlib, "decompressobj", lambda wbits: Counting(original(wbits)))
    bomb = gzip.compress(bytes(100 * MOST))
    assert len(bomb) < MOST
    assert await refused(InvalidRequestError, bomb, content_encoding="gzip") == "REQUEST_TOO_LARGE"
    assert sum(made) <= MOST + 512


async def test_bytes_are_counted_as_they_come_and_as_they_are_unpacked() -> None:
    budget = ByteBudget(500)
    other, ours = Holding(budget), Holding(budget)
    other.hold_request(1)
    sender = Sender([bytes(300)] * 3)
    with pytest.raises(OverloadedError) as raised:
        await read_from(sender, ours)
    assert raised.value.reason == "TOO_MANY_BYTES_IN_FLIGHT"
    assert sender.taken == 2
    ours.release()
    packed = gzip.compress(bytes(MOST))
    assert (
        await refused(OverloadedError, packed, holding=ours, content_encoding="gzip") == raised.value.reason
    )
    ours.release()
    other.release()
    Holding(budget).hold_request(MOST)


async def test_after_unpacking_only_what_is_kept_is_counted() -> None:
    budget = ByteBudget(500)
    first, second = Holding(budget), Holding(budget)
    content = bytes(300)
    assert await read(gzip.compress(content), holding=first, content_encoding="gzip") == content
    second.hold_request(200)
    with pytest.raises(OverloadedError):
        second.hold_request(201)


async def test_a_body_that_does_not_come_is_given_up() -> None:
    assert await refused(InvalidRequestError, b"some", end="stands still") == "BODY_TOO_SLOW"


async def test_a_caller_who_leaves_is_told_apart() -> None:
    with pytest.raises(CallerLeft):
        await read(b"some", end="leaves")
