import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle import manifest, plain
from retinue_server.errors import BundleError
from retinue_server.vision.spec import ResizeMode

SHA256 = "0" * 64


def fields(task: str = "TASK_CLASSIFY", /, **changes: Any) -> dict[str, Any]:
    """A manifest that holds, as JSON; a dot in a name goes one level down, as `__`."""
    valid: dict[str, Any] = {
        "format_version": 1,
        "name": "a-model",
        "task": task,
        "input": {
            "height": 224,
            "width": 160,
            "colour": "COLOUR_RGB",
            "resize": {"mode": "RESIZE_MODE_STRETCH", "interpolation": "INTERPOLATION_BILINEAR"},
        },
        "labels": ["red", "green"],
        "opset": 20,
        "precision": "PRECISION_FP32",
        "sha256": SHA256,
    }
    if task == "TASK_CLASSIFY":
        valid["classify"] = {"heatmap_height": 7, "heatmap_width": 5}
    if task == "TASK_DETECT":
        valid["detect"] = {
            "max_detections": 10,
            "min_score": 0.05,
            "nms_iou_threshold": 0.5,
            "default_score_threshold": 0.4,
            "max_regions": 20,
            "mask_height": 28,
            "mask_width": 14,
            "keypoint_names": ["nose", "left_eye"],
        }
    if task == "TASK_SEGMENT":
        valid["segment"] = {"map_height": 56, "map_width": 40, "background_class_id": -1}
    for path, value in changes.items():
        *groups, name = path.split("__")
        place = valid
        for group in groups:
            place = place[group]
        place[name] = value
    return valid


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def why_refused(folder: Path) -> str:
    with pytest.raises(BundleError) as refused:
        manifest.read(folder)
    assert str(folder / "manifest.json") in refused.value.message
    assert refused.value.message.endswith(".")
    assert "\n" not in refused.value.message
    return refused.value.message


@pytest.mark.parametrize("task", ["TASK_CLASSIFY", "TASK_DETECT", "TASK_SEGMENT"])
def test_a_manifest_that_holds_is_read(task: str, tmp_path: Path) -> None:
    content = fields(task)
    assert manifest.read(write(tmp_path, content)) == json_format.ParseDict(content, pb.ModelManifest())


def test_names_may_be_camel_case_as_protobuf_writes_them(tmp_path: Path) -> None:
    read = manifest.read(write(tmp_path, fields()))
    (tmp_path / "manifest.json").write_text(json_format.MessageToJson(read))
    assert '"formatVersion"' in (tmp_path / "manifest.json").read_text()
    assert manifest.read(tmp_path) == read


BAD_FIELDS: list[tuple[str, str, Any]] = [
    ("TASK_CLASSIFY", "format_version", 0),
    ("TASK_CLASSIFY", "format_version", 2),
    ("TASK_CLASSIFY", "name", ""),
    ("TASK_CLASSIFY", "name", ".hidden"),
    ("TASK_CLASSIFY", "name", "../up"),
    ("TASK_CLASSIFY", "name", "white space"),
    ("TASK_CLASSIFY", "name", "new\nline"),
    ("TASK_CLASSIFY", "name", "line\n"),
    ("TASK_CLASSIFY", "name", "umlaut-ä"),
    ("TASK_CLASSIFY", "name", "x" * 129),
    ("TASK_CLASSIFY", "task", "TASK_UNSPECIFIED"),
    ("TASK_CLASSIFY", "task", 99),
    ("TASK_CLASSIFY", "input__height", 0),
    ("TASK_CLASSIFY", "input__height", -1),
    ("TASK_CLASSIFY", "input__height", 8193),
    ("TASK_CLASSIFY", "input__width", 0),
    ("TASK_CLASSIFY", "input__width", 8193),
    ("TASK_CLASSIFY", "input__colour", "COLOUR_UNSPECIFIED"),
    ("TASK_CLASSIFY", "input__colour", 99),
    ("TASK_CLASSIFY", "input__resize__mode", "RESIZE_MODE_UNSPECIFIED"),
    ("TASK_CLASSIFY", "input__resize__mode", 99),
    ("TASK_CLASSIFY", "input__resize__interpolation", "INTERPOLATION_UNSPECIFIED"),
    ("TASK_CLASSIFY", "input__resize__interpolation", 99),
    ("TASK_CLASSIFY", "input__resize__shorter_side", 256),
    ("TASK_CLASSIFY", "input__resize__pad_value", -1),
    ("TASK_CLASSIFY", "input__resize__pad_value", 256),
    ("TASK_CLASSIFY", "input__normalisation", {}),
    ("TASK_CLASSIFY", "input__normalisation", {"mean": [0, 0], "deviation": [1, 1]}),
    ("TASK_CLASSIFY", "input__normalisation", {"mean": [0, 0, "NaN"], "deviation": [1, 1, 1]}),
    ("TASK_CLASSIFY", "input__normalisation", {"mean": [0, 0, 0], "deviation": [1, 0, 1]}),
    ("TASK_CLASSIFY", "labels", []),
    ("TASK_CLASSIFY", "labels", ["red", ""]),
    ("TASK_CLASSIFY", "labels", ["red", "x" * 257]),
    ("TASK_CLASSIFY", "labels", ["red", "nul\0"]),
    ("TASK_CLASSIFY", "labels", ["red", "\x1b[31m"]),
    ("TASK_CLASSIFY", "labels", ["red", "two\nlines"]),
    ("TASK_CLASSIFY", "labels", ["red", "two\u2028lines"]),
    ("TASK_CLASSIFY", "labels", ["red", "\x9b31m"]),
    ("TASK_CLASSIFY", "precision", "PRECISION_UNSPECIFIED"),
    ("TASK_CLASSIFY", "precision", None),
    ("TASK_CLASSIFY", "precision", 99),
    ("TASK_CLASSIFY", "sha256", ""),
    ("TASK_CLASSIFY", "sha256", "0" * 63),
    ("TASK_CLASSIFY", "sha256", "A" * 64),
    ("TASK_CLASSIFY", "sha256", "0" * 64 + "\n"),
    ("TASK_CLASSIFY", "opset", 0),
    ("TASK_CLASSIFY", "classify__heatmap_height", -1),
    ("TASK_CLASSIFY", "classify__heatmap_height", 8193),
    ("TASK_CLASSIFY", "classify__heatmap_width", 0),
    ("TASK_CLASSIFY", "classify__heatmap_width", 8193),
    ("TASK_DETECT", "detect__max_detections", 0),
    ("TASK_DETECT", "detect__max_detections", -1),
    ("TASK_DETECT", "detect__min_score", -0.1),
    ("TASK_DETECT", "detect__min_score", "NaN"),
    ("TASK_DETECT", "detect__nms_iou_threshold", 1.1),
    ("TASK_DETECT", "detect__nms_iou_threshold", "Infinity"),
    ("TASK_DETECT", "detect__default_score_threshold", "-Infinity"),
    ("TASK_DETECT", "detect__default_score_threshold", 2),
    ("TASK_DETECT", "detect__max_regions", -1),
    ("TASK_DETECT", "detect__max_regions", 4097),
    ("TASK_DETECT", "detect__mask_height", -1),
    ("TASK_DETECT", "detect__mask_height", 8193),
    ("TASK_DETECT", "detect__mask_width", 0),
    ("TASK_DETECT", "detect__mask_width", 8193),
    ("TASK_DETECT", "detect__keypoint_names", ["nose", ""]),
    ("TASK_DETECT", "detect__keypoint_names", ["nose", "nose"]),
    ("TASK_DETECT", "detect__keypoint_names", ["nose", "x" * 257]),
    ("TASK_DETECT", "detect__keypoint_names", ["nose", "\x1b[31m"]),
    ("TASK_SEGMENT", "segment__map_height", 0),
    ("TASK_SEGMENT", "segment__map_height", 8193),
    ("TASK_SEGMENT", "segment__map_width", 0),
    ("TASK_SEGMENT", "segment__map_width", 8193),
    ("TASK_SEGMENT", "segment__background_class_id", -2),
    ("TASK_SEGMENT", "segment__background_class_id", 2),
]


@pytest.mark.parametrize(("task", "field", "value"), BAD_FIELDS)
def test_a_field_that_does_not_hold_is_named(task: str, field: str, value: Any, tmp_path: Path) -> None:
    message = why_refused(write(tmp_path, fields(task, **{field: value})))
    assert f"field `{field.replace('__', '.')}` must" in message


@pytest.mark.parametrize("label", ["x" * 256, "crème brûlée", "می‌خواهم", "👩‍🌾", "高い山", "a\u00a0b"])
def test_labels_may_be_of_any_language(label: str, tmp_path: Path) -> None:
    assert manifest.read(write(tmp_path, fields(labels=[label]))).labels == [label]


@pytest.mark.parametrize("task", ["TASK_DETECT", "TASK_SEGMENT"])
def test_the_options_of_the_task_are_wanted(task: str, tmp_path: Path) -> None:
    content = fields(task)
    options = task.removeprefix("TASK_").lower()
    del content[options]
    assert f"field `{options}." in why_refused(write(tmp_path, content))


def test_too_many_labels_for_a_class_map_are_refused(tmp_path: Path) -> None:
    content = fields("TASK_SEGMENT", labels=[str(number) for number in range(65_537)])
    assert "field `labels` must be at most 65536" in why_refused(write(tmp_path, content))
    content = fields(labels=content["labels"])
    assert len(manifest.read(write(tmp_path, content)).labels) == 65_537


@pytest.mark.parametrize("shorter_side", [0, 223, 8193, -1])
def test_a_centre_crop_needs_a_shorter_side_that_holds_it(shorter_side: int, tmp_path: Path) -> None:
    resize = {
        "mode": "RESIZE_MODE_SHORTER_SIDE_CENTER_CROP",
        "interpolation": "INTERPOLATION_BICUBIC",
        "shorter_side": shorter_side,
    }
    message = why_refused(write(tmp_path, fields(input__resize=resize)))
    assert "field `input.resize.shorter_side` must be 224 to 8192" in message
    resize["shorter_side"] = 224
    assert manifest.read(write(tmp_path, fields(input__resize=resize))).input.resize.shorter_side == 224


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"null", "is no JSON object; correct it, or copy or export the bundle again"),
        (b"5", "is no JSON object"),
        (b'"text"', "is no JSON object"),
        (b"[]", "is no JSON object"),
        (b"[" * 100, "is no JSON object"),
        (b"[" * 100_000, "JSON"),
        (b'{"input": ' * 50, "JSON"),
        (b'{"flavour": "mild"}', "flavour"),
        (b'{"labels": "red"}', "labels"),
        (b'{"opset": "many"}', "opset"),
        (b'{"opset": 1.5}', "opset"),
        (b'{"task": "TASK_PAINT"}', "task"),
        (b'{"name": "\\ud800"}', "name"),
        (b'{"name": "a", "name": "b"}', "name"),
        (b'{"detect": {}, "segment": {}}', "field `segment` cannot be set beside `detect`"),
        (b"\xff\xfe", "UTF-8"),
        (b" " * (manifest.MAX_MANIFEST_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    assert named in why_refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"steps": []}, "field `steps` is unknown; there are `format_version`, `name`, `task`, "),
        ({"\x1b[31m" + "x" * 99: 1}, "field `[31mxxx"),
        (
            {"task": "DETECT"},
            "field `task` must be one of TASK_CLASSIFY, TASK_DETECT, TASK_SEGMENT, TASK_TENSOR, not ",
        ),
        ({"task": []}, "TASK_TENSOR, not a list."),
        ({"name": 5}, "field `name` must be text, not 5."),
        ({"opset": True}, "field `opset` must be a whole number, not true."),
        (
            {"opset": 2**31},
            "field `opset` must be from -2147483648 to 2147483647, not 2147483648.",
        ),
        ({"labels": ["a", None]}, "field `labels[1]` must be text, not null."),
        ({"input": 5}, "field `input` must be an object with `height`, `width`, `colour`, `resize`, "),
        ({"input": {"draft_decoding": 1}}, "field `input.draft_decoding` must be true or false, not 1."),
        ({"detect": {"min_score": "low"}}, 'field `detect.min_score` must be a number, not "low".'),
        (
            {"pipeline": {"steps": ["a"]}},
            'field `pipeline.steps[0]` must be an object with `model`, `version`, `inputs`, not "a".',
        ),
        ({"pipeline": {"steps": {}}}, "field `pipeline.steps` must be a list, not an object."),
        (
            {"pipeline": {"steps": [{"inputs": ["a"]}]}},
            "field `pipeline.steps[0].inputs` must be an object of names ",
        ),
        (
            {"pipeline": {"steps": [{"inputs": {"a": 1}}]}},
            "field `pipeline.steps[0].inputs.a` must be text, not 1.",
        ),
    ],
)
def test_a_field_of_another_kind_is_named_with_what_it_takes(
    content: dict[str, Any], told: str, tmp_path: Path
) -> None:
    message = why_refused(write(tmp_path, content))
    assert f"{tmp_path / 'manifest.json'}: {told}" in message or message.endswith(told)
    assert len(message) < len(str(tmp_path)) + 600
    assert message.isprintable()


def test_a_place_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a",\n "task" 5}')
    assert "is no JSON at line 2, column 9: expecting ':' delimiter; correct it" in why_refused(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    assert "No such file" in why_refused(tmp_path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
_FIELD_NAMES = st.sampled_from(
    [field.name for field in pb.ModelManifest.DESCRIPTOR.fields if field.name != "input"]
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(content=st.dictionaries(_FIELD_NAMES, _JSON))
def test_any_value_of_any_field_is_read_or_refused(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    write(folder, fields() | content)
    # Nothing but BundleError, whatever protobuf's parser trips over.
    with suppress(BundleError):
        assert manifest.input_spec(manifest.read(folder)).height == 224


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("RESIZE_MODE_STRETCH", ResizeMode.STRETCH),
        ("RESIZE_MODE_LETTERBOX", ResizeMode.LETTERBOX),
        ("RESIZE_MODE_SHORTER_SIDE_CENTER_CROP", ResizeMode.SHORTER_SIDE_CENTER_CROP),
    ],
)
@pytest.mark.parametrize(
    ("interpolation", "resample"),
    [
        ("INTERPOLATION_BILINEAR", Image.Resampling.BILINEAR),
        ("INTERPOLATION_BICUBIC", Image.Resampling.BICUBIC),
        ("INTERPOLATION_NEAREST", Image.Resampling.NEAREST),
    ],
)
def test_the_manifest_says_how_images_are_prepared(
    mode: str, expected: ResizeMode, interpolation: str, resample: Image.Resampling, tmp_path: Path
) -> None:
    shorter_side = 256 if expected is ResizeMode.SHORTER_SIDE_CENTER_CROP else 0
    resize = {"mode": mode, "interpolation": interpolation, "shorter_side": shorter_side, "pad_value": 114}
    content = fields(input__resize=resize, input__colour="COLOUR_GREY", input__draft_decoding=True)
    spec = manifest.input_spec(manifest.read(write(tmp_path, content)))
    assert (spec.height, spec.width, spec.channels, spec.grey) == (224, 160, 1, True)
    assert (spec.resize_mode, spec.resample) == (expected, resample)
    assert (spec.shorter_side, spec.pad_value, spec.draft_decoding) == (shorter_side, 114, True)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    # Source: FIPS 180-2, appendix B.1.
    (tmp_path / "model.onnx").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest.file_sha256(tmp_path / "model.onnx") == digest
    manifest.check_hash(tmp_path, pb.ModelManifest(sha256=digest))


def test_another_hash_is_refused_with_both(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"abc")
    with pytest.raises(BundleError, match="field `sha256`") as refused:
        manifest.check_hash(tmp_path, pb.ModelManifest(sha256=SHA256))
    assert SHA256 in refused.value.message
    assert "ba7816bf" in refused.value.message
    assert "copy or export the bundle again" in refused.value.message


def test_what_is_too_large_for_a_graph_is_refused_without_being_read(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match=r"model\.onnx has 1099511627776 bytes"):
        manifest.check_hash(tmp_path, pb.ModelManifest(sha256=SHA256))
    with pytest.raises(BundleError, match=r"model\.onnx has 1099511627776 bytes"):
        plain.describe("large", tmp_path / "model.onnx")


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx cannot be read: No such file"):
        manifest.check_hash(tmp_path, pb.ModelManifest(sha256=SHA256))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_pipe, "is no regular file; copy it again"),
        (_endless, "is no regular file; copy it again"),
        (_socket, "cannot be read: No such device"),
        (Path.mkdir, "cannot be read: Is a directory"),
    ],
)
def test_what_would_never_end_is_not_read(
    make: Callable[[Path], None], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A socket's path has at most 108 characters.
    monkeypatch.chdir(tmp_path)
    for name in ("manifest.json", "model.onnx"):
        make(Path(name))
    assert told in why_refused(Path())
    with pytest.raises(BundleError, match=f"model.onnx {told}"):
        manifest.check_hash(Path(), pb.ModelManifest(sha256=SHA256))


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    write(kept, fields())
    (tmp_path / "manifest.json").symlink_to(kept / "manifest.json")
    assert manifest.read(tmp_path).name == "a-model"
