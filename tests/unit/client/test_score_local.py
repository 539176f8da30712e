import asyncio

import pytest
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import Classification, ImageError, InvalidRequestError, OverloadedError
from retinue_client._errors import ServerError
from retinue_client._score import local
from retinue_client._score.local import LocalAsker, find_engine

from .fake_server import MODELS, status


class FakeEngine:
    """Answers as the fake server does, and fails as it is told."""

    def __init__(self, failure=b"", start=b""):
        self.failure, self.starting = failure, start
        self.calls = []
        self.closed = False

    async def start(self):
        self.calls.append("start")
        return self.starting

    async def answer(self, method, request, timeout_seconds=None):
        self.calls.append(method)
        if self.failure:
            return False, self.failure
        if method == "GetModel":
            return True, pb.GetModelResponse(model=MODELS[0]).SerializeToString()
        response = pb.ClassifyResponse(model="m", version=3)
        for image in pb.ClassifyRequest.FromString(request).images:
            outcome = response.outcomes.add()
            if image.encoded == b"bad":
                outcome.error.CopyFrom(status(3, "No image.", "IMAGE_UNDECODABLE"))
            else:
                outcome.result.classes.add(class_id=1, label=image.encoded.decode(), score=0.5)
        return True, response.SerializeToString()

    async def close(self):
        self.closed = True


def asker(engine):
    return LocalAsker(engine, "classify", {"model": "m", "version": None})


def test_an_engine_is_started_once_and_answers_as_a_server_does():
    engine = FakeEngine()

    async def work():
        one = asker(engine)
        model = await one.get_model("a-classifier")
        answers = await one.ask([b"x", b"bad"])
        await one.close()
        return model, answers

    model, (first, second) = asyncio.run(work())
    assert model.task == "classify"
    assert isinstance(first, Classification)
    assert first.best.label == "x"
    assert isinstance(second, ImageError)
    assert second.reason == "IMAGE_UNDECODABLE"
    assert engine.calls == ["start", "GetModel", "Classify"]
    assert engine.closed


def test_what_an_engine_refuses_is_the_error_that_a_server_would_have_sent():
    full = status(8, "Full.", "QUEUE_FULL", 0.25).SerializeToString()
    with pytest.raises(OverloadedError) as caught:
        asyncio.run(asker(FakeEngine(failure=full)).ask([b"x"]))
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("QUEUE_FULL", 0.25)
    unsound = status(3, "No such option.", "INVALID_REQUEST").SerializeToString()
    with pytest.raises(InvalidRequestError, match="No such option"):
        asyncio.run(asker(FakeEngine(start=unsound)).ask([b"x"]))


def test_where_no_engine_is_installed_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(local, "entry_points", lambda group: [])
    with pytest.raises(ServerError, match=r'pip install "retinue-server\[cpu\]"'):
        find_engine([], "")

    class WithoutRuntime:
        def load(self):
            raise ImportError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr(local, "entry_points", lambda group: [WithoutRuntime()])
    with pytest.raises(ServerError, match="lacks onnxruntime"):
        find_engine([], "")
