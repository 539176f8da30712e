"""A real browser: what it makes of a page."""

import subprocess
from pathlib import Path

from tests import system_packages

_LIMIT_SECONDS = 120


def dom(url: str, profile: Path) -> str:
    """The page's elements as they are once it is loaded, as HTML.

    Args:
        url: The page.
        profile: An empty folder.
    """
    return _run(url, profile, "--dump-dom")


def screenshot(
    url: str, profile: Path, picture: Path, *, width: int, height: int, dark: bool = False
) -> None:
    """Saves what a window of that size shows as PNG."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _run(
        url,
        profile,
        f"--screenshot={picture}",
        f"--window-size={width},{height}",
        "--hide-scrollbars",
        scheme,
    )


def _run(url: str, profile: Path, *options: str) -> str:
    system_packages.require("chromium")
    shown = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={profile}", *options, url),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=_LIMIT_SECONDS,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout
