"""Models come and go from all sides and candidates misbehave: each request is answered once, and nothing is left."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import helper, numpy_helper
from retinue.inference import grpc_service_pb2 as oip
from retinue.inference import grpc_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as pb
from retinue.v1 import vision_service_pb2_grpc
from tests import colour_bundles, living_bundles, odd_bundles, pipelines
from tests.calls import Connection, connected, flat, refused
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

_CALLERS = 64
_IMAGES = [flat(255, 200, 200)] * 2
_CONFIGS = (
    None,
    {"list": {"versions": [1]}},
    {"version_policy": {"latest": {}}},
    {
        "split": [{"version": 1, "percent": 40}, {"version": 2, "percent": 60}],
        "shadow": {"version": 1, "percent": 100},
    },
    {"labels": {"stable": 9}},
)
# A model may be away, or be loaded by a policy that cannot be met.
_REQUESTS_MAY = {"OK", "NOT_FOUND"}
_LOADS_MAY = {"OK", "NOT_FOUND", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED"}
_COPIED = {"split": [{"version": 1, "percent": 100}], "shadow": {"version": 2, "percent": 100}}
_QUICK = ("--provider", "cpu", "--tune", "off")


def write_policy(models: Path, name: str, policy: dict[str, Any]) -> None:
    (models / name / "serving.json").write_text(json.dumps(policy))


async def code_of(call: Awaitable[Any]) -> str:
    """The status of a call, whose images all have an answer where it has one."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    if isinstance(reply, (pb.ClassifyResponse, pb.DetectResponse)):
        assert [one.WhichOneof("outcome") for one in reply.outcomes] == ["result"] * len(_IMAGES)
    return "OK"


def assert_nothing_broke(server: ServerProcess) -> None:
    assert server.terminate() == 0
    assert [
        event for event in server.events if "exception" in event or event["event"] == "model_still_held"
    ] == []


async def test_models_are_loaded_and_unloaded_from_all_sides_while_all_are_asked(tmp_path: Path) -> None:
    for version in (1, 2):
        living_bundles.put(tmp_path, "colours", version)
        colour_bundles.detector(tmp_path, "detector", version)
    pipelines.declare(tmp_path, "pipeline", "TASK_DETECT", "detector", "colours")
    write_policy(
        tmp_path,
        "colours",
        {"split": [{"version": 1, "percent": 100}], "shadow": {"version": 2, "percent": 100}},
    )
    chance = random.Random(1)
    over = asyncio.Event()
    asked, changed = Counter[str](), Counter[str]()

    def ask(vision: Any, number: int) -> Awaitable[Any]:
        if number % 3 == 0:
            return vision.Classify(pb.ClassifyRequest(images=_IMAGES, model="colours"), timeout=60)
        request = pb.DetectRequest(images=_IMAGES, model="pipeline")
        if number % 3 == 1:
            request = pb.DetectRequest(
                images=_IMAGES,
                model="detector",
                classify_with=pb.ClassifyWith(model="colours", version=number % 2),
            )
        return vision.Detect(request, timeout=60)

    def change(repository: Any) -> Awaitable[Any]:
        name = chance.choice(["colours", "detector", "pipeline", "nothing"])
        # Some leave before they have an answer.
        timeout = chance.choice([60, 60, 0.05])
        if chance.random() < 0.4:
            return repository.RepositoryModelUnload(
                oip.RepositoryModelUnloadRequest(model_name=name), timeout=timeout
            )
        request = oip.RepositoryModelLoadRequest(model_name=name)
        config = chance.choice(_CONFIGS)
        if config is not None:
            request.parameters["config"].string_param = json.dumps(config)
        return repository.RepositoryModelLoad(request, timeout=timeout)

    async def caller(number: int, times: Callable[[], bool]) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(server.grpc_address, options=options) as channel:
            vision = vision_service_pb2_grpc.VisionServiceStub(channel)
            while times():
                asked[await code_of(ask(vision, number))] += 1

    with running_server(tmp_path, *_QUICK, "--model-control", "explicit", "--load-models", "all") as server:
        callers = [
            asyncio.ensure_future(caller(number, lambda: not over.is_set())) for number in range(_CALLERS)
        ]
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            repository = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)

            async def changes() -> None:
                for _ in range(3):
                    changed[await code_of(change(repository))] += 1

            await asyncio.gather(*(changes() for _ in range(_CALLERS)))
            for name in ("detector", "colours", "pipeline"):
                await repository.RepositoryModelLoad(
                    oip.RepositoryModelLoadRequest(model_name=name), timeout=60
                )
            # A step goes while its pipeline is asked, and a candidate while copies are.
            for name in ("detector", "colours", "pipeline"):
                await repository.RepositoryModelUnload(
                    oip.RepositoryModelUnloadRequest(model_name=name), timeout=60
                )
            over.set()
            await asyncio.gather(*callers)
            index = (await repository.RepositoryIndex(oip.RepositoryIndexRequest())).models
        assert {one.state for one in index} == {"UNAVAILABLE"}
        assert asked["OK"] > 0
        assert asked.keys() <= _REQUESTS_MAY
        assert changed["OK"] > 0
        assert changed.keys() <= _LOADS_MAY
        # Whatever was counted of a model has gone with it, so no lease is left.
        page = MetricsPage(server.http_url)
        assert [one for one in page.samples if one.labels.get("model")] == []
        assert_nothing_broke(server)


def _to_nan(model: Any) -> None:
    model.graph.node.insert(-1, helper.make_node("Log", ["minus"], ["nans"]))
    model.graph.node.insert(-1, helper.make_node("Add", ["means", "nans"], ["lost"]))
    model.graph.node[-1].input[0] = "lost"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1] * 3, np.float32), "minus"))


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """Models whose first version is well, and whose second, which gets copies, is called what is wrong with it."""
    models, aside = tmp_path / "models", tmp_path / "aside"
    for name in ("fails", "slow", "numberless", "of-another-task"):
        living_bundles.put(_made(models), name, 1)
    odd_bundles.failing_classifier(_made(aside), "fails").rename(models / "fails" / "2")
    odd_bundles.slow_classifier(aside, "slow", least_level=3).rename(models / "slow" / "2")
    odd_bundles.edit_graph(colour_bundles.classifier(models, "numberless", 2), _to_nan)
    colour_bundles.detector(models, "of-another-task", 2)
    for model in list(models.iterdir()):
        write_policy(
            models,
            model.name,
            {"split": [{"version": 1, "percent": 100}], "shadow": {"version": 2, "percent": 100}},
        )
    return models


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _ask_much(connection: Connection, model: str) -> int:
    """Asks for more than a candidate can answer; how many images were sent."""
    level = 255 if model == "fails" else 3
    request = pb.ClassifyRequest(images=[flat(level)] * 16, model=model)
    calls = [connection.vision.Classify.future(request, timeout=60) for _ in range(40)]
    for call in calls:
        reply = call.result()
        assert reply.version == 1
        assert [one.WhichOneof("outcome") for one in reply.outcomes] == ["result"] * 16
    return 16 * len(calls)


def test_candidates_that_misbehave_trouble_nobody_and_are_counted(candidates: Path) -> None:
    with (
        running_server(candidates, *_QUICK, "--model-control", "watch") as server,
        connected(server.grpc_address) as connection,
    ):

        def counted(model: str) -> dict[str, float]:
            page = MetricsPage(server.http_url)
            found = page.find("retinue_shadow_images_total", model=model, version="1", candidate="2")
            return {one.labels["outcome"]: one.value for one in found}

        for model in sorted(path.name for path in candidates.iterdir()):
            sent = _ask_much(connection, model)
            wait_until(
                lambda model=model, sent=sent: sum(counted(model).values()) == sent, f"copies for {model}"
            )
            if model != "slow":
                assert counted(model).get("compared", 0) == 0, model
        assert counted("of-another-task") == {"failed": 640}
        assert counted("slow").get("failed", 0) == 0
        assert connection.classify(flat(255, 0, 0), model="slow").version == 1
        # The log is the candidate's, as for any model that fails.
        assert {event["event"] for event in server.events if "exception" in event} <= {
            "batch_failed",
            "image_failed",
        }
        assert server.terminate() == 0


def test_a_policy_that_says_what_no_reply_can_hold_is_told(tmp_path: Path) -> None:
    living_bundles.put(tmp_path, "colours", 1)
    policy = tmp_path / "colours" / "serving.json"
    with (
        running_server(tmp_path, *_QUICK, "--model-control", "explicit", "--load-models", "all") as server,
        connected(server.grpc_address) as connection,
    ):
        repository = grpc_service_pb2_grpc.GRPCInferenceServiceStub(connection.channel)
        for odd in ("\\ud800", "x" * 60_000):
            policy.write_text(f'{{"labels": "{odd}"}}')
            request = oip.RepositoryModelLoadRequest(model_name="colours")
            refusal = refused(lambda request=request: repository.RepositoryModelLoad(request, timeout=60))
            assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "SERVING_POLICY_INVALID")
            (entry,) = repository.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=60).models
            assert entry.state == "READY"
            assert entry.reason.startswith("serving.json: field `labels` must be an object")
            request.parameters["config"].string_param = policy.read_text()
            refusal = refused(lambda request=request: repository.RepositoryModelLoad(request, timeout=60))
            assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "SERVING_POLICY_INVALID")
        assert_nothing_broke(server)
