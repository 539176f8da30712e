"""Weights files that libraries publish under names that end in the first digits of their SHA-256."""

import re
from pathlib import Path
from urllib.parse import urlparse

import torch

from retinue_export.errors import ExportError

_DIGITS = re.compile(r"-([0-9a-f]{8,})\.")


def is_file_of(url: str, sha256: str) -> bool:
    """Whether a file is the one that was published there; where the name has no digits it is not known to be."""
    digits = _digits(url)
    return bool(digits) and sha256.startswith(digits)


def download(url: str) -> Path:
    """Fetches a file to where torch keeps such files, unless it is there.

    Raises:
        ExportError: it cannot be fetched, or its SHA-256 is another than its name says.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(url)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), _digits(url), progress=False)
    except (OSError, RuntimeError) as error:
        raise ExportError(f"{url} could not be downloaded ({error}): give the file as --weights.") from error
    return path


def _file_name(url: str) -> str:
    return Path(urlparse(url).path).name


def _digits(url: str) -> str:
    found = _DIGITS.search(_file_name(url))
    return found[1] if found else ""
