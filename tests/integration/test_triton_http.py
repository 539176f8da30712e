"""Triton's own HTTP clients have from this server what they have from Triton, and what the gRPC ones have."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests import living_bundles, pictures
from tests.metrics_page import wait_until
from tests.server_process import ServerProcess, running_server
from tests.triton import How, TritonClient, best_classes, colours, request

_CLASSIFIER = "colour-classifier"
_REGIONS = (0, 0, 20, 10), (0, 0, 10, 10), (0, 0, 0, 0)
_EXPIRED = {"429", "504"}


@pytest.fixture(scope="module")
def client(triton_server: ServerProcess) -> TritonClient:
    return TritonClient.of(triton_server, "http")


def test_health_and_descriptions_are_those_of_grpc(client: TritonClient, triton: TritonClient) -> None:
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("is_server_live", {}),
        ("is_server_ready", {}),
        ("is_model_ready", {"model_name": _CLASSIFIER}),
        ("is_model_ready", {"model_name": _CLASSIFIER, "model_version": "2"}),
        ("is_model_ready", {"model_name": "nobody"}),
        ("get_server_metadata", {}),
        ("get_model_metadata", {"model_name": _CLASSIFIER}),
        ("get_model_metadata", {"model_name": "colour-regions"}),
        ("get_model_repository_index", {}),
        ("get_model_config", {"model_name": _CLASSIFIER, "model_version": "1"}),
    )
    *health, server, model, detector, index, config = client.call(*calls)
    assert health == [True, True, True, True, False]
    *_, of_server, of_model, of_detector, of_index, of_config = triton.call(*calls)
    assert server == of_server
    assert _as_texts(model) == of_model
    assert _as_texts(detector) == of_detector
    assert [{key: value for key, value in one.items() if value} for one in index] == of_index["models"]
    assert (config["name"], config["max_batch_size"]) == (_CLASSIFIER, of_config["config"]["max_batch_size"])
    assert config["input"][0]["dims"] == [8, 8, 3]
    assert config["input"][0]["data_type"] == of_config["config"]["input"][0]["data_type"]


def _as_texts(told: dict[str, Any]) -> dict[str, Any]:
    """Shapes as protobuf's JSON has 64 bits."""
    for tensor in (*told["inputs"], *told["outputs"]):
        tensor["shape"] = [str(size) for size in tensor["shape"]]
    return told


def test_what_is_refused_says_why(client: TritonClient) -> None:
    refusals = client.call(
        ("get_model_metadata", {"model_name": "nobody"}),
        ("get_model_config", {"model_name": _CLASSIFIER, "model_version": "3"}),
        ("get_inference_statistics", {"model_name": "nobody"}),
        ("get_model_config", {"model_name": "..", "model_version": "1"}),
        ("load_model", {"model_name": _CLASSIFIER}),
        ("update_log_settings", {"settings": {"log_info": True}}),
    )
    assert [one["status"] for one in refusals[:4]] == ["404", "404", "404", "404"]
    assert "there is no model 'nobody'" in refusals[0]["message"]
    assert "--model-control explicit" in refusals[4]["message"]
    assert refusals[5]["status"] in ("400", "501")
    named, numbered, output, shape, expired, bad = client.infer(
        request("nobody", colours(0)),
        request(_CLASSIFIER, colours(0), model_version="1.5"),
        request(_CLASSIFIER, colours(0), "heatmap"),
        request(_CLASSIFIER, np.zeros((1, 9, 9, 3), np.uint8)),
        request(_CLASSIFIER, colours(0), timeout=1),
        request(_CLASSIFIER, [pictures.png(pictures.RED), b"no image"]),
        how="http",
    )
    assert (named.status, numbered.status, output.status, shape.status) == ("404", "400", "400", "400")
    assert "has no output 'heatmap'; it gives 'probabilities'" in output.message
    assert expired.status in _EXPIRED
    assert (bad.status, bad.message.partition(":")[0]) == ("400", "image 1")


def test_statistics_go_up_by_what_was_asked(client: TritonClient) -> None:
    def statistics() -> dict[str, Any]:
        (told,) = client.call(("get_inference_statistics", {"model_name": "colour-segmenter"}))
        return told["model_stats"][0]  # type: ignore[no-any-return]

    before = statistics()
    client.infer(*[request("colour-segmenter", colours(0, 1, 2))] * 4, how="http")
    wait_until(
        lambda: statistics()["inference_count"] - before["inference_count"] == 12, "12 images to be counted"
    )
    after = statistics()
    grown = after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"]
    assert grown == 4


@pytest.mark.parametrize("how", ["http", "http async", "http aio"])
def test_every_way_to_ask_has_the_answers_of_grpc(
    how: How, client: TritonClient, triton: TritonClient
) -> None:
    files = [pictures.png(colour) for colour in pictures.COLOURS.values()]
    requests = [
        request(_CLASSIFIER, colours(number % 3, 2), request_id=f"request {number}") for number in range(6)
    ]
    requests += [
        request(_CLASSIFIER, files),
        request(_CLASSIFIER, files, "probabilities"),
        request(_CLASSIFIER, files, ("probabilities", 2)),
        request(_CLASSIFIER, colours(1), model_version="1", priority=1),
        request("colour-detector", files),
        request("colour-detector", colours(0), "boxes", "classes"),
        request("colour-segmenter", colours(0, 1)),
        request("colour-regions", files, inputs={"regions": np.array([_REGIONS] * 3, np.float32)}),
    ]
    answers, expected = client.infer(*requests, how=how), triton.infer(*requests)
    for one, other in zip(answers, expected, strict=True):
        assert (one.id, one.version, one.datatypes) == (other.id, other.version, other.datatypes)
        assert one.outputs is not None
        assert other.outputs is not None
        for name, array in other.outputs.items():
            assert one[name].shape == array.shape
            if array.dtype.kind == "U":
                assert (one[name] == array).all()
            else:
                np.testing.assert_allclose(one[name], array, rtol=1e-6, atol=1e-6)


def test_tensors_may_go_as_json_both_ways(client: TritonClient) -> None:
    thresholds = np.array([[0.5]], np.float32)
    binary, as_json, named, detected = client.infer(
        request(_CLASSIFIER, colours(0, 1), "probabilities"),
        request(_CLASSIFIER, colours(0, 1), "probabilities", as_json=True),
        request(_CLASSIFIER, colours(0, 1), ("probabilities", 1), as_json=True),
        request(
            *("colour-regions", [pictures.png(pictures.RED)], "scores"),
            inputs={"regions": np.array([_REGIONS], np.float32), "score_threshold": thresholds},
            as_json=True,
        ),
        how="http",
    )
    np.testing.assert_array_equal(as_json["probabilities"], binary["probabilities"])
    assert [text.split(":")[2] for text in named["probabilities"].ravel()] == ["red", "green"]
    assert detected["scores"].max() > 0.5


@pytest.mark.parametrize("how", ["http", "http aio"])
def test_requests_and_replies_may_be_packed(how: How, client: TritonClient) -> None:
    order = [number % 3 for number in range(25)]
    requests = [
        request(
            *(_CLASSIFIER, colours(*order), "probabilities"),
            request_compression_algorithm=there,
            response_compression_algorithm=back,
            as_json=as_json,
        )
        for there in (None, "gzip", "deflate")
        for back in (None, "gzip", "deflate")
        for as_json in (False, True)
    ]
    for answer in client.infer(*requests, how=how):
        assert best_classes(answer["probabilities"]) == order


def test_replies_are_packed_on_the_wire(triton_server: ServerProcess) -> None:
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "shape": [200, 8, 8, 3],
                    "datatype": "UINT8",
                    "parameters": {"binary_data_size": 200 * 192},
                }
            ]
        }
    ).encode()
    told = httpx.post(
        f"{triton_server.http_url}/v2/models/{_CLASSIFIER}/infer",
        content=gzip.compress(header + bytes(200 * 192)),
        headers={
            "Inference-Header-Content-Length": str(len(header)),
            "Content-Encoding": "gzip",
            "Accept-Encoding": "gzip",
        },
    )
    assert told.headers["content-encoding"] == "gzip"
    assert len(told.json()["outputs"][0]["data"]) == 600


@pytest.mark.slow
def test_models_are_loaded_and_unloaded_by_calls(tmp_path: Path) -> None:
    living_bundles.put(tmp_path, "colours", 1)
    with running_server(tmp_path, "--model-control", "explicit") as server:
        client = TritonClient.of(server, "http")
        index, loaded, ready, now, config, nobody, outside, unloaded, gone = client.call(
            ("get_model_repository_index", {}),
            ("load_model", {"model_name": "colours"}),
            ("is_model_ready", {"model_name": "colours"}),
            ("get_model_repository_index", {}),
            ("load_model", {"model_name": "colours", "config": '{"max_batch_size": 8}'}),
            ("load_model", {"model_name": "nobody"}),
            ("unload_model", {"model_name": "..%2fcolours"}),
            ("unload_model", {"model_name": "colours"}),
            ("is_model_ready", {"model_name": "colours"}),
        )
        assert index == [
            {"name": "colours", "version": "1", "state": "UNAVAILABLE", "reason": "it is not loaded."}
        ]
        assert (loaded, ready, unloaded, gone) == (None, True, None, False)
        assert now == [{"name": "colours", "version": "1", "state": "READY", "reason": ""}]
        assert (config["status"], nobody["status"], outside["status"]) == ("400", "404", "400")
        assert "max_batch_size" in config["message"]
        assert server.terminate() == 0
        assert not [event for event in server.events if event["level"] == "error"]
