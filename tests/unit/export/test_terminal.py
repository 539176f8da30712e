"""Text out of files and paths on the terminal: shown as it is, taken for no markup, and steering nothing."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from google.protobuf import json_format
from retinue.v1 import manifest_pb2 as pb
from tests import colour_bundles, odd_bundles, pictures
from tests.unit.export import foreign, tiny
from tests.unit.export.adopting import adopt, edited
from tests.unit.export.command import run

from retinue_export import assembly
from retinue_export.cli import show
from retinue_export.cli.build import print_bundle

ESCAPE = "\x1b[2J"
MARKUP = "[/x]"


def test_plain_text_is_no_markup_and_has_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    text = show.plain(f"{MARKUP}{ESCAPE}:cat: caf\udce9\\")
    show.console.print(f"[bold]{text}[/]")
    assert capsys.readouterr().out == "[/x]\ufffd[2J:cat: caf\ufffd\\\n"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A bundle whose folder and certificate would be markup, and would clear the screen."""
    bundle = assembly.build(tiny.candidate(), tmp_path / "models[/x]", 1, lambda _stage: None)
    manifest = json_format.Parse((bundle / "manifest.json").read_text(), pb.ModelManifest())
    certificate = manifest.parity
    for field in ("reference", "inputs", "engines"):
        setattr(certificate, field, f"{MARKUP}{ESCAPE}")
    manifest.labels[0] = MARKUP
    manifest.source.weights = f"{MARKUP}{ESCAPE}"
    certificate.outputs.add(output=f"{MARKUP}{ESCAPE}", tolerance=1)
    manifest.quality.add(metric=f"{MARKUP}{ESCAPE}", engine=MARKUP, dataset=MARKUP)
    (bundle / "manifest.json").write_text(json_format.MessageToJson(manifest))
    return bundle


def test_a_bundle_is_inspected_whatever_it_calls_things(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "inspect", hostile)
    assert (code, err) == (0, "")
    assert out.count(MARKUP) > 3
    assert "\x1b" not in out


def test_a_bundle_is_verified_whatever_it_calls_things(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, err = run(capsys, "verify", hostile, "--module", _module(hostile))
    assert "Traceback" not in err
    # A long path goes on in the next line.
    assert out.replace("\n", "").count(MARKUP) > 3, err
    assert "\x1b" not in out


def _module(bundle: Path) -> str:
    """What the tiny network is built by, as the bundle says now."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["source"]["architecture"] = "tests.unit.export.tiny:network"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return "tests.unit.export.tiny:network"


def test_what_was_made_is_printed_whatever_it_is_called(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_bundle(hostile)
    out = capsys.readouterr().out
    assert out.replace("\n", "").count(MARKUP) > 3
    assert "\x1b" not in out


def test_two_bundles_are_compared_wherever_they_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (colour_bundles.classifier(tmp_path / folder) for folder in ("old[/x]", "new[bold]"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "red.png").write_bytes(pictures.png((200, 0, 0)))
    code, out, err = run(capsys, "diff", a, b, "--images", tmp_path / "photos")
    assert (code, err) == (0, "")
    flat = "".join(out.split())
    assert "old[/x]" in flat
    assert "new[bold]" in flat


def _named(text: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = [entry for entry in model.metadata_props if entry.key == "names"]
        entry.value = repr({0: text, 1: "dog", 2: "mug"})

    return change


def test_a_foreign_files_labels_and_path_steer_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "old[/x]"
    folder.mkdir(parents=True)
    path = foreign.ultralytics(foreign.YoloV8(3), folder / "yolo.onnx", ["cat", "dog", "mug"])
    code, out, err = adopt(capsys, edited(path, _named(MARKUP)))
    assert (code, err) == (0, "")
    assert "old[/x]" in out
    code, out, err = adopt(capsys, edited(path, _named(f"{MARKUP}{ESCAPE}")), "--version", "2")
    assert code == 2
    assert "calls class 0 '[/x]\\x1b[2J'" in err
    assert "\x1b" not in out + err


def test_layers_are_listed_whatever_they_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = assembly.build(tiny.candidate(), tmp_path, 1, lambda _stage: None)

    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{MARKUP}{ESCAPE}" if name == "conv2d" else name for name in names]

    code, out, _ = run(capsys, "features", odd_bundles.edit_graph(bundle, rename), "--list")
    assert code == 0
    assert MARKUP in out
    assert "\x1b" not in out


def test_errors_steer_no_terminal_and_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "inspect", tmp_path / f"a{ESCAPE}\n{MARKUP}")
    assert code == 2
    assert "\x1b" not in err
    assert MARKUP in err
    assert len(err.splitlines()) == 1


def test_json_holds_names_of_another_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = colour_bundles.classifier(tmp_path / "caf\udce9")
    code, out, _ = run(capsys, "inspect", bundle, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["file"].endswith("model.onnx")
    assert found["sha256"] == hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest()
