"""Random requests in bulk at a real server's two doors, and what it owes each: a proper status, and the next answer.

python -m tests.fuzz.boundary --requests 20000
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import grpc
import httpx
from retinue.inference import grpc_service_pb2 as inference_pb
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, pictures
from tests.calls import connected, flat
from tests.fuzz.mutations import mutated
from tests.fuzz.random_messages import RandomMessages
from tests.fuzz.request_targets import TARGETS
from tests.server_process import ServerProcess, running_server

_AT_ONCE = 16
_ANSWER_SECONDS = 30
# What no request may end with: the server's own faults, and calls that were never answered.
_NO_ANSWERS = {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED", "DATA_LOSS", "ABORTED"}
_GOOD_STATUS = range(200, 500)
_GROWTH_BYTES = 200 * 1024 * 1024
_TEXTS = (
    *(
        "colour-classifier",
        "colour-detector",
        "colour-segmenter",
        "",
        "1",
        "images",
        "probabilities",
        "BYTES",
        "UINT8",
    ),
    *("FP32", "red", "stable", "classification", "priority", "timeout", "shared_memory_region", "config"),
)
_PATHS = (
    *("/v1/models/colour-classifier:classify", "/v1/models/colour-detector:detect", "/v1/models"),
    *(
        "/v1/models/colour-segmenter/versions/1:segment",
        "/v2/models/colour-classifier/infer",
        "/v2/repository/index",
    ),
    *(
        "/v2/models/colour-detector/versions/1/infer",
        "/v2/models/colour-classifier/config",
        "/v2",
        "/",
        "/metrics",
    ),
    *("/v2/repository/models/colour-classifier/load", "/v2/systemsharedmemory/region/r/register", "/livez"),
    *("/v2/trace/setting", "/v2/logging", "/readyz", "/v2/models/colour-segmenter/stats"),
)
_TYPES = (
    *("image/png", "application/json", "multipart/form-data; boundary=x", "application/octet-stream"),
    *("multipart/form-data", "", "text/html; charset=é"),
)


def _contents() -> list[bytes]:
    files = [pictures.png(pictures.RED), pictures.png(pictures.BLUE, 300, 200)]
    rows = b"".join(len(one).to_bytes(4, "little") + one for one in files)
    return [
        *files,
        pictures.encode(pictures.solid(pictures.GREEN), "JPEG"),
        rows,
        bytes(32 * 32 * 3),
        b"\0\0\0?",
        b"",
    ]


class GrpcDoor:
    """Random requests of every method of both services."""

    def __init__(self, chance: random.Random) -> None:
        messages = RandomMessages(chance, _TEXTS, _contents())
        files = (pb.DESCRIPTOR, inference_pb.DESCRIPTOR)
        methods = [
            one for file in files for service in file.services_by_name.values() for one in service.methods
        ]
        # Those with images have the most to parse.
        weights = [5 if one.name in ("Classify", "Detect", "Segment", "ModelInfer") else 1 for one in methods]
        self._requests = lambda: _request(chance.choices(methods, weights)[0], messages)

    async def send(self, server: ServerProcess, count: int) -> Counter[str]:
        """Sends so many; returns how often each status came."""
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(server.grpc_address, options=options) as channel:

            async def one() -> str:
                path, streams, data = self._requests()
                try:
                    if streams:
                        call = channel.stream_stream(path)(iter([data, data]), timeout=_ANSWER_SECONDS)
                        async for _ in call:
                            pass
                    else:
                        await channel.unary_unary(path)(data, timeout=_ANSWER_SECONDS)
                except grpc.RpcError as error:
                    status = str(error.code().name)
                else:
                    status = "OK"
                assert status not in _NO_ANSWERS, (status, path, data[:2000])
                return status

            return await _in_bulk(one, count)


def _request(method, messages: RandomMessages) -> tuple[str, bool, bytes]:  # type: ignore[no-untyped-def]
    path = f"/{method.containing_service.full_name}/{method.name}"
    return path, method.client_streaming, messages.data(method.input_type)


class HttpDoor:
    """Random requests at every endpoint, and bytes that are none."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        seeds = [seed for target in TARGETS if target.name.startswith("http") for seed in target.seeds()]
        self._bodies = [
            *_contents(),
            *seeds,
            *(seed[2:] for seed in seeds),
            b"{}",
            b'{"a": [1, {"b": null}]}',
        ]

    async def send(self, server: ServerProcess, count: int) -> Counter[str]:
        """Sends so many; returns how often each status came."""
        async with httpx.AsyncClient(base_url=server.http_url, timeout=_ANSWER_SECONDS) as client:

            async def one() -> str:
                if self._chance.random() < 0.1:
                    return await self._raw(server)
                request = client.build_request(**self._request())
                answer = await client.send(request)
                proper = answer.status_code in _GOOD_STATUS or answer.status_code in (501, 503)
                assert proper, (request.method, request.url, request.content[:2000], answer.text)
                return str(answer.status_code)

            return await _in_bulk(one, count)

    def _request(self) -> dict[str, object]:
        chance = self._chance
        path = chance.choice(_PATHS)
        if chance.random() < 0.2:
            (broken,) = mutated([path.encode()], 1, 300, chance)
            path = "/" + quote(broken.lstrip(b"/"))
        body = chance.choice(self._bodies)
        if chance.random() < 0.5:
            (body,) = mutated([body or b"\0"], 1, 1 << 20, chance)
        headers = {"content-type": chance.choice(_TYPES).encode()}
        if chance.random() < 0.3:
            headers["Inference-Header-Content-Length"] = chance.choice(
                (b"0", b"150", b"-1", b"99999999999", b"x")
            )
        if chance.random() < 0.1:
            headers["content-encoding"] = chance.choice((b"gzip", b"br", b"deflate"))
        options = chance.choice(
            ("", "top_k=1", "min_score=nan", "timeout=1", "timeout=-1", "masks=1", "a=b", "top_k=1e9")
        )
        method = chance.choices(("POST", "GET", "PUT", "OPTIONS"), (8, 3, 1, 1))[0]
        return {"method": method, "url": f"{path}?{options}", "content": body, "headers": headers}

    async def _raw(self, server: ServerProcess) -> str:
        parts = urlsplit(server.http_url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        lines = f"POST {_PATHS[0]} HTTP/1.1", "Host: localhost", "Content-Length: 3", "Connection: close"
        head = "\r\n".join([*lines, "", "abc"]).encode()
        (data,) = mutated([head], 1, 4096, self._chance)
        try:
            writer.write(data)
            writer.write_eof()
            said = await asyncio.wait_for(reader.read(1 << 20), _ANSWER_SECONDS)
        except ConnectionError:
            said = b""
        finally:
            writer.close()
        assert not said.startswith(b"HTTP/1.1 500"), (data, said)
        return "bytes"


async def _in_bulk(one: Callable[[], Awaitable[str]], count: int) -> Counter[str]:
    statuses: Counter[str] = Counter()
    numbers: Iterator[int] = iter(range(count))

    async def on_and_on() -> None:
        for _ in numbers:
            statuses[await one()] += 1

    await asyncio.gather(*(on_and_on() for _ in range(_AT_ONCE)))
    return statuses


def bombard(server: ServerProcess, count: int, seed: int) -> dict[str, Counter[str]]:
    """Sends so many requests to each door of a server on the colour bundles, and checks what became of it.

    Raises:
        AssertionError: An answer was none, the server logged an error, ended, or holds more memory than it should.
    """
    doors = {"gRPC": GrpcDoor(random.Random(seed)), "HTTP": HttpDoor(random.Random(seed))}
    # What is taken once, for parsers, threads and slabs, is none that is lost.
    for door in doors.values():
        asyncio.run(door.send(server, min(count, 1000)))
    before = server.memory_bytes()
    statuses = {name: asyncio.run(door.send(server, count)) for name, door in doors.items()}
    assert server.process.poll() is None
    with connected(server.grpc_address) as connection:
        (outcome,) = connection.classify(flat(255, 0, 0), model="colour-classifier").outcomes
        assert outcome.result.classes[0].label == "red"
    errors = [event for event in server.events if event["level"] in ("error", "critical")]
    assert not errors, json.dumps(errors[0])
    assert server.memory_bytes() - before < _GROWTH_BYTES
    return statuses


def main() -> int:
    """Bombards a server of its own and prints what it answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000, help="at each door")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for maker in (colour_bundles.classifier, colour_bundles.detector, colour_bundles.segmenter):
            maker(Path(folder))
        with running_server(folder) as server:
            for name, statuses in bombard(server, arguments.requests, arguments.seed).items():
                listed = ", ".join(f"{count:,} {status}" for status, count in statuses.most_common())
                print(f"{name}: {sum(statuses.values()):,} requests, each with a proper status: {listed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
