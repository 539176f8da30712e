"""`make sbom` names what the server's image installs, at the pinned versions, and nothing else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests.server_process import ROOT

pytestmark = pytest.mark.slow

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$", re.MULTILINE)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("sbom") / "a" / "server.cdx.json"
    subprocess.run(
        [str(ROOT / "scripts" / "make-sbom"), str(path), "cpu"],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
        timeout=300,
    )
    return path.read_text()


@pytest.fixture(scope="module")
def bill(written: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written)
    return found


def test_it_is_cyclonedx_by_the_schema(written: str, bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None
    assert bill["metadata"]["component"]["name"] == "retinue-server"


def test_versions_are_those_that_are_pinned(bill: dict[str, Any]) -> None:
    pins = {
        _canonical(name): version for name, version in _PINNED.findall((ROOT / "constraints.txt").read_text())
    }
    listed = {_canonical(one["name"]): one["version"] for one in bill["components"]}
    assert listed == {name: pins[name] for name in listed}
    assert [one["purl"] for one in bill["components"]] == [
        f"pkg:pypi/{_canonical(one['name'])}@{one['version']}" for one in bill["components"]
    ]


def test_it_has_what_the_server_needs_and_no_tools(bill: dict[str, Any]) -> None:
    listed = {_canonical(one["name"]) for one in bill["components"]}
    asked = [str(ROOT / "scripts" / "server-requirements"), "cpu"]
    needed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {_canonical(re.split(r"[<>=\[]", line)[0]) for line in needed} <= listed
    assert {"onnxruntime", "cryptography", "cffi"} <= listed
    assert not listed & {"pip", "pytest", "torch", "ruff", "cyclonedx-bom", "onnxruntime-gpu", "setuptools"}


def test_it_says_nothing_of_when_and_where_it_was_made(written: str, bill: dict[str, Any]) -> None:
    assert "serialNumber" not in bill
    assert "timestamp" not in bill["metadata"]
    assert str(ROOT) not in written
    assert "/tmp" not in written
