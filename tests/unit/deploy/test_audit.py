"""`make audit` asks about every pinned version, and where it cannot, it does not call them sound."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.server_process import ROOT

PINS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
]
_WEAK = "starlette"


class Database(ThreadingHTTPServer):
    """Speaks OSV's protocol. Source: https://google.github.io/osv.dev/post-v1-query/.

    Attributes:
        asked: What it was asked about, as in constraints.txt.
        weak: Names of packages that it has an advisory for.
        silent: Those that it does not answer for.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: set[str] = set()
        self.weak: set[str] = set()
        self.silent: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Database

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = query["package"]["name"], query["version"]
        self.server.asked.add(f"{name}=={version}".lower())
        reply: dict[str, Any] = {}
        if name in self.server.weak:
            affected = {"package": {"name": name, "ecosystem": "PyPI"}, "versions": [version]}
            reply = {"vulns": [{"id": "PYSEC-2026-1", "affected": [affected], "details": "It is weak."}]}
        body = json.dumps(reply).encode()
        self.send_response(503 if name in self.server.silent else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[Database]:
    with Database() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def audit(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(ROOT / "scripts" / "audit"), *arguments],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ask(database: Database) -> "subprocess.CompletedProcess[str]":
    address = f"http://127.0.0.1:{database.server_port}/v1/query"
    return audit("--vulnerability-service", "osv", "--osv-url", address)


def test_every_pinned_version_is_asked_about(database: Database) -> None:
    done = ask(database)
    assert (done.returncode, done.stderr) == (0, "No known vulnerabilities found\n")
    wanted = {pin.lower().replace("_", "-").replace(".", "-") for pin in PINS}
    assert {pin.replace("_", "-").replace(".", "-") for pin in database.asked} == wanted


def test_one_that_is_known_to_be_weak_is_named(database: Database) -> None:
    database.weak = {_WEAK}
    done = ask(database)
    assert done.returncode == 1
    assert "PYSEC-2026-1" in done.stdout
    assert _WEAK in done.stdout
    assert done.stderr == (
        "Found 1 known vulnerability in 1 package\n"
        "audit: raise these in constraints.txt, then run make test.\n"
    )


def test_where_one_cannot_be_asked_about_nothing_is_called_sound(database: Database) -> None:
    database.silent = {_WEAK}
    done = ask(database)
    assert done.returncode == 2
    assert done.stderr.startswith("audit: nothing is known about the pinned versions")
    assert "Traceback" not in done.stderr
    assert "503" in done.stderr


def test_by_default_the_pins_are_what_is_audited() -> None:
    done = audit("--dry-run")
    assert done.returncode == 0
    assert f"would have audited {len(PINS)} packages" in done.stderr
