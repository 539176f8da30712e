"""Bundles on disk: a version folder that appears whole, by rename, or not at all."""

import datetime
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from google.protobuf import json_format
from retinue.v1 import manifest_pb2 as pb

from retinue_export.errors import ExportError
from retinue_server.bundle import manifest as manifest_file
from retinue_server.errors import BundleError

ADOPTED = "onnx:"
"""What the architecture of a bundle begins with that was made of an ONNX file."""
_MOST_VERSION_DIGITS = 9
"""Servers pass over version folders of longer names."""
_ASIDE = "-writing-"
"""In the names of folders that are being filled."""
_LEFT_BEHIND_SECONDS = 24 * 3600
"""Nobody fills a folder for so long: who did was killed."""


def other_side(manifest: pb.ModelManifest) -> str:
    """What a bundle was compared with, for people."""
    return "the original" if manifest.source.architecture.startswith(ADOPTED) else "PyTorch"


def require_free(out: Path, name: str, version: int) -> Path:
    """Names the folder of a version that does not exist yet.

    Raises:
        ExportError: the name or version is not valid, the version exists, or nothing can be written there.
    """
    if manifest_file.NAME_PATTERN.fullmatch(name) is None:
        raise ExportError(
            f"{name!r} is no model name: use letters, digits, '.', '_' and '-', beginning with a letter or digit."
        )
    if not 1 <= version < 10**_MOST_VERSION_DIGITS:
        raise ExportError(
            f"Version {version} is not a positive integer of at most {_MOST_VERSION_DIGITS} digits."
        )
    folder = out / name / str(version)
    try:
        if folder.exists():
            raise _taken(folder)
        with _aside(folder):
            pass
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error.strerror}.") from error
    return folder


def write(out: Path, manifest: pb.ModelManifest, version: int, model: bytes) -> Path:
    """Writes a bundle aside and renames it into place.

    Args:
        out: the folder of all models.
        manifest: all but `format_version`, `sha256` and `created_at`, which are set here.
        version: the version folder's number.
        model: the content of model.onnx.

    Returns:
        The version folder.

    Raises:
        ExportError: the version exists, or the folder cannot be written.
        BundleError: the manifest does not hold what the server asks of it.
    """
    folder = require_free(out, manifest.name, version)
    manifest.format_version = manifest_file.FORMAT_VERSION
    manifest.sha256 = hashlib.sha256(model).hexdigest()
    manifest.created_at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        with _aside(folder) as aside:
            _fill(aside, manifest, model)
            os.rename(aside, folder)
    except BundleError as error:
        raise BundleError(error.message.replace(str(aside), str(folder))) from error
    except OSError as error:
        if folder.exists():  # another export was faster
            raise _taken(folder) from error
        raise ExportError(f"{folder} cannot be written: {error.strerror}.") from error
    return folder


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """Makes a folder beside a version's, to be filled and renamed; if it is not, all goes again that was made for it.

    Raises:
        OSError: it cannot be made.
    """
    made = [above for above in folder.parents if not above.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_left_behind(folder.parent)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}{_ASIDE}", dir=folder.parent))
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        for above in made:
            with suppress(OSError):  # it holds the bundle, or something of somebody else's
                above.rmdir()


def _taken(folder: Path) -> ExportError:
    return ExportError(
        f"{folder} exists, and a version is never changed: choose another --version, or remove the folder."
    )


def _fill(folder: Path, manifest: pb.ModelManifest, model: bytes) -> None:
    """Writes the files of a bundle, and reads them as a server does."""
    folder.chmod(0o755)
    (folder / manifest_file.MODEL_FILE).write_bytes(model)
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True, indent=2, ensure_ascii=False)
    (folder / manifest_file.MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    manifest_file.check_hash(folder, manifest_file.read(folder))


def _clear_left_behind(model: Path) -> None:
    """Removes what exports of this model left behind that were killed long ago."""
    for folder in model.glob(f".*{_ASIDE}*"):
        with suppress(FileNotFoundError):  # another export cleared it
            if time.time() - folder.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
