"""Finds the bundles of a models folder."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle import manifest as manifests
from retinue_server.bundle import plain, sealed, signature
from retinue_server.errors import BundleError, StartupError

VERSION_PATTERN = re.compile(r"[1-9][0-9]{0,8}")

# Why a folder of a model is not even looked into.
UNREADABLE = "MODEL_UNREADABLE"

# Of a file or folder: device, inode, size, and when content or rights changed last; None where there is none.
FileState = tuple[int, int, int, int] | None
# Of the folder and its files, and with whose signatures it holds, where it needs one.
BundleState = tuple[FileState | signature.Keys, ...]
# Tells those keys as they are now.
TrustedKeys = Callable[[], signature.Keys]


@dataclass(frozen=True, slots=True)
class BundleFolder:
    """Where one version of one model lies; nothing in it is checked yet.

    Attributes:
        name: The model's.
        version: Its version.
        path: Where it lies.
        keys: Whose signature it needs; None where it needs none.
    """

    name: str
    version: int
    path: Path
    keys: TrustedKeys | None = None

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / manifests.MODEL_FILE

    def state(self) -> BundleState:
        """What differs once a file of the bundle, the bundle as a whole, or the keys were changed or replaced."""
        files = (manifests.MANIFEST_FILE, manifests.MODEL_FILE, signature.SIGNATURE_FILE)
        states = tuple(file_state(path) for path in (self.path, *(self.path / file for file in files)))
        if states[1] is None:
            return (*states, *self._weights_states())
        return states if self.keys is None else (*states, self.keys())

    def _weights_states(self) -> BundleState:
        """Of what lies beside a graph without a manifest, which may have its weights there."""
        try:
            return tuple(map(file_state, sorted(self.path.iterdir())))
        except OSError:
            return ()

    def read(self) -> pb.ModelManifest:
        """Reads the manifest and checks it against its signature, the folder's name and the file's hash.

        Of an ONNX model without one it is made up: the task is TASK_TENSOR, which no manifest on disk may have. Links
        may lead elsewhere in the models folder, which may itself be one, but not out of it.

        Raises:
            BundleError: Something does not hold.
        """
        self._check_inside(self.path)
        if not os.path.lexists(self.path / manifests.MANIFEST_FILE) and os.path.exists(self.model_path):
            if self.keys is not None:
                raise signature.missing(
                    self.path / manifests.MANIFEST_FILE,
                    "make a bundle of it with retinue-export adopt, and sign that",
                )
            self._check_inside(self.model_path)
            return plain.describe(self.name, self.model_path)
        self._check_inside(self.path / manifests.MANIFEST_FILE)
        manifest = manifests.read(self.path, self._check_signature)
        if manifest.name != self.name:
            raise BundleError(
                f"{self.path / manifests.MANIFEST_FILE}: field `name` is '{manifest.name}', "
                f"but its folder is called '{self.name}'."
            )
        if manifest.HasField("pipeline"):
            if os.path.lexists(self.model_path):
                raise BundleError(
                    f"{self.model_path} is beside a manifest with `pipeline`; remove one of the two."
                )
            return manifest
        self._check_inside(self.model_path)
        manifests.check_hash(self.path, manifest)
        return manifest

    @contextmanager
    def graph(self, manifest: pb.ModelManifest) -> Iterator[Path]:
        """What to load the graph from: where a signature is needed, a copy of it that nobody can change any more.

        Args:
            manifest: As it was read.

        Raises:
            BundleError: The file is not the one that it describes, or there is no memory for a copy.
        """
        if self.keys is None:
            yield self.model_path
            return
        with sealed.copy(self.model_path, manifest.sha256) as path:
            yield path

    def _check_signature(self, manifest: bytes) -> None:
        if self.keys is not None:
            self._check_inside(self.path / signature.SIGNATURE_FILE)
            signature.check(self.path, self.name, self.version, manifest, self.keys())

    def _check_inside(self, path: Path) -> None:
        check_inside(path, self.path.parent.parent, "copy the bundle into it")


def check_inside(path: Path, models: Path, advice: str) -> None:
    """Refuses a file or folder that a link leads to from the models folder to another place.

    Args:
        path: Of the file or folder.
        models: The models folder, which may be a link itself.
        advice: What to do about one.

    Raises:
        BundleError: It lies elsewhere.
    """
    try:
        inside = path.resolve().is_relative_to(models.resolve())
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{path} is a link that leads nowhere; copy the bundle again.") from error
    if not inside:
        raise BundleError(
            f"{path} is a link that leads out of the models folder; {advice}.", reason="LINK_LEADS_OUT"
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a models folder.

    Attributes:
        bundles: By name and then version.
        unreadable: Why folders of models cannot be read, by name.
    """

    bundles: list[BundleFolder]
    unreadable: dict[str, BundleError]


def listing(models: Path, name: str | None = None, keys: TrustedKeys | None = None) -> Listing:
    """Lists the bundles under `models`, and the models that cannot be read, which cost the others nothing.

    A version folder is a positive integer without leading zeros; other folders and files are passed over, so that
    half-written bundles (which have other names) and notes do no harm.

    Args:
        models: The folder of all models.
        name: Of the one model that is meant, which must match `NAME_PATTERN`; None for all.
        keys: Whose signature they need; None where they need none.

    Raises:
        StartupError: The folder does not exist or cannot be read.
    """
    try:
        if not models.is_dir():
            what = "is a file" if models.exists() else "does not exist"
            raise StartupError(f"the models folder '{models}' {what}: name another with --models.")
        folders = list(models.iterdir()) if name is None else [models / name]
    except OSError as error:
        raise StartupError(_why_unreadable(error)) from error
    bundles: list[BundleFolder] = []
    unreadable: dict[str, BundleError] = {}
    for folder in folders:
        try:
            bundles += _versions(folder, keys)
        except OSError as error:
            unreadable[folder.name] = BundleError(_why_unreadable(error), reason=UNREADABLE)
    return Listing(sorted(bundles, key=lambda bundle: (bundle.name, bundle.version)), unreadable)


def find(models: Path, name: str | None = None, keys: TrustedKeys | None = None) -> list[BundleFolder]:
    """Lists the bundles of `listing`.

    Args:
        models: As there.
        name: Likewise.
        keys: Likewise.

    Raises:
        StartupError: The folder does not exist or cannot be read.
        BundleError: That of the one model cannot be read.
    """
    found = listing(models, name, keys)
    if name in found.unreadable:
        raise found.unreadable[name]
    return found.bundles


def scan(models: Path, keys: TrustedKeys | None = None) -> list[BundleFolder]:
    """Lists what `find` does, at least one.

    Raises:
        StartupError: The folder does not exist, cannot be read or holds no bundle that can.
    """
    found = listing(models, keys=keys)
    if found.bundles:
        return found.bundles
    for error in found.unreadable.values():
        raise error
    raise StartupError(
        f"the models folder '{models}' holds no bundle: expected NAME/VERSION/{manifests.MODEL_FILE} and "
        f"{manifests.MANIFEST_FILE}, VERSION being 1, 2, ...; make one with retinue-export."
    )


def _versions(model: Path, keys: TrustedKeys | None) -> list[BundleFolder]:
    """Lists the versions of a model.

    Raises:
        OSError: Its folder cannot be read.
    """
    if manifests.NAME_PATTERN.fullmatch(model.name) is None or not _is_folder(model):
        return []
    # It may go between two looks.
    with suppress(FileNotFoundError):
        return [
            BundleFolder(model.name, int(version.name), version, keys)
            for version in model.iterdir()
            if VERSION_PATTERN.fullmatch(version.name) and _may_be_folder(version)
        ]
    return []


def _is_folder(path: Path) -> bool:
    """Whether something is a folder.

    Raises:
        OSError: That cannot be told, as of a link that leads nowhere.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return False


def _may_be_folder(path: Path) -> bool:
    try:
        return _is_folder(path)
    except OSError:
        # Whoever reads it says why it cannot be.
        return True


def _why_unreadable(error: OSError) -> str:
    return (
        f"'{error.filename}' cannot be read: {error.strerror}; let the server's user read the models folder."
    )


def file_state(path: Path) -> FileState:
    """What differs once a file or folder was changed, replaced, put there or taken away."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns
