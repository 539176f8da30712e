"""A folder that has what a tree of models elsewhere has, so that models are served from a disk wherever they lie."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from retinue_server.bundle import manifest as manifests
from retinue_server.bundle.mirror_folder import MirrorFolder, Record, Source
from retinue_server.bundle.remote import Key, RemoteFile, RemoteModels
from retinue_server.bundle.serving import MAX_SERVING_BYTES, SERVING_FILE
from retinue_server.bundle.signature import SIGNATURE_FILE
from retinue_server.errors import BundleError, MirrorError, StartupError

_log = structlog.get_logger(__name__)

# A change is noticed within two seconds: the server must see it twice on the disk, too.
_LOOK_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# What cannot be copied is tried again then, or when it changes.
_REFUSED_SECONDS = 30.0
# Of one update, for what still changes.
_MOST_LOOKS = 4
_LOCK_SECONDS = 0.05
_NOT_AS_LISTED = "is not as long as listed, or longer than there is room for."
# In place of a version's number: what lies beside the versions.
BESIDE = 0


@dataclass(frozen=True, slots=True)
class MirrorState:
    """How a mirror is.

    Attributes:
        trouble: Why the latest look failed; empty where it did not.
        age_seconds: Since a look last succeeded; None where none has.
        refused: Why versions could not be copied, or as version `BESIDE` a model's serving.json.
    """

    trouble: str
    age_seconds: float | None
    refused: Mapping[Key, str]


@dataclass(frozen=True, slots=True)
class _Refusal:
    source: Source
    reason: str
    until: float


class Mirror:
    """A copy on disk of models elsewhere. Its methods block, and may be called from any thread.

    Versions are copied aside and renamed into place. A bundle is there as soon as its graph has the hash that its
    manifest names, and never takes the place of such a one without; a pipeline is there as soon as its manifest is, and
    anything else once two looks in a row have seen the same. What is there already and unchanged is not copied again.
    Servers that share a folder take turns.

    Args:
        remote: Where the models lie.
        folder: Where their copies do; nobody else may write to it.
        limit_bytes: Most disk that they take; 0 means what there is, but for a twentieth of it.
        cancelled: Asked now and then; true ends what is being done.
        clock: Seconds that only grow.

    Attributes:
        models: The folder of models that are here.
        shown: Where they are from, without what may be secret.
    """

    def __init__(
        self,
        remote: RemoteModels,
        folder: Path,
        *,
        limit_bytes: int = 0,
        cancelled: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = MirrorFolder(folder)
        self.models = self._folder.models
        self.shown = remote.shown
        self._remote = remote
        self._limit_bytes = limit_bytes
        self._cancelled = cancelled
        self._clock = clock
        self._trouble, self._told = "", False
        self._looked_at: float | None = None
        self._refused: dict[Key, _Refusal] = {}
        # As the look before saw it.
        self._seen: dict[Key, Source] = {}
        # Bundles whose manifest is there, and whose graph is still to come.
        self._coming: dict[Key, Source] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def stopping(self) -> bool:
        """Whether nothing more is copied."""
        return self._closing.is_set() or self._cancelled()

    def state(self) -> MirrorState:
        """How it is now."""
        age_seconds = None if self._looked_at is None else self._clock() - self._looked_at
        refused = {key: refusal.reason for key, refusal in list(self._refused.items())}
        return MirrorState(self._trouble, age_seconds, refused)

    def keys(self, name: str | None = None) -> list[Key]:
        """Lists what there is elsewhere, of one model or of all, without copying it.

        Raises:
            MirrorError: It cannot be listed.
        """
        with self._noted():
            return sorted(self._remote.listing(name).versions)

    def update(self, name: str | None = None) -> None:
        """Makes what is here what there is elsewhere, of one model or of all, and waits for what still changes.

        Raises:
            MirrorError: That cannot be listed, or the folder cannot be written.
        """
        for _ in range(_MOST_LOOKS):
            if not self.look(name) or self._closing.wait(_LOOK_SECONDS) or self.stopping:
                return

    def look(self, name: str | None = None) -> bool:
        """Looks once, and copies and removes what that tells.

        Returns:
            Whether something still changes, and is to be looked at again.

        Raises:
            MirrorError: As for `update`.
        """
        with self._noted(), self._folder.alone(self._wait_for_turn):
            if self.stopping:
                return False
            listing = self._remote.listing(name)
            for key in set(self._folder.versions(name)) - listing.versions.keys():
                self._folder.remove(key)
                _log.info("mirror_removed", model=key[0], version=key[1])
            pending = self._follow_beside(listing.serving, name)
            # The newest first: most requests want that.
            keys = sorted(listing.versions, key=lambda key: (key[0], -key[1]))
            pending += [
                self._follow_version(key, _needed(listing.versions[key])) for key in keys if not self.stopping
            ]
            told = {*keys, *((of, BESIDE) for of in listing.serving)}
            for key in {*self._seen, *self._refused} - told:
                if name in {None, key[0]}:
                    self._seen.pop(key, None)
                    self._refused.pop(key, None)
                    self._coming.pop(key, None)
            return any(pending)

    def tell_of_trouble(self) -> None:
        """Logs why the last look has failed, once until one succeeds."""
        if not self._told and not self.stopping:
            self._told = True
            _log.error("mirror_failed", models=self.shown, reason=self._trouble)

    def follow(self) -> None:
        """Begins to look again and again, in a thread of its own."""
        # A store that does not answer must not hold up the process's end.
        self._thread = threading.Thread(target=self._look_on, name="mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends that, and whatever else is being done."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_LOOK_SECONDS)

    def _look_on(self) -> None:
        pause_seconds = _LOOK_SECONDS
        while not self._closing.wait(pause_seconds):
            try:
                self.look()
                pause_seconds = _LOOK_SECONDS
            except MirrorError:
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            except Exception:
                # It must be looked on, whatever has happened to one look.
                _log.exception("mirror_broke")
                pause_seconds = _LONGEST_PAUSE_SECONDS

    def _wait_for_turn(self) -> bool:
        return self.stopping or self._closing.wait(_LOCK_SECONDS)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Says once that looks fail, and once that they do so no more.

        Raises:
            MirrorError: This one has.
        """
        try:
            try:
                yield
            except MirrorError:
                raise
            except (OSError, StartupError) as error:
                why = str(error).rstrip(".")
                raise MirrorError(
                    f"copies of '{self.shown}' cannot be kept in the cache folder: {why}; correct that, or name "
                    "another with --cache-folder."
                ) from error
        except MirrorError as error:
            self._trouble = error.message
            # Before a look has succeeded it may end the start, which says why, too.
            if self._looked_at is not None:
                self.tell_of_trouble()
            raise
        if self._trouble:
            _log.info("mirror_recovered", models=self.shown)
            self._told = False
        self._trouble, self._looked_at = "", self._clock()

    def _follow_beside(self, there: Mapping[str, RemoteFile], name: str | None) -> list[bool]:
        """Makes what lies beside the versions what it is elsewhere; true of each that is to be looked at again."""
        for gone in set(self._folder.names_with(SERVING_FILE)) - there.keys():
            if name in {None, gone}:
                self._folder.remove_beside(gone, SERVING_FILE)
        return [self._bring_beside((of, BESIDE), file) for of, file in there.items() if not self.stopping]

    def _bring_beside(self, key: Key, file: RemoteFile) -> bool:
        record = Record(_source({SERVING_FILE: file}), whole=True)
        settled = self._seen.get(key) == record.source
        self._seen[key] = record.source
        if self._folder.record_beside(key[0]) == record:
            self._refused.pop(key, None)
            return False
        if self._is_refused(key, record.source):
            return False
        try:
            with self._folder.aside() as aside:
                most_bytes = min(self._room({SERVING_FILE: file}), MAX_SERVING_BYTES)
                fits = (file.size_bytes or 0) <= most_bytes
                if not (fits and self._download(file, aside / SERVING_FILE, most_bytes)):
                    if settled and not self.stopping:
                        raise MirrorError(
                            f"'{SERVING_FILE}' is not as long as listed, or longer than {most_bytes:,} bytes."
                        )
                    return True
                self._folder.put_beside(aside, key[0], record)
        except MirrorError as error:
            self._refuse(key, record.source, error.message)
            return False
        except OSError as error:
            self._refuse(key, record.source, _why_unwritten(error))
            return False
        self._refused.pop(key, None)
        return False

    def _follow_version(self, key: Key, files: dict[str, RemoteFile]) -> bool:
        """Makes a version what it is elsewhere, or notes why it cannot be; true where it is to be looked at again."""
        source = _source(files)
        settled = self._seen.get(key) == source
        self._seen[key] = source
        record = self._folder.record(key)
        if record is not None and record.source == source:
            self._refused.pop(key, None)
            return False
        if self._is_refused(key, source) or self._coming.get(key) == source:
            return False
        if not settled and manifests.MANIFEST_FILE not in files:
            return True
        try:
            brought = self._bring(key, files, settled=settled)
        except (BundleError, MirrorError) as error:
            self._refuse(key, source, error.message)
            return False
        except OSError as error:
            self._refuse(key, source, _why_unwritten(error))
            return False
        if brought:
            self._refused.pop(key, None)
            _log.info("mirrored", model=key[0], version=key[1])
        return not brought and self._coming.get(key) != source

    def _is_refused(self, key: Key, source: Source) -> bool:
        refused = self._refused.get(key)
        return refused is not None and refused.source == source and self._clock() < refused.until

    def _refuse(self, key: Key, source: Source, reason: str) -> None:
        before = self._refused.get(key)
        if before is None or before.reason != reason:
            _log.error("mirror_refused", model=key[0], version=key[1], reason=reason)
        self._refused[key] = _Refusal(source, reason, self._clock() + _REFUSED_SECONDS)

    def _bring(self, key: Key, files: dict[str, RemoteFile], *, settled: bool) -> bool:
        """Copies a version and puts it into its place; false where it changes meanwhile or is not whole yet.

        Raises:
            BundleError: It is not whole, and one that is has its place.
            MirrorError: A file cannot be read, or there is no room for it.
            OSError: It cannot be written.
        """
        room_bytes = self._room(files)
        with self._folder.aside() as aside:
            for name, file in files.items():
                if not self._download(file, aside / name, room_bytes):
                    if settled and not self.stopping:
                        raise MirrorError(f"'{name}' {_NOT_AS_LISTED}")
                    return False
                room_bytes -= (aside / name).stat().st_size
            if manifests.MODEL_FILE not in files and not _is_pipeline(aside):
                self._coming[key] = _source(files)
                return False
            whole = self._is_whole(aside, key, files, settled=settled)
            # A bundle that will not be whole is the server's to refuse, in its own words.
            if not whole and not (settled and manifests.MANIFEST_FILE in files):
                return False
            self._folder.put(aside, key, Record(_source(files), whole))
            return True

    def _is_whole(self, aside: Path, key: Key, files: dict[str, RemoteFile], *, settled: bool) -> bool:
        """Whether what was copied belongs together.

        Raises:
            BundleError: It does not and will not, and what has its place does.
            MirrorError: It cannot be listed again.
        """
        if manifests.MANIFEST_FILE not in files:
            # No hash tells; so it must not have changed while it was copied.
            return _needed(self._remote.listing(key[0]).versions.get(key, {})) == files
        try:
            manifest = manifests.read(aside)
            if not manifest.HasField("pipeline"):
                manifests.check_hash(aside, manifest)
        except BundleError as error:
            before = self._folder.record(key)
            if settled and before is not None and before.whole:
                what = error.message.replace(f"{aside}{os.sep}", "")
                raise BundleError(f"it is no whole bundle, and the one before it stays: {what}") from error
            return False
        return True

    def _download(self, file: RemoteFile, path: Path, most_bytes: int) -> bool:
        return self._remote.download(file, path, most_bytes=most_bytes, cancelled=lambda: self.stopping)

    def _room(self, files: Mapping[str, RemoteFile]) -> int:
        """How many bytes may be written.

        Raises:
            MirrorError: Those files have more.
        """
        room_bytes = self._folder.room_bytes(self._limit_bytes)
        needed_bytes = sum(file.size_bytes or 0 for file in files.values())
        if needed_bytes > room_bytes:
            raise MirrorError(
                f"it has {needed_bytes:,} bytes, and {room_bytes:,} more may be written to the cache folder: make room "
                "there, raise --mirror-limit, or remove versions.",
                reason="DISK_LIMIT",
            )
        return room_bytes


def _needed(files: Mapping[str, RemoteFile]) -> dict[str, RemoteFile]:
    """What a server reads of a version: a bundle's files, and of other models weights beside the graph, too."""
    if manifests.MANIFEST_FILE not in files:
        return dict(files)
    # The small ones first.
    read = (manifests.MANIFEST_FILE, SIGNATURE_FILE, manifests.MODEL_FILE)
    return {name: files[name] for name in read if name in files}


def _is_pipeline(folder: Path) -> bool:
    try:
        return manifests.read(folder).HasField("pipeline")
    except BundleError:
        return False


def _why_unwritten(error: OSError) -> str:
    return f"it cannot be written to the disk: {error.strerror}."


def _source(files: Mapping[str, RemoteFile]) -> Source:
    return {name: (file.size_bytes, file.tag) for name, file in files.items()}
