"""What goes wrong during a soak, each fault a few seconds at most."""

import asyncio
import hashlib
import json
import random
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests import living_bundles, pictures
from tests.certificates import Authority
from tests.faults.test_bad_connections import GARBAGE
from tests.server_process import ROOT
from tests.soak.node import Node

_BROKEN_MODEL = "broken"
# In a process of its own, which is killed while its answer is made.
_CALLER = """
import sys
from tests.calls import connected, flat
with connected(sys.argv[1]) as connection:
    print("asking", flush=True)
    connection.classify(*[flat(60, 60, 90)] * 20, model="slow-classifier")
"""
_LARGE_SIDE = 3000


@dataclass
class World:
    """What faults are done to.

    Attributes:
        nodes: The servers.
        models: The folder that all serve.
        cache: Their cache folder.
        tokens: The file of tokens.
        secret: The token that callers show.
        certificates: The folder of the certificate.
        authority: Signs certificates.
        chance: The dice.
        done: The faults that were done, in order.
        files: Held while files do not hold that a server which starts would rightly refuse.
    """

    nodes: Sequence[Node]
    models: Path
    cache: Path
    tokens: Path
    secret: str
    certificates: Path
    authority: Authority
    chance: random.Random
    done: list[str] = field(default_factory=list)
    files: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def plain(self) -> Node:
        """A server that speaks no TLS."""
        return next(node for node in self.nodes if not node.encrypted)

    def write_tokens(self, *more: str) -> None:
        """Puts a file there with the callers' token and others."""
        entries = [
            {"name": f"caller-{number}", "sha256": hashlib.sha256(one.encode()).hexdigest(), "scopes": scopes}
            for number, one in enumerate((self.secret, *more))
            for scopes in (["infer", "observe", "manage"],)
        ]
        self.put_tokens(json.dumps({"tokens": entries}))

    def put_tokens(self, text: str) -> None:
        """Replaces the file at once."""
        fresh = self.tokens.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.rename(self.tokens)


async def a_client_is_killed(world: World) -> None:
    """While its answer is made."""
    node = world.plain
    if not node.serving:
        return
    node.life.abandoned += 1
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CALLER, node.server.grpc_address),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    await asyncio.sleep(0.1)
    if process.returncode is None:
        process.kill()
    await process.wait()


async def a_reader_is_slow(world: World) -> None:
    """It asks for megabytes, reads a little of them for two seconds, and goes."""
    node = world.plain
    if not node.serving:
        return
    image = pictures.encode(pictures.solid((9,), _LARGE_SIDE, _LARGE_SIDE, "L"))
    path = "/v1/models/colour-segmenter:segment?mask_format=raw"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(image)}\r\n\r\n"
    node.life.abandoned += 1
    parts = urlsplit(node.http_url)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=4096)
        writer.write(head.encode() + image)
        for _ in range(20):
            await reader.read(1000)
            await asyncio.sleep(0.1)
        writer.transport.abort()
    except OSError:
        return


async def garbage_is_sent(world: World) -> None:
    """To both ports of all servers; half of the connections are cut, the others closed."""
    for node in world.nodes:
        if not node.serving:
            continue
        for port in (urlsplit(node.http_url).port, node.server.grpc_address.rpartition(":")[2]):
            for data in world.chance.sample(list(GARBAGE.values()), 3):
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", int(port or 0))
                    writer.write(data)
                    await asyncio.wait_for(reader.read(100), 0.1)
                except (OSError, TimeoutError):
                    pass
                if world.chance.random() < 0.5:
                    writer.transport.abort()
                else:
                    writer.close()


async def a_bad_bundle_comes_and_goes(world: World) -> None:
    """Its manifest is none."""
    folder = world.models / _BROKEN_MODEL / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(b"no model")
    (folder / "manifest.json").write_text("{")
    await asyncio.sleep(2)
    shutil.rmtree(world.models / _BROKEN_MODEL)


async def a_model_is_swapped(world: World) -> None:
    """Its second version, which answers otherwise, comes or goes; the first stays."""
    if (world.models / "colours" / "2").exists():
        await asyncio.to_thread(living_bundles.take_away, world.models, "colours", 2)
    else:
        await asyncio.to_thread(lambda: living_bundles.put(world.models, "colours", 2, inverted=True))


async def a_front_end_is_killed(world: World) -> None:
    """Of one of the servers that have any."""
    for node in world.nodes:
        if node.serving and node.kill_front_end(world.chance.randrange(8)):
            return


async def the_cache_is_wiped(world: World) -> None:
    """While models are served from it."""
    for path in list(world.cache.iterdir()):
        if path.is_dir():
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


async def metrics_are_hammered(world: World) -> None:
    """By a hundred readings, ten at once."""
    for node in world.nodes:
        if not node.serving:
            continue

        async def read(node: Node = node) -> None:
            try:
                for _ in range(10):
                    await node.http.get("/metrics")
            except Exception:  # The server may go meanwhile: whether it answers callers is seen elsewhere.
                return

        await asyncio.gather(*(read() for _ in range(10)))


async def tokens_are_replaced(world: World) -> None:
    """By a file that does not hold for a while, and then by one with another token besides."""
    async with world.files:
        world.put_tokens('{"tokens": [')
        await asyncio.sleep(1)
        world.write_tokens(str(world.chance.random()))


async def the_certificate_is_replaced(world: World) -> None:
    """By another one of the same authority."""
    async with world.files:
        await asyncio.to_thread(lambda: world.authority.sign().write(world.certificates))


FAULTS: tuple[Callable[[World], Awaitable[None]], ...] = (
    a_client_is_killed,
    a_reader_is_slow,
    garbage_is_sent,
    a_bad_bundle_comes_and_goes,
    a_model_is_swapped,
    a_model_is_swapped,
    a_front_end_is_killed,
    the_cache_is_wiped,
    metrics_are_hammered,
    tokens_are_replaced,
    the_certificate_is_replaced,
)


async def go_wrong(world: World, over: asyncio.Event, pause_seconds: float) -> None:
    """Does one fault after the other, of each as many, until it is over."""
    while not over.is_set():
        for fault in world.chance.sample(FAULTS, len(FAULTS)):
            if over.is_set():
                return
            await fault(world)
            world.done.append(fault.__name__.replace("_", " "))
            await asyncio.sleep(pause_seconds * world.chance.random())


async def restart(world: World, node: Node, how: str) -> None:
    """Ends a server and starts it again.

    Args:
        world: What it is part of.
        node: Which.
        how: "SIGTERM" or "SIGKILL".

    Raises:
        AssertionError: It did not end as it should.
    """
    world.done.append(f"a server gets {how}")
    if how == "SIGTERM":
        code = await node.terminate()
        assert code == 0, f"{node.name} ended with {code} after SIGTERM"
    else:
        await node.kill()
    async with world.files:
        await node.start()
