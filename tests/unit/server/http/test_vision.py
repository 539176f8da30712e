"""Files of images and options become the typed API's requests, however they are sent."""

import threading
from typing import Any

import pytest
from google.protobuf.message import Message
from retinue.v1 import manifest_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.server.http.served_app import MOST_IMAGES, ServedApp

from retinue_server.errors import ImageError, UnavailableError
from retinue_server.http import vision
from retinue_server.http.messages import plain
from retinue_server.rpc.status import to_status

CLASSIFY = "/v1/models/a-model:classify"
BAD = pb.ClassifyOutcome(error=to_status(ImageError("it is none.")))
GOOD = pb.ClassifyOutcome(result=pb.Classification(classes=[pb.ClassScore(label="cat", score=0.5)]))


@pytest.fixture
def served() -> ServedApp:
    made = ServedApp()
    made.answer("Classify", pb.ClassifyResponse(outcomes=[GOOD], model="a-model", version=2))
    return made


def classify(*files: bytes, **options: Any) -> Message:
    return pb.ClassifyRequest(model="a-model", images=[{"encoded": file} for file in files], **options)


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/v1/models/m:classify", "Classify", pb.ClassifyRequest(model="m")),
        ("/v1/models/m/versions/3:classify", "Classify", pb.ClassifyRequest(model="m", version=3)),
        ("/v1/models/m:detect", "Detect", pb.DetectRequest(model="m")),
        ("/v1/models/m/versions/3:detect", "Detect", pb.DetectRequest(model="m", version=3)),
        ("/v1/models/m:segment", "Segment", pb.SegmentRequest(model="m")),
        ("/v1/models/m/versions/3:segment", "Segment", pb.SegmentRequest(model="m", version=3)),
    ],
)
async def test_each_task_has_its_endpoints(
    path: str, method: str, expected: Message, served: ServedApp
) -> None:
    served.answer(method, UnavailableError("asked."))
    assert (await served.ask("POST", path)).status_code == 503
    assert served.asked == [expected]
    assert served.counted() == [(method, "", "UNAVAILABLE", 1)]


async def test_the_answer_is_the_replys_fields(served: ServedApp) -> None:
    told = await served.ask("POST", CLASSIFY, content=b"a file")
    assert told.status_code == 200
    assert told.json() == {
        "outcomes": [{"result": {"classes": [{"class_id": 0, "label": "cat", "score": 0.5}]}}],
        "model": "a-model",
        "version": 2,
    }


async def test_files_come_in_a_form_or_one_alone_as_the_body(served: ServedApp) -> None:
    files = [("image", ("a", b"one")), ("image", ("b", b"")), ("image", ("c", b"three"))]
    await served.ask("POST", CLASSIFY, files=files)
    await served.ask("POST", CLASSIFY, content=b"a file", headers={"content-type": "image/png"})
    await served.ask("POST", CLASSIFY, content=b"a file")
    await served.ask("POST", CLASSIFY)
    assert served.asked == [
        classify(b"one", b"", b"three"),
        classify(b"a file"),
        classify(b"a file"),
        classify(),
    ]


async def test_options_come_in_the_query_or_the_form_or_both(served: ServedApp) -> None:
    await served.ask("POST", f"{CLASSIFY}?top_k=3&heatmap=true", files={"image": b"x"})
    await served.ask("POST", CLASSIFY, files={"image": b"x"}, data={"top_k": "3", "heatmap": "true"})
    await served.ask("POST", f"{CLASSIFY}?heatmap=1", files={"image": b"x"}, data={"top_k": "3"})
    assert served.asked == [classify(b"x", top_k=3, heatmap=True)] * 3
    twice = await served.ask("POST", f"{CLASSIFY}?top_k=3", files={"image": b"x"}, data={"top_k": "3"})
    assert twice.json()["reason"] == "OPTION_INVALID"
    served.answer("Detect", pb.DetectResponse())
    path = "/v1/models/a-model:detect?classes=a&classes=b"
    await served.ask("POST", path, files={"image": b"x"}, data={"classes": "c"})
    assert list(served.asked[-1].classes) == ["a", "b", "c"]


async def test_the_path_says_which_model_whatever_the_options_say(served: ServedApp) -> None:
    path = "/v1/models/a-model/versions/3:classify?model=b&version=9"
    await served.ask("POST", path, files={"image": b"x"}, data={"model": "c"})
    assert served.asked == [classify(b"x", version=3)]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"files": [("image", b"x")] * (MOST_IMAGES + 1)}, "TOO_MANY_IMAGES"),
        ({"files": [("image", b"x")] * (MOST_IMAGES + 1), "data": {"a": ["b"] * 1010}}, "MULTIPART_INVALID"),
        ({"files": [("picture", b"x")]}, "MULTIPART_INVALID"),
        ({"files": [("x" * 5000, b"x")]}, "MULTIPART_INVALID"),
        ({"files": {"image": b"x"}, "data": {"top_k": "9" * 4097}}, "OPTION_INVALID"),
        ({"files": {"image": b"x"}, "data": {"top_k": b"\xff"}}, "OPTION_INVALID"),
        ({"files": {"image": b"x"}, "data": {"topk": "3"}}, "OPTION_UNKNOWN"),
        ({"files": {"image": b"x"}, "data": {"images": "3"}}, "OPTION_UNKNOWN"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "MULTIPART_INVALID"),
        ({"content": b"x", "params": {"topk": "3"}}, "OPTION_UNKNOWN"),
        ({"content": b"x", "params": {"top_k": "many"}}, "OPTION_INVALID"),
        ({"content": b"x", "params": {str(number): "" for number in range(10_000)}}, "OPTION_UNKNOWN"),
    ],
)
async def test_what_is_no_such_request_is_refused(how: Any, reason: str, served: ServedApp) -> None:
    told = await served.ask("POST", CLASSIFY, **how)
    assert (told.status_code, told.json()["reason"]) == (400, reason)
    assert len(told.json()["error"]) < 500
    assert served.asked == []


@pytest.mark.parametrize(
    "how",
    [
        {"json": {"image": "AAAA"}},
        {"json": []},
        {"content": b' \n{"image": "AAAA"}'},
        {"content": b'{"image'},
    ],
)
async def test_json_is_refused_with_what_to_send_instead(how: Any, served: ServedApp) -> None:
    told = await served.ask("POST", CLASSIFY, **how)
    assert (told.status_code, told.json()["reason"]) == (400, "BODY_IS_JSON")
    assert (
        "send the image's file itself, as in curl --data-binary @cat.jpg, or a form" in told.json()["error"]
    )
    assert served.asked == []


@pytest.mark.parametrize("how", [{"params": {"timeout": "2.5"}}, {"data": {"timeout": "2.5"}}])
async def test_a_timeout_is_the_calls_deadline(how: Any, served: ServedApp) -> None:
    left = []

    async def classify(request: Any, context: Any) -> Any:
        left.append(context.time_remaining())
        return pb.ClassifyResponse(outcomes=[GOOD])

    served.methods["Classify"] = classify
    assert (await served.ask("POST", CLASSIFY, files={"image": b"x"}, **how)).status_code == 200
    assert (await served.ask("POST", CLASSIFY, files={"image": b"x"})).status_code == 200
    assert 0 < left[0] <= 2.5
    assert left[1] is None


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", ""])
async def test_a_timeout_that_is_none_is_refused(text: str, served: ServedApp) -> None:
    told = await served.ask("POST", CLASSIFY, content=b"x", params={"timeout": text})
    assert told.json()["reason"] == "OPTION_INVALID"
    assert "it is one number of seconds, over 0." in told.json()["error"]


async def test_a_path_may_name_a_version_by_its_label(served: ServedApp) -> None:
    path = "/v1/models/a-model/versions/canary"
    await served.ask("POST", f"{path}:classify?version=9", content=b"x")
    await served.ask("POST", "/v1/models/a-model/versions/9:classify?version_label=canary", content=b"x")
    served.answer("GetModel", pb.GetModelResponse())
    await served.ask("GET", path)
    assert served.asked == [
        classify(b"x", version_label="canary"),
        classify(b"x", version=9),
        pb.GetModelRequest(model="a-model", version_label="canary"),
    ]


async def test_a_form_may_ask_a_classifier_about_what_is_found(served: ServedApp) -> None:
    served.answer("Detect", pb.DetectResponse())
    asked = {"classify_with.model": "b", "classify_with.top_k": "1"}
    await served.ask("POST", "/v1/models/a-model:detect", files={"image": b"x"}, data=asked)
    assert served.asked[0].classify_with == pb.ClassifyWith(model="b", top_k=1)


@pytest.mark.parametrize(("objects", "on_the_loop"), [(1, True), (1000, False)])
async def test_a_long_reply_is_written_where_it_holds_nobody_up(
    objects: int, on_the_loop: bool, served: ServedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_in: list[threading.Thread] = []

    def noted(message: Any) -> Any:
        written_in.append(threading.current_thread())
        return plain(message)

    monkeypatch.setattr(vision, "plain", noted)
    found = [pb.Detection(label="cat", score=0.5)] * objects
    outcome = pb.DetectOutcome(result=pb.DetectionList(detections=found))
    served.answer("Detect", pb.DetectResponse(outcomes=[outcome]))
    told = await served.ask("POST", "/v1/models/m:detect", content=b"x")
    assert len(told.json()["outcomes"][0]["result"]["detections"]) == objects
    assert [thread is threading.current_thread() for thread in written_in] == [on_the_loop]


@pytest.mark.parametrize("version", ["-", "99999999999", "1.0", "%20"])
async def test_a_version_that_is_neither_number_nor_label_is_refused(version: str, served: ServedApp) -> None:
    told = await served.ask("POST", f"/v1/models/m/versions/{version}:classify", content=b"x")
    assert told.json()["reason"] == "OPTION_INVALID"


@pytest.mark.parametrize(
    ("outcomes", "status"), [([GOOD], 200), ([BAD, GOOD], 200), ([BAD], 400), ([BAD, BAD], 400)]
)
async def test_the_status_is_an_error_where_no_image_has_an_answer(
    outcomes: list[Any], status: int, served: ServedApp
) -> None:
    served.answer("Classify", pb.ClassifyResponse(outcomes=outcomes))
    told = await served.ask("POST", CLASSIFY, content=b"x")
    assert told.status_code == status
    assert len(told.json()["outcomes"]) == len(outcomes)
    # Each image has its own; the call was answered.
    assert served.counted() == [("Classify", "", "OK", 1)]


async def test_models_are_listed_and_described(served: ServedApp) -> None:
    model = pb.Model(name="m", version=2, manifest=manifest_pb2.ModelManifest(task=manifest_pb2.TASK_DETECT))
    served.answer("ListModels", pb.ListModelsResponse(models=[model]))
    served.answer("GetModel", pb.GetModelResponse(model=model))
    listed = await served.ask("GET", "/v1/models?task=detect")
    (one,) = listed.json()["models"]
    assert (one["name"], one["version"], one["manifest"]["task"]) == ("m", 2, "TASK_DETECT")
    for path in ("/v1/models/m", "/v1/models/m/versions/2", "/v1/models/m?version=2"):
        assert (await served.ask("GET", path)).json() == one
    assert served.asked == [
        pb.ListModelsRequest(task=manifest_pb2.TASK_DETECT),
        pb.GetModelRequest(model="m"),
        pb.GetModelRequest(model="m", version=2),
        pb.GetModelRequest(model="m", version=2),
    ]
    refused = await served.ask("GET", "/v1/models?task=guess")
    assert "choose classify or detect or segment or tensor" in refused.json()["error"]
