"""Finds the bundles of a models folder."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle import manifest as manifests
from retinue_server.errors import BundleError, StartupError

_VERSION_PATTERN = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class BundleFolder:
    """Where one version of one model lies; nothing in it is checked yet."""

    name: str
    version: int
    path: Path

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / manifests.MODEL_FILE

    def read(self) -> pb.ModelManifest:
        """Reads the manifest and checks it against the folder's name and the file's hash.

        Raises:
            BundleError: Something does not hold.
        """
        manifest = manifests.read(self.path)
        if manifest.name != self.name:
            raise BundleError(
                f"{self.path / manifests.MANIFEST_FILE}: field `name` is '{manifest.name}', "
                f"but its folder is called '{self.name}'."
            )
        manifests.check_hash(self.path, manifest)
        return manifest


def scan(models: Path) -> list[BundleFolder]:
    """Lists the bundles under `models`, by name and then version.

    A version folder is a positive integer without leading zeros; other folders and files are passed over, so that
    half-written bundles (which have other names) and notes do no harm.

    Raises:
        StartupError: The folder does not exist, cannot be read or holds no bundle.
    """
    try:
        if not models.is_dir():
            what = "is a file" if models.exists() else "does not exist"
            raise StartupError(f"the models folder '{models}' {what}: name another with --models.")
        found = list(_bundles(models))
    except OSError as error:
        raise StartupError(
            f"'{error.filename}' cannot be read: {error.strerror}; let the server's user read the models folder."
        ) from error
    if not found:
        raise StartupError(
            f"the models folder '{models}' holds no bundle: expected NAME/VERSION/{manifests.MODEL_FILE} and "
            f"{manifests.MANIFEST_FILE}, VERSION being 1, 2, ...; make one with retinue-export."
        )
    return sorted(found, key=lambda bundle: (bundle.name, bundle.version))


def _bundles(models: Path) -> Iterator[BundleFolder]:
    for model in models.iterdir():
        if not model.is_dir() or manifests.NAME_PATTERN.fullmatch(model.name) is None:
            continue
        for version in model.iterdir():
            if version.is_dir() and _VERSION_PATTERN.fullmatch(version.name):
                yield BundleFolder(model.name, int(version.name), version)
