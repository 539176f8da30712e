"""A mirror has what there is elsewhere, whole, and keeps it when that cannot be reached."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from structlog.testing import capture_logs
from tests import colour_bundles, plain_models
from tests.pipelines import declare
from tests.signers import Signer

from retinue_server.bundle import mirror as mirrors
from retinue_server.bundle import mirror_folder
from retinue_server.bundle.folder import ModelsFolder
from retinue_server.bundle.mirror import BESIDE, Mirror
from retinue_server.bundle.mirrored import MirroredFolder
from retinue_server.bundle.remote import Key, Listing, RemoteFile, RemoteModels
from retinue_server.bundle.repository import scan
from retinue_server.errors import BundleError, MirrorError, ModelControlError, StartupError, UnavailableError


class Elsewhere(RemoteModels):
    """Models in fsspec's memory, out of reach when told so.

    Attributes:
        filesystem: Where they lie, below /models.
        trouble: Why they cannot be listed; empty where they can.
        unreadable: Names of files that cannot be read.
        before_download: Called with a file's name.
        downloads: The files that were copied, in order.
    """

    def __init__(self) -> None:
        super().__init__("memory://models", {})
        self.filesystem = MemoryFileSystem()
        self.filesystem.mkdir("/models", exist_ok=True)
        self.trouble = ""
        self.unreadable: set[str] = set()
        self.before_download: Callable[[str], None] = lambda _: None
        self.downloads: list[str] = []

    def listing(self, name: str | None = None) -> Listing:
        if self.trouble:
            raise MirrorError(self.trouble)
        return super().listing(name)

    def download(
        self, file: RemoteFile, path: Path, *, most_bytes: int, cancelled: Callable[[], bool]
    ) -> bool:
        self.before_download(path.name)
        if path.name in self.unreadable:
            raise MirrorError(f"'{path.name}' cannot be read: forbidden.")
        self.downloads.append(file.path.removeprefix("/models/"))
        return super().download(file, path, most_bytes=most_bytes, cancelled=cancelled)

    def upload(self, folder: Path, name: str, version: int) -> None:
        for file in folder.iterdir():
            self.put(f"{name}/{version}/{file.name}", file.read_bytes())

    def put(self, path: str, content: bytes) -> None:
        self.filesystem.pipe(f"/models/{path}", content)

    def remove(self, path: str) -> None:
        self.filesystem.rm(f"/models/{path}", recursive=True)


class Clock:
    """Tells what it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    monkeypatch.setattr(mirrors, "_LOOK_SECONDS", 0)
    store = Elsewhere()
    yield store
    store.filesystem.store.clear()
    store.filesystem.pseudo_dirs[:] = [""]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mirror(elsewhere: Elsewhere, tmp_path: Path, clock: Clock) -> Mirror:
    return Mirror(elsewhere, tmp_path / "mirror", clock=clock)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return colour_bundles.classifier(tmp_path / "made", "a")


def here(mirror: Mirror) -> list[Key]:
    return mirror._folder.versions()


def left_aside(mirror: Mirror) -> list[str]:
    return [path.name for path in mirror.models.parent.iterdir() if path.name not in {"models", ".lock"}]


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


def test_a_first_look_that_fails_is_told_only_by_whoever_goes_on_without_it(
    mirror: Mirror, elsewhere: Elsewhere
) -> None:
    elsewhere.trouble = "no route."
    with capture_logs() as events:
        with pytest.raises(MirrorError, match="no route"):
            mirror.look()
        assert (events, mirror.state().trouble) == ([], "no route.")
        mirror.tell_of_trouble()
        with pytest.raises(MirrorError):
            mirror.look()
        mirror.tell_of_trouble()
    assert [event["event"] for event in events] == ["mirror_failed"]


def test_what_cannot_be_reached_takes_nothing_away_and_is_told_once(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path, clock: Clock
) -> None:
    elsewhere.upload(bundle, "a", 1)
    mirror.look()
    assert (mirror.state().trouble, mirror.state().age_seconds) == ("", 0)
    with capture_logs() as events:
        for trouble in ("no route.", "no route, still."):
            elsewhere.trouble = trouble
            with pytest.raises(MirrorError):
                mirror.look()
        clock.now = 7
        assert (mirror.state().trouble, mirror.state().age_seconds) == ("no route, still.", 7)
        elsewhere.trouble = ""
        mirror.look()
        mirror.look()
    assert [event["event"] for event in events] == ["mirror_failed", "mirror_recovered"]
    assert (mirror.state().trouble, mirror.state().age_seconds) == ("", 0)
    assert here(mirror) == [("a", 1)]
    # A folder that is gone is no folder that is empty.
    elsewhere.filesystem.rm("/models", recursive=True)
    with pytest.raises(MirrorError):
        mirror.look()
    assert here(mirror) == [("a", 1)]


def test_a_file_that_cannot_be_read_holds_up_no_other_version_and_is_tried_again(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path, clock: Clock
) -> None:
    elsewhere.upload(bundle, "a", 1)
    elsewhere.put("a/2/model.onnx", b"")
    elsewhere.put("a/2/secret", b"")
    elsewhere.unreadable = {"secret"}
    with capture_logs() as events:
        mirror.update()
        clock.now = 29
        mirror.update()
    assert [event["event"] for event in events] == ["mirrored", "mirror_refused"]
    assert here(mirror) == [("a", 1)]
    assert mirror.state().refused == {("a", 2): "'secret' cannot be read: forbidden."}
    assert mirror.state().trouble == ""
    elsewhere.unreadable = set()
    clock.now = 31
    mirror.update()
    assert here(mirror) == [("a", 1), ("a", 2)]
    assert left_aside(mirror) == []


def test_a_file_whose_length_is_told_wrong_is_not_copied_for_ever(
    mirror: Mirror, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "_file", lambda path, _: RemoteFile(path, 4, "tag"))
    elsewhere.put("a/1/model.onnx", b"12345")
    mirror.update()
    assert here(mirror) == []
    assert "not as long as listed" in mirror.state().refused["a", 1]
    mirror.update()
    assert len(elsewhere.downloads) == 1


def test_what_does_not_fit_is_refused_before_it_is_copied(
    elsewhere: Elsewhere, bundle: Path, tmp_path: Path
) -> None:
    elsewhere.upload(bundle, "a", 1)
    elsewhere.put("b/1/model.onnx", b"1" * 100_000)
    mirror = Mirror(elsewhere, tmp_path / "mirror", limit_bytes=50_000)
    mirror.update()
    assert here(mirror) == [("a", 1)]
    assert "b/1/model.onnx" not in elsewhere.downloads
    assert "it has 100,000 bytes" in mirror.state().refused["b", 1]
    assert "--mirror-limit" in mirror.state().refused["b", 1]


def test_a_file_of_unknown_length_ends_at_the_limit(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "_file", lambda path, _: RemoteFile(path, None, "tag"))
    elsewhere.put("a/1/model.onnx", b"1" * 1000)
    elsewhere.put("b/1/model.onnx", b"1" * 100_000)
    mirror = Mirror(elsewhere, tmp_path / "mirror", limit_bytes=50_000)
    mirror.update()
    assert here(mirror) == [("a", 1)]
    assert "longer than there is room for" in mirror.state().refused["b", 1]


def test_a_disk_that_is_full_is_told_and_leaves_nothing_behind(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mirror_folder, "_onto_the_disk", full)
    elsewhere.upload(bundle, "a", 1)
    mirror.update()
    assert mirror.state().refused == {("a", 1): "it cannot be written to the disk: No space left on device."}
    assert left_aside(mirror) == []


def test_what_a_killed_process_left_goes_and_what_lies_elsewhere_is_not_touched(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "mirror" / ".coming-1" / "deep").mkdir(parents=True)
    (tmp_path / "mirror" / ".going-1").mkdir()
    elsewhere.upload(bundle, "a", 1)
    for path in ("a/../../../escaped/model.onnx", "../escaped", "a/2/../../../../escaped"):
        stored = elsewhere.filesystem.store
        stored[f"/models/{path}"] = stored["/models/a/1/model.onnx"]
    before = sorted(path for path in tmp_path.rglob("*") if "mirror" not in path.parts)
    mirror.update()
    assert left_aside(mirror) == []
    assert here(mirror) == [("a", 1)]
    assert sorted(path for path in tmp_path.rglob("*") if "mirror" not in path.parts) == before


def test_servers_that_share_a_mirror_take_turns(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path, tmp_path: Path
) -> None:
    other = Mirror(elsewhere, tmp_path / "mirror")
    elsewhere.upload(bundle, "a", 1)
    tried = []

    def look_meanwhile(name: str) -> None:
        # Another one that would wait gives up, since it is told to stop.
        tried.append(name)
        other._cancelled = lambda: len(tried) > 1 or bool(tried.append("waited"))
        assert not other.look()

    elsewhere.before_download = look_meanwhile
    mirror.update()
    assert here(mirror) == [("a", 1)]
    elsewhere.before_download = lambda _: None
    other._cancelled = lambda: False
    downloads = len(elsewhere.downloads)
    other.update()
    assert len(elsewhere.downloads) == downloads


def test_one_that_is_told_to_stop_copies_nothing_more(
    elsewhere: Elsewhere, bundle: Path, tmp_path: Path
) -> None:
    elsewhere.upload(bundle, "a", 1)
    mirror = Mirror(elsewhere, tmp_path / "mirror", cancelled=lambda: bool(elsewhere.downloads))
    mirror.update()
    assert elsewhere.downloads == ["a/1/manifest.json"]
    assert here(mirror) == []
    assert left_aside(mirror) == []
    assert MirroredFolder(mirror, ModelsFolder(mirror.models), "none").at_least_one() == []


def test_a_mirror_that_cannot_be_written_is_told(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "mirror" / "models").rmdir()
    (tmp_path / "mirror").rmdir()
    (tmp_path / "mirror").write_text("")
    with pytest.raises(MirrorError, match="cannot be kept in the cache folder"):
        mirror.look()


def test_a_mirror_that_goes_while_it_is_looked_at_is_told(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.upload(bundle, "a", 1)
    listing = elsewhere.listing

    def gone(name: str | None = None) -> Listing:
        shutil.rmtree(mirror.models.parent)
        return listing(name)

    with monkeypatch.context() as patch:
        patch.setattr(elsewhere, "listing", gone)
        with pytest.raises(MirrorError, match="cannot be kept in the cache folder"):
            mirror.look()
    mirror.look()
    assert here(mirror) == [("a", 1)]


def test_looks_go_on_whatever_has_happened_to_one(
    elsewhere: Elsewhere, mirror: Mirror, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of its own looks, and waits the longer, the longer nothing can be reached."""
    pauses: list[float] = []
    troubles: list[Exception | None] = [MirrorError("1."), MirrorError("2."), RuntimeError(), None, None]
    monkeypatch.setattr(mirrors, "_LOOK_SECONDS", 0.5)

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return not troubles

    def look() -> bool:
        if (trouble := troubles.pop(0)) is not None:
            raise trouble
        return False

    monkeypatch.setattr(mirror._closing, "wait", wait)
    monkeypatch.setattr(mirror, "look", look)
    mirror._look_on()
    assert pauses == [0.5, 1.0, 2.0, 30.0, 0.5, 0.5]


class TestMirroredFolder:
    """The folder that a repository asks."""

    @pytest.fixture
    def by_calls(self, mirror: Mirror) -> MirroredFolder:
        return MirroredFolder(mirror, ModelsFolder(mirror.models), "explicit")

    def test_calls_copy_what_they_load_and_no_more(
        self, by_calls: MirroredFolder, elsewhere: Elsewhere, bundle: Path
    ) -> None:
        elsewhere.upload(bundle, "a", 1)
        elsewhere.upload(bundle, "b", 1)
        assert by_calls.named("") == []
        assert [(found.name, found.version) for found in by_calls.all()] == [("a", 1), ("b", 1)]
        assert elsewhere.downloads == []
        (loaded,) = by_calls.brought("a")
        assert loaded.read().name == "a"
        assert elsewhere.downloads == ["a/1/manifest.json", "a/1/model.onnx"]
        assert by_calls.brought("c") == []

    def test_calls_load_what_is_here_where_nothing_can_be_reached(
        self, by_calls: MirroredFolder, elsewhere: Elsewhere, bundle: Path
    ) -> None:
        elsewhere.upload(bundle, "a", 1)
        assert [found.name for found in by_calls.named("a")] == ["a"]
        elsewhere.trouble = "no route to 10.0.0.1."
        assert [found.name for found in by_calls.brought("a")] == ["a"]
        assert [found.name for found in by_calls.all()] == ["a"]
        assert [found.name for found in by_calls.named("")] == []
        with pytest.raises(UnavailableError, match="retry later") as refused:
            by_calls.brought("b")
        assert "10.0.0.1" not in refused.value.message

    def test_calls_are_told_why_nothing_could_be_copied(
        self, by_calls: MirroredFolder, elsewhere: Elsewhere
    ) -> None:
        elsewhere.put("a/1/model.onnx", b"")
        elsewhere.unreadable = {"model.onnx"}
        with pytest.raises(ModelControlError, match=r"cannot be copied: 'model.onnx' cannot be read"):
            by_calls.brought("a")

    @pytest.mark.parametrize("control", ["none", "watch", "explicit"])
    def test_a_start_without_a_copy_needs_what_there_is_elsewhere(
        self, control: str, mirror: Mirror, elsewhere: Elsewhere
    ) -> None:
        folder = MirroredFolder(mirror, ModelsFolder(mirror.models), control)  # type: ignore[arg-type]
        starts = {"none": folder.at_least_one, "watch": folder.brought, "explicit": lambda: folder.named("")}
        elsewhere.trouble = "no route."
        with pytest.raises(MirrorError, match="no route"):
            starts[control]()

    def test_a_start_that_finds_nothing_says_what_it_looked_for(
        self, mirror: Mirror, elsewhere: Elsewhere
    ) -> None:
        folder = MirroredFolder(mirror, ModelsFolder(mirror.models), "none")
        with pytest.raises(StartupError, match=r"nothing at 'memory://models' .* expected NAME/VERSION"):
            folder.at_least_one()
        elsewhere.put("a/1/model.onnx", b"")
        elsewhere.unreadable = {"model.onnx"}
        with pytest.raises(StartupError, match=r"'model\.onnx' cannot be read: forbidden"):
            folder.at_least_one()

    def test_a_model_whose_serving_policy_cannot_be_copied_has_none(
        self, mirror: Mirror, elsewhere: Elsewhere, bundle: Path, clock: Clock
    ) -> None:
        folder = MirroredFolder(mirror, ModelsFolder(mirror.models), "watch")
        elsewhere.upload(bundle, "a", 1)
        elsewhere.put("a/serving.json", b'{"latest": 1}')
        elsewhere.unreadable = {"serving.json"}
        assert [found.name for found in folder.brought()] == ["a"]
        with pytest.raises(BundleError, match=r"serving.json cannot be copied: .* forbidden") as refused:
            folder.policy("a")
        assert refused.value.reason == "SERVING_POLICY_NOT_COPIED"
        elsewhere.unreadable = set()
        clock.now = 31
        before = folder.states()
        mirror.look()
        assert folder.policy("a").latest == 1
        # So the server sees it.
        assert folder.states() != before
        # One that is here holds until the next one is.
        elsewhere.put("a/serving.json", b'{"latest": 2}')
        elsewhere.unreadable = {"serving.json"}
        mirror.look()
        assert folder.policy("a").latest == 1

    def test_what_is_followed_is_asked_of_the_copy(
        self, mirror: Mirror, elsewhere: Elsewhere, bundle: Path
    ) -> None:
        folder = MirroredFolder(mirror, ModelsFolder(mirror.models), "watch")
        elsewhere.upload(bundle, "a", 1)
        assert [found.name for found in folder.brought()] == ["a"]
        elsewhere.trouble = "no route."
        assert folder.states().keys() == {"a"}
        assert [found.name for found in folder.brought("a")] == ["a"]
        assert mirror.state().trouble == ""
