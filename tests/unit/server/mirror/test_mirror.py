"""A mirror has what there is elsewhere, whole."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests import colour_bundles, plain_models
from tests.pipelines import declare
from tests.signers import Signer
from tests.unit.server.mirror.elsewhere import Elsewhere, here, left_aside

from retinue_server.bundle import mirror as mirrors
from retinue_server.bundle.mirror import BESIDE, Mirror
from retinue_server.bundle.remote import RemoteFile
from retinue_server.bundle.repository import scan
from retinue_server.errors import BundleError


def test_bundles_come_change_and_go(mirror: Mirror, elsewhere: Elsewhere, bundle: Path) -> None:
    elsewhere.upload(bundle, "a", 1)
    elsewhere.upload(bundle, "a", 2)
    # The manifest's hash says that they are whole, so one look does.
    assert not mirror.look()
    assert here(mirror) == [("a", 1), ("a", 2)]
    assert elsewhere.downloads[0].startswith("a/2/")
    (first, _) = scan(mirror.models)
    assert first.read().name == "a"
    state = first.state()
    assert not mirror.look()
    assert len(elsewhere.downloads) == 4
    assert first.state() == state

    colour_bundles.rewrite_manifest(bundle, opset=19)
    elsewhere.upload(bundle, "a", 1)
    assert not mirror.look()
    assert first.read().opset == 19
    elsewhere.remove("a/2")
    mirror.look()
    assert here(mirror) == [("a", 1)]
    elsewhere.remove("a")
    mirror.look()
    assert list(mirror.models.iterdir()) == []
    assert left_aside(mirror) == []


def test_a_signature_is_copied_too_and_may_come_later(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path
) -> None:
    signer = Signer()
    elsewhere.upload(bundle, "a", 1)
    mirror.look()
    (copied,) = scan(mirror.models, lambda: frozenset({signer.raw}))
    with pytest.raises(BundleError, match="a signature is required"):
        copied.read()
    elsewhere.upload(signer.sign(bundle), "a", 1)
    mirror.look()
    assert copied.read().name == "a"


def test_what_is_here_and_unchanged_is_not_copied_again_after_a_restart(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path, tmp_path: Path
) -> None:
    elsewhere.upload(bundle, "a", 1)
    mirror.update()
    elsewhere.downloads.clear()
    Mirror(elsewhere, tmp_path / "mirror").update()
    assert elsewhere.downloads == []
    # What somebody has cleaned up is.
    (mirror.models / "a" / "1" / "model.onnx").unlink()
    Mirror(elsewhere, tmp_path / "mirror").update()
    assert elsewhere.downloads == ["a/1/manifest.json", "a/1/model.onnx"]


def test_a_bundle_that_is_uploaded_bit_by_bit_comes_when_it_is_whole(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path
) -> None:
    elsewhere.put("a/1/manifest.json", (bundle / "manifest.json").read_bytes())
    assert not mirror.look()
    elsewhere.put("a/1/model.onnx", b"half")
    assert mirror.look()
    assert here(mirror) == []
    elsewhere.put("a/1/model.onnx", (bundle / "model.onnx").read_bytes())
    assert not mirror.look()
    assert here(mirror) == [("a", 1)]
    assert mirror.state().refused == {}


def test_one_that_stays_broken_is_the_servers_to_refuse(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path
) -> None:
    (bundle / "model.onnx").write_bytes(b"no model")
    elsewhere.upload(bundle, "a", 1)
    mirror.update()
    assert here(mirror) == [("a", 1)]


def test_what_is_whole_is_replaced_by_what_is_whole_only(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path
) -> None:
    elsewhere.upload(bundle, "a", 1)
    mirror.update()
    elsewhere.put("a/1/model.onnx", b"half of another")
    with capture_logs() as events:
        mirror.update()
        mirror.look()
    assert [event["event"] for event in events] == ["mirror_refused"]
    assert "the one before it stays: model.onnx has SHA-256" in mirror.state().refused["a", 1]
    assert scan(mirror.models)[0].read().name == "a"
    elsewhere.put("a/1/model.onnx", (bundle / "model.onnx").read_bytes())
    mirror.look()
    assert mirror.state().refused == {}


def test_a_model_without_a_manifest_comes_when_two_looks_agree(
    mirror: Mirror, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    folder = plain_models.outside(tmp_path / "made").parent
    elsewhere.put("plain/1/model.onnx", (folder / "model.onnx").read_bytes())
    assert mirror.look()
    elsewhere.put("plain/1/weights.bin", (folder / "weights.bin").read_bytes())
    assert mirror.look()
    assert here(mirror) == []
    assert not mirror.look()
    assert sorted(path.name for path in (mirror.models / "plain" / "1").iterdir()) == [
        ".mirrored.json",
        "model.onnx",
        "weights.bin",
    ]
    scan(mirror.models)[0].read()


def test_a_model_that_changes_while_it_is_copied_is_copied_again(
    mirror: Mirror, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    elsewhere.put("plain/1/model.onnx", b"1111")
    elsewhere.put("plain/1/weights.bin", b"1111")

    def replace_the_graph(name: str) -> None:
        if name == "weights.bin":
            elsewhere.before_download = lambda _: None
            elsewhere.put("plain/1/model.onnx", b"2222")
            elsewhere.put("plain/1/weights.bin", b"2222")

    elsewhere.before_download = replace_the_graph
    mirror.update()
    folder = mirror.models / "plain" / "1"
    assert {(folder / name).read_bytes() for name in ("model.onnx", "weights.bin")} == {b"2222"}


def test_what_lies_beside_the_versions_comes_changes_and_goes(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path
) -> None:
    elsewhere.upload(bundle, "a", 1)
    for content in (b"{}", b'{"a": 1}'):
        elsewhere.put("a/serving.json", content)
        mirror.look()
        assert (mirror.models / "a" / "serving.json").read_bytes() == content
    downloads = len(elsewhere.downloads)
    mirror.look()
    assert len(elsewhere.downloads) == downloads
    elsewhere.remove("a/serving.json")
    mirror.look()
    assert not (mirror.models / "a" / "serving.json").exists()
    assert here(mirror) == [("a", 1)]


@pytest.mark.parametrize("length", [70_000, None])
def test_what_is_too_large_to_lie_beside_the_versions_replaces_nothing(
    length: int | None, mirror: Mirror, elsewhere: Elsewhere, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.upload(bundle, "a", 1)
    elsewhere.put("a/serving.json", b"{}")
    mirror.update()
    monkeypatch.setattr(elsewhere, "_file", lambda path, _: RemoteFile(path, length, "tag"))
    elsewhere.put("a/serving.json", b"[" * 70_000)
    mirror.update("a")
    mirror.update("a")
    assert (mirror.models / "a" / "serving.json").read_bytes() == b"{}"
    assert "longer than 65,536 bytes" in mirror.state().refused["a", BESIDE]
    monkeypatch.undo()
    elsewhere.put("a/serving.json", b'{"latest": 1}')
    monkeypatch.setattr(mirrors, "_LOOK_SECONDS", 0)
    mirror.update()
    assert (mirror.models / "a" / "serving.json").read_bytes() == b'{"latest": 1}'
    assert mirror.state().refused == {}


def test_a_pipeline_has_a_manifest_only(mirror: Mirror, elsewhere: Elsewhere, tmp_path: Path) -> None:
    elsewhere.upload(declare(tmp_path / "made", "both", "TASK_DETECT", "a", "b"), "both", 1)
    assert not mirror.look()
    (found,) = scan(mirror.models)
    assert [step.model for step in found.read().pipeline.steps] == ["a", "b"]
    mirror.look()
    assert elsewhere.downloads == ["both/1/manifest.json"]
    elsewhere.remove("both")
    mirror.look()
    assert here(mirror) == []


def test_a_manifest_whose_graph_is_still_to_come_waits_for_it_quietly(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path
) -> None:
    elsewhere.put("a/1/manifest.json", (bundle / "manifest.json").read_bytes())
    with capture_logs() as events:
        mirror.update()
        assert not mirror.look()
    assert (here(mirror), events, mirror.state().refused) == ([], [], {})
    assert len(elsewhere.downloads) == 1
    elsewhere.put("a/1/model.onnx", (bundle / "model.onnx").read_bytes())
    mirror.look()
    assert here(mirror) == [("a", 1)]
