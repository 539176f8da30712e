import os
import stat
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from retinue_server.runtime.cache import ModelCache

SHA256 = "0123456789abcdef" * 4


def test_what_was_kept_is_found_by_a_later_start(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "models"
    assert ModelCache(folder).find(SHA256, "profile.json") is None
    kept = ModelCache(folder).keep(SHA256, "profile.json", lambda path: path.write_text("{}"))
    found = ModelCache(folder).find(SHA256, "profile.json")
    assert found == kept
    assert found.read_text() == "{}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_models_do_not_share_what_is_kept(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    cache.keep(SHA256, "profile.json", lambda path: path.write_text("{}"))
    assert cache.find("f" * 64, "profile.json") is None


def test_what_was_not_written_whole_is_not_there(tmp_path: Path) -> None:
    def half_written(folder: Path) -> None:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError("no space left")

    cache = ModelCache(tmp_path)
    with pytest.raises(OSError, match="no space left"):
        cache.keep(SHA256, "optimised", half_written)
    assert cache.find(SHA256, "optimised") is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_is_found_after_a_power_cut_has_reached_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"graph")
        (folder / "weights.bin").write_bytes(b"weights")

    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    cache = ModelCache(tmp_path)
    kept = cache.keep(SHA256, "optimised", write)
    profile = cache.keep(SHA256, "profile.json", lambda path: path.write_text("{}"))
    assert synced == {path.stat().st_ino for path in (*kept.iterdir(), profile)}


def test_of_two_servers_that_start_at_once_both_find_the_same(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "model.onnx").write_text("mine")
        ModelCache(tmp_path).keep(SHA256, "optimised", write_first)

    def write_first(folder: Path) -> None:
        folder.mkdir()
        (folder / "model.onnx").write_text("first")

    kept = ModelCache(tmp_path).keep(SHA256, "optimised", write)
    assert (kept / "model.onnx").read_text() == "first"


def test_what_cannot_be_used_is_forgotten(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    cache.keep(SHA256, "optimised", lambda folder: folder.mkdir())
    cache.keep(SHA256, "profile.json", lambda path: path.write_text("{}"))
    cache.drop(SHA256, "optimised")
    cache.drop(SHA256, "profile.json")
    cache.drop(SHA256, "never kept")
    assert cache.find(SHA256, "optimised") is None
    assert cache.find(SHA256, "profile.json") is None


def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    ModelCache(tmp_path).keep(SHA256, "profile.json", lambda path: path.write_text("{}"))
    tmp_path.chmod(0o777)
    cache = ModelCache(tmp_path)
    assert cache.find(SHA256, "profile.json") is None
    kept = cache.keep(SHA256, "profile.json", lambda path: path.write_text("{}"))
    assert not kept.is_relative_to(tmp_path)
    cache.close()
    assert not kept.exists()


def test_a_folder_that_cannot_be_made_costs_only_the_memory_of_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ModelCache(tmp_path / "file" / "models")
    assert cache.keep(SHA256, "profile.json", lambda path: path.write_text("{}")).exists()
    cache.close()


def test_where_nothing_can_be_written_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_usable(**_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("retinue_server.runtime.cache.tempfile.TemporaryDirectory", none_usable)
    (tmp_path / "file").write_text("")
    with capture_logs() as events:
        cache = ModelCache(tmp_path / "file" / "models")
    assert [event["event"] for event in events] == ["cache_unused", "nothing_can_be_kept"]
    assert cache.find(SHA256, "profile.json") is None
    with pytest.raises(OSError, match="no folder"):
        cache.keep(SHA256, "profile.json", lambda path: path.write_text("{}"))
    cache.drop(SHA256, "profile.json")
    cache.close()


def test_what_no_start_has_used_for_a_month_goes(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    somebody_elses = tmp_path / "mobilenet-v2"
    somebody_elses.mkdir()
    os.utime(somebody_elses, (0, 0))
    old, used = "a" * 64, "b" * 64
    for sha256 in (old, used):
        entry = cache.keep(sha256, "profile.json", lambda path: path.write_text("{}")).parent
        long_ago = time.time() - 31 * 24 * 60 * 60
        os.utime(entry, (long_ago, long_ago))
    assert cache.find(used, "profile.json") is not None
    later = ModelCache(tmp_path)
    assert later.find(old, "profile.json") is None
    assert later.find(used, "profile.json") is not None
    assert somebody_elses.is_dir()


def test_what_a_killed_process_was_writing_goes_when_nobody_can_be_writing_it(tmp_path: Path) -> None:
    kept = ModelCache(tmp_path)
    entry = kept.keep(SHA256, "graph", lambda path: path.write_text("whole")).parent
    old, new = entry / ".writing-old", entry / ".writing-new"
    for aside in (old, new):
        aside.mkdir()
        (aside / "graph").write_text("half")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    assert ModelCache(tmp_path).find(SHA256, "graph") == entry / "graph"
    assert (old.exists(), new.exists()) == (False, True)
