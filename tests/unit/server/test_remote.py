"""What a store elsewhere lists, and what of that is taken for models."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from retinue_server.bundle import remote
from retinue_server.bundle.remote import RemoteModels, is_remote
from retinue_server.errors import MirrorError, StartupError


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """fsspec's file system in memory, which all of a process share."""
    filesystem = MemoryFileSystem()
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["by folder", "all at once"])
def models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RemoteModels:
    """What lies below memory://models, listed as web servers and disks are, and as object stores are."""
    if request.param == "all at once":
        monkeypatch.setattr(remote, "_FLAT", {"memory"})
    return RemoteModels("memory://models", {})


def files(models: RemoteModels, name: str | None = None) -> dict[tuple[str, int], list[str]]:
    return {key: sorted(found) for key, found in models.listing(name).versions.items()}


@pytest.mark.parametrize("url", ["s3://bucket/models", "https://host/models", "memory://models", "file:///x"])
def test_addresses_are_told_from_paths(url: str) -> None:
    assert is_remote(url)


@pytest.mark.parametrize("path", ["models", "/models", "./s3:/x", "s3:", "s3://", "a b://c", "C:\\models"])
def test_paths_are_told_from_addresses(path: str) -> None:
    assert not is_remote(path)


def test_versions_are_listed_with_their_files(models: RemoteModels, store: MemoryFileSystem) -> None:
    for path in (
        "a/1/model.onnx",
        "a/1/manifest.json",
        "a/12/model.onnx",
        "b/3/model.onnx",
        "b/3/w 1.bin",
        "p/1/manifest.json",
    ):
        store.pipe(f"/models/{path}", b"12345")
    store.pipe("/models/a/serving.json", b"{}")
    assert files(models) == {
        ("a", 1): ["manifest.json", "model.onnx"],
        ("a", 12): ["model.onnx"],
        ("b", 3): ["model.onnx", "w 1.bin"],
        ("p", 1): ["manifest.json"],
    }
    assert files(models, "b") == {("b", 3): ["model.onnx", "w 1.bin"]}
    assert models.listing("a").serving.keys() == {"a"}
    assert models.listing().versions["a", 1]["model.onnx"].size_bytes == 5
    assert files(models, "c") == {}


def test_a_file_that_is_written_anew_has_another_tag(models: RemoteModels, store: MemoryFileSystem) -> None:
    store.pipe("/models/a/1/model.onnx", b"1")
    before = models.listing().versions
    assert models.listing().versions == before
    store.pipe("/models/a/1/model.onnx", b"2")
    assert models.listing().versions != before


@pytest.mark.parametrize(
    "path",
    [
        "a/01/model.onnx",
        "a/-1/model.onnx",
        "a/latest/model.onnx",
        "a/2",
        "a/2/deep/model.onnx",
        "a/2/weights.bin",
        "a/../model.onnx",
        "../2/model.onnx",
        "a/2/../../../escaped",
        "a//model.onnx",
        "a/\\..\\2/model.onnx",
        ".git/2/model.onnx",
        "white space/2/model.onnx",
        "model.onnx",
    ],
)
def test_what_is_no_version_is_passed_over(path: str, models: RemoteModels, store: MemoryFileSystem) -> None:
    store.pipe("/models/a/1/model.onnx", b"")
    # Not by `pipe`, which would tidy the name up.
    store.store[f"/models/{path}"] = store.store["/models/a/1/model.onnx"]
    assert files(models) == {("a", 1): ["model.onnx"]}


@pytest.mark.parametrize(
    "name",
    ["..", ".", ".hidden", "", "\\..\\x", "back\\slash", "bell\x07", "line\nbreak", "x" * 256, "\ud800", " "],
)
def test_files_with_names_that_mean_something_else_here_are_passed_over(
    name: str, models: RemoteModels, store: MemoryFileSystem
) -> None:
    store.pipe("/models/a/1/model.onnx", b"")
    store.store[f"/models/a/1/{name}"] = store.store["/models/a/1/model.onnx"]
    assert files(models) == {("a", 1): ["model.onnx"]}


def test_a_folder_that_is_not_there_is_not_an_empty_one(store: MemoryFileSystem) -> None:
    with pytest.raises(MirrorError, match="the models at 'memory://models' cannot be listed"):
        RemoteModels("memory://models", {}).listing()


def test_a_bucket_without_models_is_empty_and_one_that_is_not_there_is_not(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Object stores have no folders: the last model takes its folder's name with it."""
    monkeypatch.setattr(remote, "_FLAT", {"memory"})
    models = RemoteModels("memory://bucket/models", {})
    # Other than those of buckets, paths in fsspec's memory begin with a slash.
    monkeypatch.setattr(models, "_root", "bucket/models")
    with pytest.raises(MirrorError, match="there is no bucket or container 'bucket'"):
        models.listing()
    store.mkdir("/bucket")
    assert files(models) == {}


def test_more_files_than_models_have_are_refused(
    models: RemoteModels, store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MOST_OBJECTS", 3)
    for number in range(3):
        store.pipe(f"/models/a/1/{number}", b"")
    models.listing()
    store.pipe("/models/a/1/model.onnx", b"")
    with pytest.raises(MirrorError, match="more than 3 files"):
        models.listing()


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://bucket/models", "s3fs", "s3"),
        ("gs://bucket/models", "gcsfs", "gcs"),
        ("az://container/models", "adlfs", "azure"),
        ("https://host/models", "aiohttp", "http"),
    ],
)
def test_a_package_that_is_missing_is_named_by_its_extra(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, url.partition("://")[0], raising=False)
    with pytest.raises(StartupError, match=rf"install retinue-server\[{extra}\]"):
        RemoteModels(url, {})


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("nothing://x", {}, "cannot be opened: Protocol not known"),
        ("simplecache::s3://x", {}, "addresses within addresses"),
        ("memory://x", {"skip_instance_cache": False}, "correct it or --models-options"),
    ],
)
def test_an_address_that_means_nothing_is_told_at_the_start(
    url: str, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(StartupError, match=why):
        RemoteModels(url, options)


def test_secrets_in_an_address_are_not_shown(store: MemoryFileSystem) -> None:
    models = RemoteModels("memory://user:password@host/models?signature=secret", {})
    assert models.shown == "memory://host/models"


def test_a_file_that_changes_while_it_is_read_is_not_taken(
    models: RemoteModels, store: MemoryFileSystem, tmp_path: Path
) -> None:
    store.pipe("/models/a/1/model.onnx", b"12345")
    file = models.listing().versions["a", 1]["model.onnx"]

    def download(name: str) -> bool:
        return models.download(file, tmp_path / name, most_bytes=10**6, cancelled=lambda: False)

    assert download("whole")
    assert (tmp_path / "whole").read_bytes() == b"12345"
    for name, content in (("longer", b"123456"), ("shorter", b"1234")):
        store.pipe("/models/a/1/model.onnx", content)
        assert not download(name)
    store.rm("/models/a/1/model.onnx")
    assert not download("gone")
    assert not models.download(file, tmp_path / "stopped", most_bytes=10**6, cancelled=lambda: True)
