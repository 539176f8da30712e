"""A real server in a process of its own, for tests."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 40
# Of the servers of one test run.
_CACHE = tempfile.TemporaryDirectory(prefix="retinue-cache-")


class ServerProcess:
    """`retinue-server` on free ports.

    Attributes:
        grpc_address: host:port.
        http_url: http://host:port.
        events: What it has logged, as JSON objects.
        process: The process.
    """

    def __init__(
        self,
        models: Path | str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        module: str = "retinue_server",
        under: Sequence[str] = (),
    ) -> None:
        ports = [
            part for name in ("--grpc-port", "--http-port") if name not in arguments for part in (name, "0")
        ]
        self.process = subprocess.Popen(
            [
                *(*under, sys.executable, "-m", module),
                *("--models", str(models), "--log-format", "json", *ports, *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**_clean_environment(), **(environment or {})},
        )
        self.events: list[dict[str, Any]] = []
        self.stderr_lines: list[str] = []
        self.stdout = ""
        self._changed = threading.Condition()
        self._ended = False
        self._readers = [
            threading.Thread(target=self._read_stderr),
            threading.Thread(target=self._read_stdout),
        ]
        for reader in self._readers:
            reader.start()

    def wait_until_ready(self) -> None:
        """Waits for the log to say so; fails with the log where the process ends instead."""
        ready = self.wait_for_event("ready", START_TIMEOUT_SECONDS)
        self.grpc_address = f"127.0.0.1:{ready['grpc_port']}"
        self.http_url = f"http://127.0.0.1:{ready['http_port']}"

    def wait_for_event(self, name: str, timeout_seconds: float = 10) -> dict[str, Any]:
        """Returns the first logged event of that name."""

        def found() -> dict[str, Any] | None:
            return next((event for event in self.events if event.get("event") == name), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, timeout_seconds)
            event = found()
        assert event is not None, (
            f"the server, exit code {self.process.poll()}, never logged {name!r}:\n"
            + "\n".join(self.stderr_lines)
        )
        return event

    def memory_bytes(self) -> int:
        """Resident memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def family_bytes(self) -> int:
        """Resident memory of the process and of those that it has started."""
        process = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in [process, *process.children()])

    def private_bytes(self) -> int:
        """Resident memory without what is mapped of files."""
        memory = psutil.Process(self.process.pid).memory_info()
        return int(memory.rss - memory.shared)

    def peak_memory_bytes(self) -> int:
        """The most resident memory it ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def terminate(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Waits for the end and returns the exit code."""
        code = self.process.wait(STOP_TIMEOUT_SECONDS)
        for reader in self._readers:
            reader.join()
        return code

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.stderr_lines.append(line.rstrip())
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        self.stdout = self.process.stdout.read()


@contextmanager
def running_server(
    models: Path | str,
    *arguments: str,
    environment: dict[str, str] | None = None,
    module: str = "retinue_server",
    under: Sequence[str] = (),
) -> Iterator[ServerProcess]:
    """A server that is ready; ended afterwards.

    `module` is what is run, which may be a server made for a test, and `under` a command that becomes it.
    """
    server = ServerProcess(models, *arguments, environment=environment, module=module, under=under)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()


def _clean_environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
    return {**inherited, "RETINUE_CACHE_FOLDER": _CACHE.name}
