"""What is said of a bundle, as facts, JSON, text and page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from retinue.v1 import manifest_pb2 as pb
from tests import colour_bundles, odd_bundles
from tests.unit.export import tiny
from tests.unit.export.test_cli import run

from retinue_export import assembly, heatmaps
from retinue_export.errors import ExportError
from retinue_export.inspection import facts, layers, manifest_text, model_file, report, weights
from retinue_export.inspection.layers import Layer
from retinue_export.precision import Precision

ROOT = Path(__file__).parents[3]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"
ESCAPE = "\x1b[2J"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version folder of an exported tiny classifier."""
    return assembly.build(tiny.candidate(), tmp_path_factory.mktemp("models"), 1, lambda _stage: None)


class Tags(HTMLParser):
    """Collects the tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.references: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_parameters_bytes_and_work_are_those_counted_by_hand(bundle: Path) -> None:
    found = facts.read(bundle)
    # What pixels are multiplied by, and what is added, is stored for a row of them.
    convolution, linear, pixels = 8 * 3 * 9 + 8, 8 * 3 + 3, 2 * 6 * 3
    assert found.parameters == convolution + linear + pixels
    # Only the convolution's weights are worth storing in 16 bits.
    assert found.stored_bytes["float16"] == 2 * 8 * 3 * 9
    assert found.stored_bytes["float32"] >= 4 * (8 + linear + pixels)
    assert found.macs == 8 * (8 * 6) * (3 * 9) + 8 * 3
    assert not found.uncounted
    assert [layer.name for layer in found.layers if layer.macs] == ["0", "5"]
    assert found.file_bytes == (bundle / "model.onnx").stat().st_size


def test_work_that_is_done_only_on_request_is_not_counted(bundle: Path, tmp_path: Path) -> None:
    located = assembly.build(heatmaps.add(tiny.candidate()), tmp_path, 1, lambda _stage: None)
    plain, found = facts.read(bundle), facts.read(located)
    assert [port.name for port in found.outputs] == ["probabilities", "heatmap"]
    assert (found.macs, found.parameters) == (plain.macs, plain.parameters)
    assert [layer.name for layer in found.layers] == [layer.name for layer in plain.layers]


def test_the_bundled_mobilenet_takes_what_its_authors_say() -> None:
    """300 million multiply-adds and 3.4 million parameters. Source: MobileNetV2, arXiv:1801.04381, table 4."""
    found = facts.read(ROOT / "models" / "mobilenet-v2" / "1")
    assert found.macs == pytest.approx(300e6, rel=0.01)
    assert found.parameters == pytest.approx(3.49e6, rel=0.01)
    stages = layers.stages(found.layers)
    assert stages[0].name == "features.0"
    assert stages[-1].name == "classifier"
    assert sum(stage.macs or 0 for stage in stages) == found.macs
    assert sum(stage.stored_bytes for stage in stages) == sum(layer.stored_bytes for layer in found.layers)


def test_json_has_these_fields(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", str(bundle), "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == [
        *("file", "file_bytes", "sha256", "external_files", "ir_version", "opsets", "producer", "inputs"),
        *("outputs", "nodes", "operators", "parameters", "stored_bytes", "macs", "flops", "counted"),
        *("not_counted", "stages", "layers", "manifest"),
    ]
    assert found["inputs"] == [{"name": "images", "type": "uint8", "shape": ["batch", 8, 6, 3]}]
    assert list(found["layers"][0]) == ["name", "operator", "output_shape", "parameters", "bytes", "macs"]
    assert found["flops"] == 2 * found["macs"]
    assert sum(found["operators"].values()) == found["nodes"]
    manifest = found["manifest"]
    assert (manifest["name"], manifest["task"], manifest["labels"]) == (
        "tiny",
        "TASK_CLASSIFY",
        ["a", "b", "c"],
    )
    # Fields that a manifest leaves out are there too.
    assert manifest["quality"] == []
    assert manifest["input"]["draft_decoding"] is False


def test_people_read_the_rule_the_certificate_and_the_heaviest_layers(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "inspect", str(bundle.parent))
    assert code == 0
    words = " ".join(out.split())
    assert "8 x 6 (height x width), RGB: stretched, bilinear" in words
    assert "as the manifest says" in words
    assert "differences from PyTorch, 9 images" in words
    assert "10.4 k multiply-adds an image (20.8 kFLOPs), those of Conv, Gemm" in words
    assert "layers with the most bytes" in words


@pytest.mark.parametrize("task", ["classifier", "detector", "segmenter"])
def test_every_task_has_a_page(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = getattr(colour_bundles, task)(tmp_path)
    page = tmp_path / "page.html"
    code, _, _ = run(capsys, "inspect", str(target), "--html", str(page))
    assert code == 0
    assert "Labels (3)" in Tags(page.read_text()).text


def test_a_page_is_whole_and_runs_nothing_that_a_file_says(bundle: Path, tmp_path: Path) -> None:
    plain = report.page(facts.read(bundle))
    folder = tmp_path / "1"
    folder.mkdir()
    for name in ("model.onnx", "manifest.json"):
        (folder / name).write_bytes((bundle / name).read_bytes())

    def rename(model: onnx.ModelProto) -> None:
        model.producer_name = f"{HOSTILE}{ESCAPE}"
        for node in model.graph.node:
            node.name = f"{HOSTILE}{ESCAPE}"
            for names in (node.input, node.output):
                names[:] = [name.replace("probabilities", HOSTILE) for name in names]
        model.graph.output[0].name = HOSTILE

    odd_bundles.edit_graph(folder, rename)
    colour_bundles.rewrite_manifest(
        folder,
        labels=[HOSTILE, "b", "c"],
        description=f"{HOSTILE}{ESCAPE}",
        source={"licence": HOSTILE, "weights": HOSTILE, "architecture": HOSTILE, "framework": HOSTILE},
        quality=[{"metric": HOSTILE, "value": "NaN", "dataset": HOSTILE, "engine": HOSTILE, "precision": 77}],
        created_at=HOSTILE,
    )
    page = report.page(facts.read(folder))
    assert "\x1b" not in page
    assert "\ufffd[2J" in page
    hostile = Tags(page)
    assert hostile.tags <= Tags(plain).tags
    assert hostile.attributes <= Tags(plain).attributes
    assert not hostile.references
    assert hostile.text.count(HOSTILE) > 8


def test_a_terminal_is_not_steered_by_what_a_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = colour_bundles.classifier(tmp_path)
    colour_bundles.rewrite_manifest(bundle, source={"licence": "\x1b[2J[bold]MIT\x07"})
    code, out, _ = run(capsys, "inspect", str(bundle))
    assert code == 0
    assert "\x1b" not in out
    assert "[bold]MIT" in out


def test_what_a_detector_takes_and_gives_beside_boxes_is_said(tmp_path: Path) -> None:
    manifest = facts.read(colour_bundles.detector(tmp_path)).manifest
    assert manifest is not None
    plain = manifest_text.facts(manifest)["detections"]
    assert plain == (
        "at most 3 an image, score over 0 (0.5 unless asked otherwise), merged where they overlap by more than 50.0 %"
    )
    manifest.detect.MergeFrom(
        pb.DetectOptions(
            adjustable_thresholds=True, max_regions=9, mask_height=14, mask_width=28, keypoint_names=["nose"]
        )
    )
    assert manifest_text.facts(manifest)["detections"] == (
        f"{plain} unless asked otherwise, of 9 given regions, with masks of 14 x 28, with keypoints: nose"
    )


def test_a_bare_file_has_no_manifest(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", str(bundle / "model.onnx"), "--json")
    assert code == 0
    assert json.loads(out)["manifest"] is None


def test_a_file_that_was_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = colour_bundles.classifier(tmp_path)
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")
    code, _, err = run(capsys, "inspect", str(bundle))
    assert code == 2
    assert "SHA-256" in err


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x0a"])
def test_what_is_no_graph_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    code, _, err = run(capsys, "inspect", str(path))
    assert code == 2
    assert "is no ONNX file" in err


def test_a_file_is_read_for_what_it_is_whatever_it_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = colour_bundles.classifier(tmp_path)
    code, _, err = run(capsys, "inspect", str(bundle / "manifest.json"))
    assert code == 2
    assert "manifest.json is no ONNX file" in err
    renamed = (bundle / "model.onnx").rename(bundle / "model.json")
    assert facts.read(renamed).operators["Softmax"] == 1


def test_a_file_larger_than_protobuf_can_hold_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(model_file.MAX_BYTES + 1)
    code, _, err = run(capsys, "inspect", str(path))
    assert code == 2
    assert "more than the 2147483647" in err


def test_names_that_are_no_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (colour_bundles.classifier(tmp_path) / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content.replace(b"means", b"me\xffns"))
    code, _, err = run(capsys, "inspect", str(path))
    assert code == 2
    assert "is not UTF-8 text" in err


def test_a_page_that_cannot_be_written_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "inspect", str(bundle), "--html", str(tmp_path / "none" / "page.html"))
    assert code == 2
    assert "no folder" in err


def test_quantised_weights_count_in_their_format_and_scales_do_not() -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,4] x) => (float[N,6] y)
        <int8[4,6] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}, float[6] s = {1,1,1,1,1,1},
         int8[6] z = {0,0,0,0,0,0}, int32[6] b = {0,0,0,0,0,0}, float lone = {2}> {
            d = DequantizeLinear<axis=1>(w, s, z)
            c = DequantizeLinear<axis=0>(b, s)
            m = MatMul(x, d)
            a = Add(m, c)
            y = Mul(a, lone)
        }"""
    )
    known = weights.constants(model)
    assert {name for name, constant in known.items() if constant.is_parameter} == {"w", "b"}
    assert [(known[name].number_format, known[name].stored_bytes) for name in "ws"] == [
        ("int8", 24),
        ("float32", 24),
    ]
    # The weights belong to the product, whatever nodes lie between; each constant is counted once.
    found = {layer.operator: layer for layer in layers.read(model, known)}
    assert found["MatMul"].stored_bytes == 24 + 24 + 6
    assert found["Add"].stored_bytes == 4 * 6


def test_four_bit_weights_take_half_a_byte() -> None:
    model = onnx.ModelProto()
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [3, 3], [0] * 9))
    assert weights.constants(model)["w"].stored_bytes == 5


def test_a_graphs_own_functions_are_looked_into(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20, "mine" : 1]>
        g (float[N,4] x, float[4,6] w) => (float[N,6] y) { y = mine.Product(x, w) }
        <domain: "mine", opset_import: ["" : 20]> Product (a, b) => (c) { c = MatMul(a, b) }"""
    )
    path = tmp_path / "functions.onnx"
    onnx.save(model, path)
    assert facts.read(path).macs == 4 * 6


def test_weights_in_other_files_are_named_and_not_needed(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N,40] x) => (float[N,60] y) { y = MatMul(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((40, 60), np.float32), "w"))
    path = tmp_path / "split.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    found = facts.read(path)
    assert found.external_files == ["weights.bin"]
    assert (found.parameters, found.macs) == (2400, 2400)


def test_where_names_tell_no_modules_there_are_no_stages() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> '
        "g (float[N,4] x, float[4,6] w) => (float[N,6] y) { y = MatMul(x, w) }"
    )
    found = layers.read(model, weights.constants(model))
    assert layers.stages(found) == []
    assert [layer.name for layer in layers.by_operator(found)] == ["MatMul"]


def test_a_manifest_whose_own_numbers_are_none_gives_valid_json(tmp_path: Path) -> None:
    bundle = colour_bundles.classifier(tmp_path)
    colour_bundles.rewrite_manifest(bundle, quality=[{"metric": "x", "value": "NaN"}])
    found = facts.read(bundle)
    assert isinstance(found.manifest, pb.ModelManifest)
    json.dumps(report.as_json(found), allow_nan=False)


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(ExportError, match="There is no ONNX file"):
        facts.read(Path("nowhere.onnx"))


@pytest.mark.parametrize("count", [3, 40])
def test_the_outermost_modules_are_never_summed(count: int) -> None:
    found = [Layer(f"part{number}.conv", "Conv", None, 1, 1, 1) for number in range(count)]
    assert len(layers.stages(found)) == count


def test_precisions_are_spelt_as_on_the_command_line() -> None:
    assert manifest_text.precision(pb.PRECISION_FP16_WEIGHTS) == Precision.FP16_WEIGHTS
    assert manifest_text.precision(77) == "77"  # type: ignore[arg-type]


def test_what_rounding_changed_is_said_with_its_bound_where_it_has_one(bundle: Path) -> None:
    found = facts.read(bundle)
    assert found.manifest is not None
    (rounding,) = found.manifest.parity.rounding
    assert "which has no bound" in report.page(found)
    rounding.tolerance = 0.25
    assert "which has no bound" not in report.page(found)
    assert "up to 0.25 allowed when it is compared again" in report.page(found)


def test_how_a_network_was_quantised_and_how_fast_it_ran_is_told() -> None:
    manifest = tiny.candidate().manifest
    assert not {"quantised", "speed"} & set(_with_input(manifest))
    manifest.quantisation.method = "static"
    manifest.quantisation.calibration = "photos"
    manifest.quantisation.calibration_images = 96
    manifest.quantisation.float_nodes.append("softmax")
    manifest.speeds.add(
        precision=pb.PRECISION_INT8, provider="CPU", device="this", batch_size=4, images_per_second=12.5
    )
    told = _with_input(manifest)
    assert told["quantised"] == "static; on 96 images of photos; 1 nodes stay in float"
    assert told["speed"] == "int8 12.5 images/s at batch 4 (CPU, this)"


def _with_input(manifest: pb.ModelManifest) -> dict[str, str]:
    manifest.input.CopyFrom(assembly.image_input(tiny.SPEC, tiny.NORMALISATION))
    return manifest_text.facts(manifest)
