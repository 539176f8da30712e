"""What tests need from the system: there, or skipped by name with the reason; in CI never skipped."""

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

_LIST = Path(__file__).parents[1] / "scripts" / "system-packages.txt"
_ADMINISTRATOR_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def require(*packages: str) -> None:
    """Skips the calling test, or the tests of the calling fixture, where one of the packages is missing.

    Where the environment variable CI is set it fails instead: there everything must run.

    Args:
        packages: Debian package names, as in scripts/system-packages.txt.
    """
    probes = _probes()
    missing = [package for package in packages if not _is_there(probes[package])]
    if missing:
        unavailable(f"{', '.join(missing)} not installed: scripts/install-system-packages installs it")


def unavailable(reason: str) -> None:
    """Skips the calling test with the reason; where the environment variable CI is set it fails instead."""
    if os.environ.get("CI"):
        pytest.fail(f"nothing is skipped in CI: {reason}", pytrace=False)
    pytest.skip(reason)


@cache
def _probes() -> dict[str, str]:
    """Which command, or absolute path, shows that a package is there, by package name."""
    lines = _LIST.read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {row[0]: row[1] for row in rows}


def _is_there(probe: str) -> bool:
    if probe.startswith("/"):
        return Path(probe).exists()
    return shutil.which(probe, path=f"{os.environ.get('PATH', os.defpath)}:{_ADMINISTRATOR_PATH}") is not None
