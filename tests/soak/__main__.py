"""Mixed traffic and faults against two servers for a while, and a verdict: the exit code is 1 where something broke.

    python -m tests.soak --minutes 30 --seed 7

One server is a single process; the other has two front-ends, TLS and tokens. Both follow one folder of models. In the
first half of the time they are ended and killed in turn, and in all of it everything else goes wrong (`faults`).
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from tests import colour_bundles, living_bundles, odd_bundles
from tests.certificates import Authority
from tests.soak import verdict
from tests.soak.faults import World, go_wrong, restart
from tests.soak.node import Access, Node
from tests.soak.traffic import Traffic

_CALLERS = 12
_PAUSE_SECONDS = 0.1
_FAULT_SECONDS = 2.0
_LEAST_RESTART_SECONDS = 5.0
_RESTARTS = 8
_WARM_UP_SECONDS = 10.0
_SCRAPE_SECONDS = 1.0


def _world(folder: Path, chance: random.Random) -> World:
    models, cache, certificates = folder / "models", folder / "cache", folder / "certificates"
    for made in (models, cache):
        made.mkdir()
    cache.chmod(0o700)
    for maker in (colour_bundles.classifier, colour_bundles.detector, colour_bundles.segmenter):
        maker(models)
    odd_bundles.failing_classifier(models)
    odd_bundles.slow_classifier(models)
    living_bundles.put(models, "colours", 1)
    authority = Authority()
    certificate, key = authority.sign().write(certificates)
    tokens, secret = folder / "tokens.json", "a-token-of-the-soak"
    flags = ("--model-control", "watch", "--cache-folder", str(cache), "--provider", "cpu")
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--tokens", str(tokens))
    nodes = [
        Node("one process", models, flags),
        Node(
            "two front-ends", models, (*flags, "--workers", "2", *tls), Access(secret, authority.certificate)
        ),
    ]
    world = World(nodes, models, cache, tokens, secret, certificates, authority, chance)
    world.write_tokens()
    return world


async def _restarts(world: World, seconds: float) -> None:
    """Ends and kills the servers in turn in the first half of the time, one at a time."""
    pause = max(seconds / 2 / _RESTARTS, _LEAST_RESTART_SECONDS)
    ends = time.monotonic() + seconds / 2
    turn = 0
    while time.monotonic() + pause < ends:
        await asyncio.sleep(pause)
        await restart(world, world.nodes[turn % 2], ("SIGTERM", "SIGTERM", "SIGKILL", "SIGKILL")[turn % 4])
        turn += 1


async def _warm_ups(world: World, over: asyncio.Event) -> None:
    """Weighs each server once traffic has run for a while."""
    while not over.is_set():
        for node in world.nodes:
            life = node.life
            if life.warm is None and node.serving:
                await asyncio.sleep(_WARM_UP_SECONDS)
                if node.life is life and node.serving:
                    life.warm = node.footprint()
        await asyncio.sleep(0.5)


async def _scrape(world: World, over: asyncio.Event) -> None:
    """Reads metrics once a second, as a collector does: of a front-end that dies, what came since is lost."""
    while not over.is_set():
        for node in world.nodes:
            if node.serving:
                with contextlib.suppress(httpx.HTTPError):  # It may go meanwhile.
                    await node.counted()
        await asyncio.sleep(_SCRAPE_SECONDS)


async def soak(world: World, seconds: float) -> list[verdict.Line]:
    """Runs it, and returns what must hold."""
    await asyncio.gather(*(node.start() for node in world.nodes))
    # Dice of its own, so that the faults of a seed do not hang on how many calls there are.
    traffic = Traffic(world.nodes, random.Random(world.chance.random()))
    calling = asyncio.create_task(traffic.run(_CALLERS, _PAUSE_SECONDS))
    others = [
        asyncio.create_task(go_wrong(world, traffic.over, _FAULT_SECONDS)),
        asyncio.create_task(_warm_ups(world, traffic.over)),
        asyncio.create_task(_scrape(world, traffic.over)),
    ]
    restarts = asyncio.create_task(_restarts(world, seconds))
    # What breaks one of them ends the soak.
    await asyncio.wait([calling, *others], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    traffic.over.set()
    await asyncio.gather(calling, *others, restarts)
    lines = [*verdict.of_traffic(traffic.tally)]
    for what, count in Counter(traffic.tally.failed).most_common(20):
        print(f"failed: {count} × {what}")
    for node in world.nodes:
        # Front-ends tell what they have counted once a second; what callers have left ends meanwhile.
        await asyncio.sleep(3)
        counted = await node.counted()
        life = node.life
        await node.disconnect()
        await asyncio.sleep(1)
        lines += verdict.of_life(node, life, counted, node.footprint())
        code = await asyncio.to_thread(life.server.terminate)
        lines.append(verdict.Line(f"{node.name}: exit code after SIGTERM", str(code), code == 0))
        lines += verdict.of_log(node)
    return lines


def main() -> int:
    """Soaks, prints the verdict; 1 where something broke."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"{arguments.minutes:g} minutes, --seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="retinue-soak-") as folder, contextlib.ExitStack() as ending:
        world = _world(Path(folder), random.Random(arguments.seed))
        for node in world.nodes:
            ending.callback(node.close)
        lines = asyncio.run(soak(world, arguments.minutes * 60))
    faults = ", ".join(f"{count} × {what}" for what, count in Counter(world.done).most_common())
    print(f"\nFaults: {faults}.\n\n{verdict.table(lines)}")
    return int(not all(line.holds for line in lines))


if __name__ == "__main__":
    sys.exit(main())
