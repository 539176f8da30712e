"""Bundles on disk: a version folder that appears whole, by rename, or not at all."""

import datetime
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from google.protobuf import json_format
from retinue.v1 import manifest_pb2 as pb

from retinue_export.errors import ExportError
from retinue_server.bundle import manifest as manifest_file

ADOPTED = "onnx:"
"""What the architecture of a bundle begins with that was made of an ONNX file."""


def other_side(manifest: pb.ModelManifest) -> str:
    """What a bundle was compared with, for people."""
    return "the original" if manifest.source.architecture.startswith(ADOPTED) else "PyTorch"


def require_free(out: Path, name: str, version: int) -> Path:
    """Names the folder of a version that does not exist yet.

    Raises:
        ExportError: the name or version is not valid, or the version exists.
    """
    if manifest_file.NAME_PATTERN.fullmatch(name) is None:
        raise ExportError(
            f"{name!r} is no model name: use letters, digits, '.', '_' and '-', beginning with a letter or digit."
        )
    if version < 1:
        raise ExportError(f"Version {version} is not a positive integer.")
    folder = out / name / str(version)
    if folder.exists():
        raise ExportError(
            f"{folder} exists, and a version is never changed: choose another --version, or remove the folder."
        )
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
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=folder.parent))
    except OSError as error:
        raise ExportError(f"{folder.parent} cannot be written: {error.strerror}.") from error
    try:
        aside.chmod(0o755)
        (aside / manifest_file.MODEL_FILE).write_bytes(model)
        text = json_format.MessageToJson(
            manifest, preserving_proto_field_name=True, indent=2, ensure_ascii=False
        )
        (aside / manifest_file.MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
        manifest_file.check_hash(aside, manifest_file.read(aside))
        os.rename(aside, folder)
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder
