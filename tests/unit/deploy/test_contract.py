"""The protos against protos/contract.binpb, as `make check` compares them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server_process import ROOT


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The protos, and what buf needs, to change at will."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("gen"))
    return tmp_path


def check(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs the line of the Makefile."""
    found = re.search(r"^\t\$\(BIN\)/(buf breaking .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    program, *arguments = found[1].split()
    return subprocess.run(
        [Path(sys.executable).parent / program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contract_is_kept(copied: Path) -> None:
    done = check(copied)

    assert done.returncode == 0, done.stdout


def test_a_field_may_be_added(copied: Path) -> None:
    proto = copied / "protos" / "retinue" / "v1" / "image.proto"
    proto.write_text(proto.read_text().replace("message Image {", "message Image {\n  bytes more = 1000;", 1))

    assert check(copied).returncode == 0


def test_a_field_may_not_be_taken_away(copied: Path) -> None:
    proto = copied / "protos" / "retinue" / "v1" / "vision_service.proto"
    proto.write_text(re.sub(r"^  \S+ \S+ = 1;.*$", "", proto.read_text(), count=1, flags=re.MULTILINE))

    done = check(copied)

    assert done.returncode != 0
    assert "was deleted" in done.stdout
