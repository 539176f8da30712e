"""Models that lie elsewhere, for tests of mirrors."""

from collections.abc import Callable
from pathlib import Path

from fsspec.implementations.memory import MemoryFileSystem

from retinue_server.bundle.mirror import Mirror
from retinue_server.bundle.remote import Key, Listing, RemoteFile, RemoteModels
from retinue_server.errors import MirrorError


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


def here(mirror: Mirror) -> list[Key]:
    """Which versions a mirror has."""
    return mirror._folder.versions()


def left_aside(mirror: Mirror) -> list[str]:
    """What is in a mirror's folder beside its models."""
    return [path.name for path in mirror.models.parent.iterdir() if path.name not in {"models", ".lock"}]
