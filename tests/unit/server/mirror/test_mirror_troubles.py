"""A mirror keeps what it has, and says why, where that cannot be reached, read or written."""

import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.unit.server.mirror.elsewhere import Clock, Elsewhere, here, left_aside

from retinue_server.bundle import mirror as mirrors
from retinue_server.bundle import mirror_folder
from retinue_server.bundle.folder import ModelsFolder
from retinue_server.bundle.mirror import Mirror
from retinue_server.bundle.mirrored import MirroredFolder
from retinue_server.bundle.remote import Listing, RemoteFile
from retinue_server.errors import MirrorError


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
