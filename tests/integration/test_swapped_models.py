"""Two versions of a model take turns a thousand times under full traffic: nothing fails, and nothing stays behind."""

import asyncio
import sys
from pathlib import Path

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb
from retinue.v1 import vision_service_pb2_grpc
from tests import living_bundles
from tests.calls import flat
from tests.server_process import ROOT

_CALLERS = 32
_SWAPS = 1000
_MOST_GROWTH = 0.03


async def _call(stub: vision_service_pb2_grpc.VisionServiceStub, over: asyncio.Event) -> dict[int, int]:
    """Asks again and again; returns how many answers came of each version, each of which is that version's own."""
    request = pb.ClassifyRequest(images=[flat(255, 0, 0)], model="colours")
    answers = {1: 0, 2: 0}
    while not over.is_set():
        reply = await stub.Classify(request, timeout=30)
        colour, _, version = reply.outcomes[0].result.classes[0].label.partition("-")
        assert int(version) == reply.version
        assert (colour == "red") == (reply.version == 1)
        answers[reply.version] += 1
    return answers


@pytest.mark.slow
async def test_a_thousand_swaps_fail_no_request_and_leave_nothing_behind(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    living_bundles.put(models, "colours", 1)
    aside = tmp_path / "aside"
    aside.mkdir()
    living_bundles.put(models, "colours", 2, inverted=True).rename(aside / "2")
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.swapping_server", str(models), "colours", str(aside), str(_SWAPS)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    over = asyncio.Event()
    try:
        async with (
            asyncio.timeout(200),
            grpc.aio.insecure_channel(f"127.0.0.1:{int(await server.stdout.readline())}") as channel,
        ):
            stub = vision_service_pb2_grpc.VisionServiceStub(channel)
            callers = [asyncio.ensure_future(_call(stub, over)) for _ in range(_CALLERS)]
            server.stdin.write(b"\n")
            first_bytes, last_bytes = [int(await server.stdout.readline()) for _ in range(2)]
            over.set()
            answers = await asyncio.gather(*callers)
            server.stdin.write(b"\n")
            assert await server.wait() == 0
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
    assert all(counts[1] and counts[2] for counts in answers)
    assert last_bytes < (1 + _MOST_GROWTH) * first_bytes
