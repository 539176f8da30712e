"""What an operator sees who opens the HTTP port in a browser: the page, and text instead of downloads."""

from pathlib import Path

import pytest
from tests import chromium
from tests.server_process import ServerProcess


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "text"),
    [("/metrics", "retinue_model_info"), ("/readyz", "ready"), ("/", '<nav aria-label="Pages">')],
)
def test_a_browser_shows_each_endpoint(
    path: str, text: str, colour_server: ServerProcess, tmp_path: Path
) -> None:
    assert text in chromium.dom(f"{colour_server.http_url}{path}", tmp_path)
