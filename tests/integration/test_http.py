"""Both services over HTTP, as curl asks: the answers are those of gRPC, in one process and with front-ends."""

import base64
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retinue.inference import grpc_service_pb2 as inference
from retinue.inference import grpc_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, pictures
from tests.calls import Connection, encoded
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess
from tests.system_packages import require

_CLASSIFIER, _DETECTOR, _SEGMENTER = "colour-classifier", "colour-detector", "colour-segmenter"


@dataclass(frozen=True)
class Told:
    """What curl got."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Curl:
    """curl on a server."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder

    def __call__(self, path: str, *arguments: str) -> Told:
        done = subprocess.run(
            [
                "curl",
                "--silent",
                "--show-error",
                "--write-out",
                "\n%{http_code}",
                *arguments,
                self._url + path,
            ],
            cwd=self._folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        body, _, status = done.stdout.rpartition(b"\n")
        return Told(int(status), body)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each colour, a large one, and one that is no image."""
    folder = tmp_path_factory.mktemp("files")
    for name, colour in pictures.COLOURS.items():
        (folder / f"{name}.png").write_bytes(pictures.png(colour))
    (folder / "notes.txt").write_bytes(b"no image")
    return folder


@pytest.fixture
def curl(colour_server: ServerProcess, files: Path) -> Iterator[Curl]:
    require("curl")
    yield Curl(colour_server.http_url, files)
    assert not [event for event in colour_server.events if event["level"] == "error"]


def image(files: Path, name: str) -> Any:
    return encoded((files / f"{name}.png").read_bytes())


def without_times(told: Any) -> Any:
    for outcome in told["outcomes"]:
        assert outcome.pop("timing")["total_us"] > 0
    return told


def test_one_image_is_classified(curl: Curl, colour: Connection, files: Path) -> None:
    told = curl(f"/v1/models/{_CLASSIFIER}:classify", "-F", "image=@red.png", "-F", "top_k=2")
    assert told.status == 200
    reply = colour.classify(image(files, "red"), model=_CLASSIFIER, top_k=2)
    classes = [
        {"class_id": one.class_id, "label": one.label, "score": pytest.approx(one.score)}
        for one in reply.outcomes[0].result.classes
    ]
    assert without_times(told.json()) == {
        "outcomes": [{"result": {"classes": classes}}],
        "model": _CLASSIFIER,
        "version": 1,
    }
    assert classes[0]["label"] == "red"


def test_several_images_are_answered_in_their_order_and_bad_ones_alone(curl: Curl) -> None:
    sent = [
        argument for name in ("blue.png", "notes.txt", "red.png") for argument in ("-F", f"image=@{name}")
    ]
    told = curl(f"/v1/models/{_CLASSIFIER}/versions/1:classify?top_k=1", *sent)
    assert told.status == 200
    blue, bad, red = told.json()["outcomes"]
    assert (blue["result"]["classes"][0]["label"], red["result"]["classes"][0]["label"]) == ("blue", "red")
    assert bad["error"]["reason"] == "IMAGE_UNDECODABLE"
    assert bad["error"]["status"] == "INVALID_ARGUMENT"


def test_an_image_may_be_the_body_itself_and_come_packed(curl: Curl, files: Path) -> None:
    path = f"/v1/models/{_CLASSIFIER}:classify?top_k=1"
    plain = curl(path, "--data-binary", "@green.png", "-H", "Content-Type: image/png")
    assert plain.json()["outcomes"][0]["result"]["classes"][0]["label"] == "green"
    subprocess.run(["gzip", "--keep", "--force", "green.png"], cwd=files, check=True)
    packed = curl(path, "--data-binary", "@green.png.gz", "-H", "Content-Encoding: gzip")
    assert without_times(packed.json()) == without_times(plain.json())


def test_objects_are_those_of_grpc(curl: Curl, colour: Connection, files: Path) -> None:
    told = curl(f"/v1/models/{_DETECTOR}:detect", "-F", "image=@red.png", "-F", "image=@blue.png")
    reply = colour.detect(image(files, "red"), image(files, "blue"), model=_DETECTOR)
    for outcome, expected in zip(told.json()["outcomes"], reply.outcomes, strict=True):
        result = outcome["result"]
        assert (result["image_width"], result["image_height"]) == (20, 10)
        assert [(one["label"], one["score"], one["box"]) for one in result["detections"]] == [
            (
                one.label,
                pytest.approx(one.score),
                {
                    side: pytest.approx(getattr(one.box, side))
                    for side in ("x_min", "y_min", "x_max", "y_max")
                },
            )
            for one in expected.result.detections
        ]
    assert told.json()["outcomes"][0]["result"]["detections"]


@pytest.mark.parametrize("mask_format", ["png", "raw", "coco_rle"])
def test_class_maps_are_those_of_grpc(mask_format: str, curl: Curl, colour: Connection, files: Path) -> None:
    told = curl(
        f"/v1/models/{_SEGMENTER}:segment", "-F", "image=@blue.png", "-F", f"mask_format={mask_format}"
    )
    number = pb.MaskFormat.Value(f"MASK_FORMAT_{mask_format.upper()}")
    expected = colour.segment(image(files, "blue"), model=_SEGMENTER, mask_format=number).outcomes[0].result
    result = told.json()["outcomes"][0]["result"]
    assert (result["width"], result["height"]) == (expected.width, expected.height)
    assert result["areas"][0] == {
        "class_id": expected.areas[0].class_id,
        "label": "blue",
        "area_pixels": expected.areas[0].area_pixels,
    }
    if mask_format == "coco_rle":
        masks = [one["counts"].encode() for one in result["coco_rle"]["masks"]]
        assert masks == [one.counts for one in expected.coco_rle.masks]
    else:
        assert base64.b64decode(result[mask_format]) == getattr(expected, mask_format)


def test_models_are_listed_and_described(curl: Curl, colour: Connection) -> None:
    listed = curl("/v1/models").json()["models"]
    assert [one["name"] for one in listed] == [one.name for one in colour.list_models()]
    (detector,) = curl("/v1/models?task=detect").json()["models"]
    one = curl(f"/v1/models/{_DETECTOR}").json()
    assert one == curl(f"/v1/models/{_DETECTOR}/versions/1").json()
    assert (one["name"], one["manifest"]["sha256"]) == (detector["name"], detector["manifest"]["sha256"])
    assert one["manifest"]["sha256"] == colour.get_model(_DETECTOR).manifest.sha256


def test_tensors_have_the_answers_of_grpc(curl: Curl, colour: Connection, files: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 8, 8, 3), np.uint8)
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(colour.channel)
    request = inference.ModelInferRequest(model_name=_CLASSIFIER, raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=pixels.shape)
    reply = stub.ModelInfer(request)
    expected = np.frombuffer(reply.raw_output_contents[0], np.float32)
    asked = {"name": "images", "shape": pixels.shape, "datatype": "UINT8"}
    path = f"/v2/models/{_CLASSIFIER}/infer"
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        (files / "request.json").write_text(json.dumps({"id": "1", "inputs": [asked | {"data": data}]}))
        told = curl(path, "--data", "@request.json").json()
        (output,) = told["outputs"]
        assert (told["model_name"], told["model_version"], told["id"]) == (_CLASSIFIER, "1", "1")
        assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [2, 3])
        np.testing.assert_allclose(output["data"], expected, rtol=1e-6)
    header = json.dumps(
        {
            "inputs": [asked | {"parameters": {"binary_data_size": pixels.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    (files / "request.bin").write_bytes(header + pixels.tobytes())
    length = f"Inference-Header-Content-Length: {len(header)}"
    told_binary = curl(path, "--data-binary", "@request.bin", "-H", length)
    assert told_binary.body.endswith(reply.raw_output_contents[0])


def test_the_protocols_questions_have_their_answers(curl: Curl) -> None:
    assert curl("/v2/health/live") == curl("/v2/health/ready") == Told(200, b"")
    assert curl(f"/v2/models/{_CLASSIFIER}/ready") == Told(200, b"")
    assert curl("/v2/models/nobody/ready") == Told(503, b"")
    assert curl("/v2").json()["name"] == "retinue"
    assert curl(f"/v2/models/{_CLASSIFIER}").json()["inputs"][0]["name"] == "images"
    assert curl(f"/v2/models/{_CLASSIFIER}/config").json()["max_batch_size"] == 256
    assert curl("/v2/models/stats").json()["model_stats"]
    index = curl("/v2/repository/index", "-X", "POST").json()
    assert {one["name"] for one in index} == {_CLASSIFIER, _DETECTOR, _SEGMENTER}
    assert {"/metrics", "/v1/models", "/v1/models/{model}:classify", "/v2"} <= set(
        curl("/").json()["endpoints"]
    )


def _infer(curl: Curl, **changes: Any) -> Told:
    """Asks with one element, which is too few for any shape."""
    shape = [1, colour_bundles.SIDE, colour_bundles.SIDE, 3]
    one = {"name": "images", "datatype": "UINT8", "shape": shape, "data": [1]} | changes
    return curl(f"/v2/models/{_CLASSIFIER}/infer", "--data", json.dumps({"inputs": [one]}))


def test_refusals_say_why_and_are_those_of_grpc(curl: Curl) -> None:
    refusals = {
        curl("/v1/models/nobody:classify", "-F", "image=@red.png"): (404, "MODEL_NOT_FOUND"),
        curl(f"/v1/models/{_DETECTOR}:classify", "-F", "image=@red.png"): (400, "WRONG_TASK"),
        curl(f"/v1/models/{_CLASSIFIER}:classify", "-X", "POST"): (400, "NO_IMAGES"),
        curl(f"/v1/models/{_CLASSIFIER}:classify", "-F", "image=@red.png", "-F", "top_k=9"): (
            *(400, "TOP_K_OUT_OF_RANGE"),
        ),
        curl(f"/v2/models/{_CLASSIFIER}/infer", "--data", "{}"): (400, "JSON_INVALID"),
        curl("/v2/models/nobody/infer", "--data", '{"inputs": []}'): (404, "MODEL_NOT_FOUND"),
        curl("/v2", "-X", "DELETE"): (405, "NO_ENDPOINT"),
        curl(f"/v1/models/{_CLASSIFIER}:classify"): (405, "NO_ENDPOINT"),
        curl(f"/v1/models/{_CLASSIFIER}:clasify", "-X", "POST"): (404, "NO_ENDPOINT"),
        curl(f"/v1/models/{_CLASSIFIER}:classify", "--data", "{}"): (400, "BODY_IS_JSON"),
        curl(f"/v1/models/{_CLASSIFIER}:classify?timeout=0", "-F", "image=@red.png"): (400, "OPTION_INVALID"),
        curl("/v2", "-H", "Host: elsewhere.example"): (403, "FOREIGN_HOST"),
        curl("/ui/", "-H", "Host: elsewhere.example"): (403, "FOREIGN_HOST"),
        _infer(curl, name="pixels"): (400, "INPUT_UNKNOWN"),
        _infer(curl, datatype="FP32"): (400, "INPUT_MISMATCH"),
        _infer(curl, shape=[1, 9, 9, 3]): (400, "INPUT_MISMATCH"),
        _infer(curl): (400, "TENSOR_SIZE_MISMATCH"),
    }
    for told, (status, reason) in refusals.items():
        assert (told.status, told.json()["reason"]) == (status, reason)
        assert told.json()["error"].endswith(".")
    only_bad = curl(f"/v1/models/{_CLASSIFIER}:classify", "-F", "image=@notes.txt")
    assert (only_bad.status, only_bad.json()["outcomes"][0]["error"]["reason"]) == (400, "IMAGE_UNDECODABLE")


def test_an_answer_is_wanted_within_the_timeout(curl: Curl) -> None:
    path = f"/v1/models/{_CLASSIFIER}:classify"
    assert curl(path, "-F", "image=@red.png", "-F", "timeout=60").status == 200
    # The queue would take longer, or it has passed already.
    assert curl(f"{path}?timeout=1e-9", "-F", "image=@red.png").status in {429, 504}


def test_calls_are_counted_beside_those_of_grpc(curl: Curl, colour_server: ServerProcess) -> None:
    def counted(code: str, method: str) -> float:
        return MetricsPage(colour_server.http_url).total("retinue_requests_total", method=method, code=code)

    before = counted("OK", "Classify"), counted("NOT_FOUND", "ModelMetadata")
    curl(f"/v1/models/{_CLASSIFIER}:classify", "-F", "image=@red.png")
    curl("/v2/models/nobody")
    wait_until(
        lambda: (
            (counted("OK", "Classify"), counted("NOT_FOUND", "ModelMetadata"))
            == (before[0] + 1, before[1] + 1)
        ),
        "both calls to be counted once",
    )
