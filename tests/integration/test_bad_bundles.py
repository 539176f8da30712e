"""Bundles that do not hold what they promise are refused, named with file and field; the others are served."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from tests import colour_bundles, odd_bundles
from tests.calls import Connection, connected, flat, refused
from tests.colour_bundles import rewrite_manifest
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess, running_server

_RED = flat(255, 0, 0)
_Breaks = Callable[[Path], object]

_REPLACE = "copy or export the bundle again"


def _shape(name: str, *sizes: int | str, kind: int = TensorProto.UINT8) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, sizes)


def _input(value: onnx.ValueInfoProto) -> _Breaks:
    """Gives the graph another input."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(value)

    return lambda bundle: odd_bundles.edit_graph(bundle, edit)


def _rename_input(bundle: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = "pixels"
        model.graph.node[0].input[0] = "pixels"

    odd_bundles.edit_graph(bundle, edit)


def _second_input(bundle: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input.append(_shape("threshold", 1, kind=TensorProto.FLOAT))

    odd_bundles.edit_graph(bundle, edit)


def _rename_output(bundle: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.output[0].name = "logits"
        model.graph.node[-1].output[0] = "logits"

    odd_bundles.edit_graph(bundle, edit)


def _whole_number_output(bundle: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.node[-1].output[0] = "floating"
        graph.node.append(helper.make_node("Cast", ["floating"], ["probabilities"], to=TensorProto.INT64))
        graph.output[0].CopyFrom(_shape("probabilities", "N", 3, kind=TensorProto.INT64))

    odd_bundles.edit_graph(bundle, edit)


def _unknown_operator(bundle: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.node[-1].op_type = "Paint"

    odd_bundles.edit_graph(bundle, edit)


def _fails_on_everything(bundle: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        del graph.initializer[:]
        graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "height_and_width"))
        graph.initializer.append(numpy_helper.from_array(np.array([7, 8, 9]), "no_classes"))
        graph.node[-1].output[0] = "right"
        graph.node.append(helper.make_node("Gather", ["right", "no_classes"], ["probabilities"], axis=1))

    odd_bundles.edit_graph(bundle, edit)


def _replace(path: Path, make: _Breaks) -> None:
    path.unlink()
    make(path)


def _truncate(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    odd_bundles.replace_model(bundle, content[: len(content) // 2])


def _change_a_byte(bundle: Path) -> None:
    path = bundle / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _weights_beside(location: str) -> _Breaks:
    """Gives the graph a weight that lies in another file, where ONNX Runtime would read it."""

    def breaks(bundle: Path) -> None:
        def edit(model: onnx.ModelProto) -> None:
            graph = model.graph
            weight = numpy_helper.from_array(np.zeros(3, np.float32), "bias")
            (bundle / location).write_bytes(weight.raw_data)
            set_external_data(weight, location)
            weight.ClearField("raw_data")
            graph.initializer.append(weight)
            graph.node.insert(2, helper.make_node("Add", ["means", "bias"], ["sums"]))
            graph.node[-1].input[0] = "sums"

        odd_bundles.edit_graph(bundle, edit)

    return breaks


def _nested(group: str, field: str, value: object) -> _Breaks:
    """Sets a field of a group of fields, such as input.resize."""

    def edit(bundle: Path) -> None:
        path = bundle / "manifest.json"
        fields = json.loads(path.read_text())
        place = fields
        for part in group.split("."):
            place = place[part]
        place[field] = value
        path.write_text(json.dumps(fields))

    return edit


# What is wrong: what breaks it, and what must be named.
BROKEN: dict[str, tuple[_Breaks, tuple[str, ...]]] = {
    "manifest-is-no-json": (
        lambda bundle: (bundle / "manifest.json").write_text('{"format_version": 1,'),
        ("manifest.json", "JSON", _REPLACE),
    ),
    "manifest-is-a-list": (
        lambda bundle: (bundle / "manifest.json").write_text("[]"),
        ("manifest.json", "is no JSON object", _REPLACE),
    ),
    "manifest-is-a-pipe": (
        lambda bundle: _replace(bundle / "manifest.json", os.mkfifo),
        ("manifest.json", "is no regular file; copy it again"),
    ),
    "manifest-never-ends": (
        lambda bundle: _replace(bundle / "manifest.json", lambda path: path.symlink_to("/dev/zero")),
        ("manifest.json", "leads out of the models folder; copy the bundle into it"),
    ),
    "graph-is-a-pipe": (
        lambda bundle: _replace(bundle / "model.onnx", os.mkfifo),
        ("model.onnx", "is no regular file; copy it again"),
    ),
    "graph-never-ends": (
        lambda bundle: _replace(bundle / "model.onnx", lambda path: path.symlink_to("/dev/zero")),
        ("model.onnx", "leads out of the models folder; copy the bundle into it"),
    ),
    "manifest-is-no-text": (
        lambda bundle: (bundle / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        ("manifest.json", "not UTF-8", _REPLACE),
    ),
    "manifest-leads-nowhere": (
        lambda bundle: odd_bundles.replace_by_link(bundle / "manifest.json", Path("nowhere.json")),
        ("manifest.json", "cannot be read", "copy it again, or let this user read it"),
    ),
    "everything-is-missing": (
        lambda bundle: [file.unlink() for file in bundle.iterdir()],
        ("manifest.json", "cannot be read", "copy it again, or let this user read it"),
    ),
    "unknown-field": (lambda bundle: rewrite_manifest(bundle, flavour="mild"), ("manifest.json", "flavour")),
    "text-for-a-list": (lambda bundle: rewrite_manifest(bundle, labels="red"), ("manifest.json", "labels")),
    "unknown-task": (lambda bundle: rewrite_manifest(bundle, task="TASK_PAINT"), ("manifest.json", "task")),
    "no-task": (lambda bundle: rewrite_manifest(bundle, task=None), ("manifest.json", "`task`")),
    "later-format": (
        lambda bundle: rewrite_manifest(bundle, format_version=2),
        ("manifest.json", "`format_version`"),
    ),
    "no-precision": (
        lambda bundle: rewrite_manifest(bundle, precision=None),
        ("manifest.json", "`precision`"),
    ),
    "labels-that-steer-a-terminal": (
        lambda bundle: rewrite_manifest(bundle, labels=["red", "green", "\x1b[31mblue"]),
        ("manifest.json", "`labels`", "no control characters"),
    ),
    "endless-labels": (
        lambda bundle: rewrite_manifest(bundle, labels=["red", "green", "b" * 1_000_000]),
        ("manifest.json", "`labels`", "1 to 256 characters"),
    ),
    "no-labels": (lambda bundle: rewrite_manifest(bundle, labels=[]), ("manifest.json", "`labels`")),
    "no-height": (_nested("input", "height", 0), ("manifest.json", "`input.height`")),
    "huge-width": (_nested("input", "width", 1_000_000), ("manifest.json", "`input.width`")),
    "no-resize-mode": (
        _nested("input.resize", "mode", "RESIZE_MODE_UNSPECIFIED"),
        ("manifest.json", "`input.resize.mode`"),
    ),
    "bad-padding": (_nested("input.resize", "pad_value", 256), ("manifest.json", "`input.resize.pad_value`")),
    "hash-of-another-shape": (
        lambda bundle: rewrite_manifest(bundle, sha256="0" * 63),
        ("manifest.json", "`sha256`"),
    ),
    "wrong-name": (
        lambda bundle: rewrite_manifest(bundle, name="somebody-else"),
        ("manifest.json", "`name`", "'somebody-else'", "'wrong-name'"),
    ),
    "wrong-hash": (_change_a_byte, ("model.onnx", "`sha256`", "manifest.json", _REPLACE)),
    "truncated-graph": (_truncate, ("model.onnx", "cannot be loaded", _REPLACE)),
    "no-graph": (
        lambda bundle: odd_bundles.replace_model(bundle, b""),
        ("model.onnx", "cannot be loaded", _REPLACE),
    ),
    "graph-is-missing": (
        lambda bundle: (bundle / "model.onnx").unlink(),
        ("model.onnx", "cannot be read", "copy it again, or let this user read it"),
    ),
    "unknown-operator": (_unknown_operator, ("model.onnx", "cannot be loaded", _REPLACE)),
    "weights-beside-the-graph": (
        _weights_beside("weights.bin"),
        ("model.onnx", "in other files", "weights inside"),
    ),
    "weights-elsewhere": (
        _weights_beside("../../weights.bin"),
        ("model.onnx", "in other files", "export it with all weights inside"),
    ),
    "float-input": (
        _input(_shape("images", "N", 8, 8, 3, kind=TensorProto.FLOAT)),
        ("model.onnx", "input 'images'", "tensor(float)", "tensor(uint8)"),
    ),
    "planar-input": (
        _input(_shape("images", "N", 3, 8, 8)),
        ("model.onnx", "input 'images' has 3 in dimension 1", "`input` says 8"),
    ),
    "fixed-batch": (
        _input(_shape("images", 4, 8, 8, 3)),
        ("model.onnx", "input 'images'", "fixed batch size 4"),
    ),
    "other-input": (_rename_input, ("model.onnx", "takes 'pixels'", "'images' only")),
    "two-inputs": (_second_input, ("model.onnx", "takes 'threshold'", "'images' only")),
    "missing-output": (_rename_output, ("model.onnx", "output 'probabilities' is missing", "logits")),
    "integer-output": (
        _whole_number_output,
        ("model.onnx", "output 'probabilities'", "tensor(int64)", "tensor(float)"),
    ),
    "more-labels-than-classes": (
        lambda bundle: rewrite_manifest(bundle, labels=["red", "green", "blue", "mauve"]),
        ("model.onnx", "output 'probabilities' has 3", "`labels` says 4"),
    ),
    "fails-when-run": (_fails_on_everything, ("model.onnx", "cannot be run", "export the bundle again")),
}


@pytest.fixture(scope="module")
def broken_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("broken")
    colour_bundles.classifier(models, "good")
    rewrite_manifest(colour_bundles.classifier(models, "good", version=2), format_version=0)
    for name, (breaks, _) in BROKEN.items():
        breaks(colour_bundles.classifier(models, name))
    # None of these is a bundle.
    (models / "README.md").write_text("notes")
    (models / "good" / "3.tmp").mkdir()
    (models / "good" / "04").mkdir()
    (models / ".hidden" / "1").mkdir(parents=True)
    return models


@pytest.fixture(scope="module")
def server(broken_models: Path) -> Iterator[ServerProcess]:
    with running_server(broken_models) as process:
        yield process


@pytest.fixture(scope="module")
def connection(server: ServerProcess) -> Iterator[Connection]:
    with connected(server.grpc_address) as connection:
        yield connection


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_refused_by_file_and_field(
    name: str, connection: Connection, server: ServerProcess, broken_models: Path
) -> None:
    _, named = BROKEN[name]

    (event,) = [event for event in server.events if event.get("model") == name]
    assert (event["event"], event["level"]) == ("model_refused", "error")
    assert str(broken_models / name / "1") in event["reason"]

    refusal = refused(lambda: connection.get_model(name))
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert f"model '{name}' version 1 was found but cannot be served" in refusal.message

    for text in (event["reason"], refusal.message):
        assert all(part in text for part in named), text
        assert "\n" not in text

    assert refused(lambda: connection.classify(_RED, model=name)).message == refusal.message
    page = MetricsPage(server.http_url)
    assert page.value("retinue_model_load_failed", model=name, version="1") == 1
    assert not page.find("retinue_model_info", model=name)


def test_the_good_bundle_among_broken_ones_is_served(connection: Connection, server: ServerProcess) -> None:
    assert [(model.name, model.version) for model in connection.list_models()] == [("good", 1)]
    response = connection.classify(_RED, model="good")
    assert response.outcomes[0].result.classes[0].label == "red"
    # The newest version is broken, so the newest that is served answers.
    assert response.version == 1
    assert not MetricsPage(server.http_url).find("retinue_model_load_failed", model="good", version="1")


def test_a_broken_version_of_a_good_model_is_refused_with_its_reason(connection: Connection) -> None:
    refusal = refused(lambda: connection.get_model("good", version=2))
    assert refusal.code == "NOT_FOUND"
    assert "`format_version`" in refusal.message
    missing = refused(lambda: connection.get_model("good", version=3))
    assert "versions served: '1'" in missing.message


def test_the_banner_names_what_is_not_served(broken_models: Path) -> None:
    with running_server(broken_models) as server:
        assert server.terminate() == 0
    lines = server.stdout.splitlines()
    assert any(line.split() == ["good", "1", "classify", "8x8", *line.split()[4:]] for line in lines)
    for name, (_, named) in BROKEN.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} 1 is NOT served:")]
        assert all(part in line for part in named)


def test_a_server_with_broken_bundles_only_does_not_start(tmp_path: Path) -> None:
    for name in ("wrong-hash", "no-labels"):
        BROKEN[name][0](colour_bundles.classifier(tmp_path, name))
    server = ServerProcess(tmp_path)
    try:
        assert server.wait() == 2
    finally:
        server.close()
    sentence = server.stderr_lines[-1]
    assert sentence.startswith("retinue-server: none of the bundles can be served: ")
    assert str(tmp_path / "wrong-hash" / "1" / "model.onnx") in sentence
    assert "field `sha256`" in sentence
    assert str(tmp_path / "no-labels" / "1" / "manifest.json") in sentence
    assert "field `labels`" in sentence
    assert not any("Traceback" in line for line in server.stderr_lines)
    assert server.stdout == ""
