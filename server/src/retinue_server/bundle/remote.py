"""A tree of models that is on no disk of this machine: on S3, GCS, Azure, HTTP, or whatever else fsspec knows."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fsspec.core import url_to_fs

from retinue_server.bundle.json_file import first_line
from retinue_server.bundle.manifest import MANIFEST_FILE, MODEL_FILE, NAME_PATTERN
from retinue_server.bundle.repository import VERSION_PATTERN
from retinue_server.bundle.serving import SERVING_FILE
from retinue_server.errors import MirrorError, StartupError

Key = tuple[str, int]

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://.+", re.DOTALL)
# Which extra of the server brings what such an address needs.
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
    **dict.fromkeys(("http", "https"), "http"),
}
# Their folders are a manner of speaking, and all objects below one are listed at the price of one.
_FLAT = {protocol for protocol, extra in _EXTRAS.items() if extra != "http"}
# More is no models repository, but a lake that was named by mistake.
_MOST_OBJECTS = 100_000
_CHUNK_BYTES = 8 * 1024 * 1024
_CONNECT_SECONDS = 5
_READ_SECONDS = 10
_TRIES = 2

# A version has one of these at least: a bundle both, a pipeline a manifest only, and other models a graph.
_TOLD_BY = (MANIFEST_FILE, MODEL_FILE)
# One segment of a path that is no hidden file, no folder's name for itself or its parent, and steers no terminal.
_FILE_PATTERN = re.compile(r"[^\x00-\x20\x7f-\x9f\u2028\u2029/\\.][^\x00-\x1f\x7f-\x9f\u2028\u2029/\\]*")
_MOST_NAME_BYTES = 255
# As filesystems call what differs once the content does; where none is told, when the file was changed.
_CONTENT_TAGS = ("ETag", "etag", "generation", "md5Hash", "Content-MD5", "Digest")
_TIME_TAGS = (
    "mtime",
    "ino",
    "created",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "modified",
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as a listing told of it.

    Attributes:
        path: As its filesystem calls it.
        size_bytes: None where the filesystem does not say.
        tag: Another one once the content is, as far as the filesystem tells.
    """

    path: str
    size_bytes: int | None
    tag: str


@dataclass(slots=True)
class Listing:
    """What there is, by names that are safe to use as those of files here.

    Attributes:
        versions: The files of each version that has a graph or a manifest, by name.
        serving: The file beside a model's versions that says how it is served, by the model's name.
    """

    versions: dict[Key, dict[str, RemoteFile]] = field(default_factory=dict)
    serving: dict[str, RemoteFile] = field(default_factory=dict)


def is_remote(models: str) -> bool:
    """Whether that is an address for fsspec, and not a folder's path."""
    return _URL.fullmatch(models) is not None


class RemoteModels:
    """A models folder that fsspec reads. What it lists is passed over where a folder's would be, and never followed.

    Args:
        url: Its address.
        options: What the filesystem is told besides, as its documentation has it.

    Attributes:
        shown: The address without what may be secret in it.

    Raises:
        StartupError: There is no such kind of address, its package is missing, or it does not take these options.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        protocol = url.partition("://")[0]
        self.shown = _without_secrets(url)
        self._flat = protocol in _FLAT
        self._http = _EXTRAS.get(protocol) == "http"
        # Only s3fs can be told to stop listing.
        self._cap = {"max_items": _MOST_OBJECTS + 1} if _EXTRAS.get(protocol) == "s3" else {}
        try:
            if "::" in url:
                raise ValueError("addresses within addresses are not served from")
            self._filesystem, root = url_to_fs(
                url,
                **_patience(protocol) | ({"use_listings_cache": False} if self._flat else {}) | options,
                skip_instance_cache=True,
            )
        except ImportError as error:
            extra = _EXTRAS.get(protocol)
            advice = (
                f"install retinue-server[{extra}]" if extra else f"install what it says: {_first_line(error)}"
            )
            raise StartupError(
                f"--models is '{self.shown}', which needs a package more: {advice}."
            ) from error
        except Exception as error:
            # Each filesystem has its own.
            raise StartupError(
                f"--models is '{self.shown}', which cannot be opened: {_first_line(error)}; correct it or "
                "--models-options."
            ) from error
        if _EXTRAS.get(protocol) == "s3":
            # Of five by default, each of which may take all that time.
            self._filesystem.retries = _TRIES
        self._root = str(root).rstrip("/")

    def listing(self, name: str | None = None) -> Listing:
        """Lists what there is of one model or of all.

        Raises:
            MirrorError: It cannot be reached or read, or is no place of models.
        """
        listing = Listing()
        with _told(f"the models at '{self.shown}' cannot be listed"):
            self._filesystem.invalidate_cache()
            found = self._flat_tree(name) if self._flat else self._walk(name)
            for count, info in enumerate(found):
                if count >= _MOST_OBJECTS:
                    raise MirrorError(
                        f"there are more than {_MOST_OBJECTS:,} files at '{self.shown}': name a place with "
                        "--models that holds models only."
                    )
                self._sort_in(info, listing)
        listing.versions = {
            key: files for key, files in listing.versions.items() if not files.keys().isdisjoint(_TOLD_BY)
        }
        return listing

    def download(
        self, file: RemoteFile, path: Path, *, most_bytes: int, cancelled: Callable[[], bool]
    ) -> bool:
        """Copies a file.

        Args:
            file: Which, as listed.
            path: To where; nothing is there yet.
            most_bytes: Not more of a file of which no size is listed.
            cancelled: Asked before each block; true ends it.

        Returns:
            Whether it was copied and is as long as listed: it may change or go at any time.

        Raises:
            MirrorError: It cannot be read.
            OSError: It cannot be written.
        """
        most_bytes = most_bytes if file.size_bytes is None else file.size_bytes
        written = 0
        try:
            with path.open("xb") as copy:
                for chunk in self._chunks(file.path):
                    written += len(chunk)
                    if written > most_bytes or cancelled():
                        return False
                    copy.write(chunk)
        except MirrorError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        return file.size_bytes in {None, written}

    def _chunks(self, path: str) -> Iterator[bytes]:
        # Of HTTP one request brings a whole file, of others each a block.
        how = {"block_size": 0} if self._http else {"block_size": _CHUNK_BYTES, "cache_type": "none"}
        what = f"'{_without_secrets(path)}' cannot be read"
        with _told(what):
            opened = self._filesystem.open(path, "rb", **how)
        try:
            while True:
                with _told(what):
                    chunk = opened.read(_CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk
        finally:
            opened.close()

    def _flat_tree(self, name: str | None) -> Iterator[dict[str, Any]]:
        """All objects, however deep they lie."""
        root = self._root if name is None else f"{self._root}/{name}"
        found = self._filesystem.find(root, detail=True, **self._cap)
        bucket = self._root.partition("/")[0]
        # Some list nothing where there is no bucket, and a bucket that is gone takes no model away.
        if not found and not self._filesystem.exists(bucket):
            raise FileNotFoundError(f"there is no bucket or container '{bucket}', or it may not be read")
        yield from found.values()

    def _walk(self, name: str | None) -> Iterator[dict[str, Any]]:
        """What lies as deep as models and their versions do."""
        models = [self._root + f"/{name}"] if name is not None else self._models()
        for model in models:
            for info in self._folder(model):
                if info["type"] != "directory":
                    yield info
                elif VERSION_PATTERN.fullmatch(_last(info["name"])):
                    yield from (file for file in self._folder(info["name"]) if file["type"] != "directory")

    def _models(self) -> list[str]:
        found = self._filesystem.ls(self._slashed(self._root), detail=True)
        if self._http and not found:
            raise FileNotFoundError("there is no link on that page, which must be an index of folders")
        folders = [info["name"] for info in found if info["type"] == "directory"]
        return [folder for folder in folders if NAME_PATTERN.fullmatch(_last(folder))]

    def _folder(self, path: str) -> list[dict[str, Any]]:
        # It may go between two looks.
        with suppress(FileNotFoundError, NotADirectoryError):
            return list(self._filesystem.ls(self._slashed(path), detail=True))
        return []

    def _slashed(self, folder: str) -> str:
        """Web servers redirect from a folder's address to that which ends with a slash."""
        return folder.rstrip("/") + "/" if self._http else folder

    def _sort_in(self, info: dict[str, Any], listing: Listing) -> None:
        path = str(info["name"])
        if info.get("type") != "file" or not path.startswith(self._root + "/"):
            return
        parts = path[len(self._root) + 1 :].split("/")
        if self._http:
            parts = [unquote(part) for part in parts]
        if NAME_PATTERN.fullmatch(parts[0]) is None:
            return
        if len(parts) == 2 and parts[1] == SERVING_FILE:
            file = self._file(path, info)
            if file is not None:
                listing.serving[parts[0]] = file
        elif len(parts) == 3 and VERSION_PATTERN.fullmatch(parts[1]) and _is_file_name(parts[2]):
            file = self._file(path, info)
            if file is not None:
                listing.versions.setdefault((parts[0], int(parts[1])), {})[parts[2]] = file

    def _file(self, path: str, info: dict[str, Any]) -> RemoteFile | None:
        if self._http:
            try:
                info = self._filesystem.info(path)
            except FileNotFoundError as error:
                # It says so of every failure, and only one that is gone may be passed over.
                if getattr(error.__cause__, "status", None) in {404, 410}:
                    return None
                raise ConnectionError(str(error.__cause__)) from error
        tags = [f"{key}={info[key]}" for key in _CONTENT_TAGS if info.get(key)][:1]
        tags = tags or [f"{key}={info[key]}" for key in _TIME_TAGS if info.get(key)]
        size = info.get("size")
        return RemoteFile(path, size if isinstance(size, int) and size >= 0 else None, " ".join(tags))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Says of whatever a filesystem raises, each its own, what it was about.

    Raises:
        MirrorError: In its place.
    """
    try:
        yield
    except MirrorError:
        raise
    except Exception as error:
        advice = "check the address, the network and the credentials"
        raise MirrorError(f"{what}: {_first_line(error)}; {advice}.") from error


def _patience(protocol: str) -> dict[str, Any]:
    """Has a store that does not answer fail in seconds, and not in minutes."""
    if _EXTRAS.get(protocol) == "s3":
        timeouts = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
        return {"config_kwargs": {**timeouts, "retries": {"max_attempts": 0}}}
    if _EXTRAS.get(protocol) == "http":
        # It comes with an extra.
        import aiohttp  # noqa: PLC0415

        from retinue_server.bundle.index_page import IndexPage  # noqa: PLC0415

        # By default a download that takes five minutes fails.
        timeout = aiohttp.ClientTimeout(None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        return {"client_kwargs": {"timeout": timeout, "response_class": IndexPage}}
    return {}


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _is_file_name(name: str) -> bool:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return False
    return _FILE_PATTERN.fullmatch(name) is not None and len(encoded) <= _MOST_NAME_BYTES


def _without_secrets(url: str) -> str:
    """The address without a password or signature."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _first_line(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and _URL.fullmatch(str(error).strip()):
        # All that is said of a web server's answer.
        return "404, not found"
    # What aiohttp says also of addresses without TLS.
    return first_line(error).replace(" ssl:default", "")
