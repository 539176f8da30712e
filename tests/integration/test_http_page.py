"""The page on HTTP is true: its commands print what it shows, but for times."""

import json
import re
import subprocess
from typing import Any

import pytest
from tests.server_process import ROOT, ServerProcess
from tests.system_packages import require

PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\$ (.*)\n(\{.*\})$", PAGE, re.MULTILINE)


def test_the_page_has_an_example_of_each_kind() -> None:
    commands = " ".join(command for command, _ in EXAMPLES)
    for what in (":classify", ":detect", ":segment", "/infer", "/nobody"):
        assert what in commands
    assert len(EXAMPLES) == PAGE.count("\n$ ")


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[str(number) for number in range(len(EXAMPLES))])
def test_a_command_prints_what_the_page_shows(command: str, shown: str, server: ServerProcess) -> None:
    require("curl")
    told = subprocess.run(
        ["bash", "-c", command.replace("localhost:8080", server.http_url).replace("curl ", "curl -sS ")],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    _assert_alike(json.loads(told.stdout), json.loads(shown))


def _assert_alike(told: Any, shown: Any) -> None:
    """The same keys and texts, and numbers that another processor may round otherwise; times are any."""
    if isinstance(shown, dict):
        assert told.keys() == shown.keys()
        for key in shown.keys() - {"timing", "counts"}:
            _assert_alike(told[key], shown[key])
    elif isinstance(shown, list):
        assert len(told) == len(shown)
        for one, other in zip(told, shown, strict=True):
            _assert_alike(one, other)
    else:
        assert told == (pytest.approx(shown, rel=0.02, abs=0.01) if isinstance(shown, float | int) else shown)
