"""What an operator sees who opens the HTTP port in a browser: text, not a download."""

import subprocess
from pathlib import Path

import pytest
from tests import system_packages
from tests.server_process import ServerProcess

_LIMIT_SECONDS = 120


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "text"), [("/metrics", "retinue_model_info"), ("/readyz", "ready"), ("/", '"/metrics"')]
)
def test_a_browser_shows_each_endpoint(
    path: str, text: str, colour_server: ServerProcess, tmp_path: Path
) -> None:
    system_packages.require("chromium")
    shown = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={tmp_path}", "--dump-dom", f"{colour_server.http_url}{path}"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=_LIMIT_SECONDS,
    )
    assert shown.returncode == 0, shown.stderr
    assert text in shown.stdout
