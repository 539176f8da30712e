"""What a manifest says, and which of its fields do not hold."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from tests.unit.server.manifests import fields, why_refused, write

from retinue_server.bundle import manifest
from retinue_server.errors import BundleError
from retinue_server.vision.spec import ResizeMode


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
