"""Triton's own client hands over shared memory, loads and unloads models, and is told what a server does not do."""

import base64
from pathlib import Path

import numpy as np
import pytest
from tests import colour_bundles, living_bundles, pictures
from tests.server_process import ServerProcess, running_server
from tests.triton import How, Protocol, TritonClient, best_classes, colours, request

_CLASSIFIER = "colour-classifier"
_ROW_BYTES = 3 * 4
_INVALID = {"grpc": "StatusCode.INVALID_ARGUMENT", "http": "400"}
_SYNC: dict[Protocol, How] = {"grpc": "sync", "http": "http"}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_inputs_and_outputs_go_through_shared_memory(
    protocol: Protocol, triton_server: ServerProcess
) -> None:
    triton = TritonClient.of(triton_server, protocol)
    order = (2, 0, 1, 1)
    files = [pictures.png(list(pictures.COLOURS.values())[of]) for of in order]
    pixels = colours(*order)
    told = triton.run(
        "shared_memory",
        pixels=base64.b64encode(pixels.tobytes()).decode(),
        files=[base64.b64encode(file).decode() for file in files],
    )
    (expected,) = triton.infer(request(_CLASSIFIER, pixels), how=_SYNC[protocol])
    for how in ("inline", "shared", "of files"):
        np.testing.assert_allclose(told[how], expected["probabilities"], rtol=0, atol=1e-6)
    assert (told["in the answer"], told["before the offset"]) == (False, 0)
    assert told["status"].keys() == {"pixels", "files", "rows"}
    assert told["status"]["pixels"]["byte_size"] == pixels.nbytes
    assert told["one status"].keys() == {"rows"}
    room = len(order) * _ROW_BYTES
    assert (
        f"the output has {room} bytes, and the request gives it {room - 1}"
        in told["too little room"]["message"]
    )
    assert "are not within shared memory region 'rows'" in told["beyond the end"]["message"]
    assert f"has {pixels.nbytes - 1} bytes of shared memory" in told["too few bytes"]["message"]
    assert "there is no shared memory region 'pixels'" in told["unregistered"]["message"]
    for what in ("too little room", "beyond the end", "too few bytes", "unregistered"):
        assert told[what]["status"] == _INVALID[triton.protocol]
    assert told["status after"].keys() == {"files", "rows"}
    assert not told["status at the end"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_shared_memory_that_is_none_is_refused(protocol: Protocol, triton_server: ServerProcess) -> None:
    told = TritonClient.of(triton_server, protocol).run("shared_memory")
    assert "is registered already" in told["twice"]["message"]
    assert "make it larger, or register less" in told["larger than it is"]["message"]
    assert "has no such object" in told["absent"]["message"]
    assert "no slash but a leading one" in told["outside"]["message"]
    assert "there is no shared memory region 'nobody'" in told["unknown status"]["message"]
    assert told["cuda"]["status"] in ("StatusCode.UNIMPLEMENTED", "501")
    assert "takes no regions of a GPU's memory" in told["cuda"]["message"]
    assert not told["cuda status"]
    assert told["cuda unregister"] is None


def test_models_are_indexed(triton: TritonClient) -> None:
    (index,) = triton.call(("get_model_repository_index", {}))
    assert {(one["name"], one["version"], one["state"]) for one in index["models"]} >= {
        (_CLASSIFIER, "1", "READY"),
        (_CLASSIFIER, "2", "READY"),
        ("colour-segmenter", "1", "READY"),
    }


def test_calls_load_nothing_where_they_do_not_control_the_models(triton: TritonClient) -> None:
    for told in triton.call(
        ("load_model", {"model_name": _CLASSIFIER}), ("unload_model", {"model_name": _CLASSIFIER})
    ):
        assert told["status"].startswith("StatusCode.")
        assert "--model-control explicit" in told["message"]


@pytest.mark.slow
def test_models_are_loaded_and_unloaded_by_calls(tmp_path: Path) -> None:
    living_bundles.put(tmp_path, "colours", 1)
    with running_server(tmp_path, "--model-control", "explicit") as server:
        triton = TritonClient(server.grpc_address)
        ask = request("colours", colours(1, 0), ("probabilities", 1))
        (before,) = triton.infer(ask)
        assert before.status == "StatusCode.NOT_FOUND"
        ready, index, loaded, now = triton.call(
            ("is_server_ready", {}),
            ("get_model_repository_index", {}),
            ("load_model", {"model_name": "colours"}),
            ("get_model_repository_index", {}),
        )
        assert (ready, loaded) == (True, None)
        assert index["models"] == [
            {"name": "colours", "version": "1", "state": "UNAVAILABLE", "reason": "it is not loaded."}
        ]
        assert now["models"] == [{"name": "colours", "version": "1", "state": "READY"}]
        (answer,) = triton.infer(ask)
        assert [text[0].split(":")[2] for text in answer["probabilities"]] == ["green-1", "red-1"]

        refusals = triton.call(
            ("load_model", {"model_name": "colours", "config": '{"max_batch_size": 1}'}),
            ("load_model", {"model_name": "nobody"}),
            *[("load_model", {"model_name": name}) for name in ("..", "../colours", "a/../colours", "")],
            ("unload_model", {"model_name": "../colours"}),
        )
        assert [one["status"].removeprefix("StatusCode.") for one in refusals] == [
            *("INVALID_ARGUMENT", "NOT_FOUND", *["INVALID_ARGUMENT"] * 5)
        ]
        assert "has `max_batch_size`, which this server does not take" in refusals[0]["message"]
        (still,) = triton.infer(ask)
        assert not still.message

        living_bundles.put(tmp_path, "colours", 2)
        config = '{"version_policy": {"specific": {"versions": [2]}}, "labels": {"canary": 2}}'
        loaded, canary, gold = triton.call(
            ("load_model", {"model_name": "colours", "config": config}),
            ("get_model_metadata", {"model_name": "colours", "model_version": "canary"}),
            ("get_model_metadata", {"model_name": "colours", "model_version": "gold"}),
        )
        assert loaded is None
        assert canary["versions"] == ["2"]
        assert gold["status"] == "StatusCode.NOT_FOUND"
        assert "labels: 'canary'; versions served: '2'" in gold["message"]

        unloaded, gone = triton.call(
            ("unload_model", {"model_name": "colours"}), ("is_model_ready", {"model_name": "colours"})
        )
        assert (unloaded, gone) == (None, False)
        (after,) = triton.infer(ask)
        assert after.status == "StatusCode.NOT_FOUND"
        assert server.terminate() == 0


@pytest.mark.slow
def test_front_ends_infer_and_say_what_they_do_not(tmp_path: Path) -> None:
    colour_bundles.classifier(tmp_path)
    with running_server(tmp_path, "--workers", "2") as server:
        triton = TritonClient(server.grpc_address)
        order = [number % 3 for number in range(50)]
        for how in ("sync", "aio stream"):
            answers = triton.infer(*[request(_CLASSIFIER, colours(*order))] * 8, how=how)
            assert [best_classes(one["probabilities"]) for one in answers] == [order] * 8
        files = [pictures.png(colour) for colour in pictures.COLOURS.values()]
        (answer,) = triton.infer(request(_CLASSIFIER, files, ("probabilities", 1)))
        assert [text[0].split(":")[2] for text in answer["probabilities"]] == list(colour_bundles.LABELS)
        index, load, shared, status = triton.call(
            ("get_model_repository_index", {}),
            ("load_model", {"model_name": _CLASSIFIER}),
            ("register_system_shared_memory", {"name": "a", "key": "/a", "byte_size": 16}),
            ("get_system_shared_memory_status", {}),
        )
        assert index["models"] == [{"name": _CLASSIFIER, "version": "1", "state": "READY"}]
        assert load["status"] == "StatusCode.FAILED_PRECONDITION"
        assert "--model-control explicit" in load["message"]
        for told in (shared, status):
            assert told["status"] == "StatusCode.INVALID_ARGUMENT"
            assert "--workers 0" in told["message"]
