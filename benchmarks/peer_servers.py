"""Starts the servers that Retinue is compared with, each from an environment of its own under .work/peers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc
import httpx

from benchmarks import h2load
from benchmarks.h2load import Call
from benchmarks.machine import ROOT
from benchmarks.processes import Tree
from retinue_server.runtime.providers import available_cores

_SOURCES = ROOT / "benchmarks" / "peers"
_ENVIRONMENTS = ROOT / ".work" / "peers"
_START_SECONDS = 90
_STOP_SECONDS = 15
_BOUNDARY = "a-boundary-that-no-photo-has"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: Its folder in benchmarks/peers, with server.py and requirements.txt.
        title: For tables.
        command: What starts it, below its environment's bin folder; {port} and {cores} are filled in.
        call: From its port and a JPEG to the request.
    """

    name: str
    title: str
    command: tuple[str, ...]
    call: Callable[[int, bytes], Call]


@dataclass(frozen=True, slots=True)
class RunningPeer:
    """One that answers.

    Attributes:
        peer: Which.
        call: Its request.
        tree: Its processes.
    """

    peer: Peer
    call: Call
    tree: Tree


def _grpc(port: int, jpeg: bytes) -> Call:
    return h2load.grpc(f"127.0.0.1:{port}", "/peer.Classifier/Classify", jpeg)


def _post(path: str) -> Callable[[int, bytes], Call]:
    def call(port: int, jpeg: bytes) -> Call:
        return Call(f"http://127.0.0.1:{port}{path}", jpeg, ("content-type: image/jpeg",), http1=True)

    return call


def _form(path: str) -> Callable[[int, bytes], Call]:
    def call(port: int, jpeg: bytes) -> Call:
        head = (
            f"--{_BOUNDARY}\r\n"
            'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + jpeg + f"\r\n--{_BOUNDARY}--\r\n".encode()
        content_type = f"content-type: multipart/form-data; boundary={_BOUNDARY}"
        return Call(f"http://127.0.0.1:{port}{path}", body, (content_type,), http1=True)

    return call


PEERS = (
    Peer("grpcio", "grpcio", ("python", "server.py", "{port}"), _grpc),
    Peer(
        "mosec",
        "mosec",
        ("python", "server.py", "--address", "127.0.0.1", "--port", "{port}", "--log-level", "warning"),
        _post("/inference"),
    ),
    Peer(
        "fastapi",
        "FastAPI + uvicorn",
        ("uvicorn", "server:app", "--port", "{port}", "--workers", "{cores}", "--log-level", "warning"),
        _post("/classify"),
    ),
    Peer("litserve", "LitServe", ("python", "server.py", "{port}"), _form("/predict")),
    Peer(
        "bentoml",
        "BentoML",
        ("bentoml", "serve", "server:Classify", "--host", "127.0.0.1", "--port", "{port}"),
        _post("/classify"),
    ),
)


def environment(peer: Peer) -> Path:
    """The peer's virtual environment, made where there is none or its requirements have changed.

    Raises:
        subprocess.CalledProcessError: pip could not install them.
    """
    folder = _ENVIRONMENTS / peer.name
    requirements = _SOURCES / peer.name / "requirements.txt"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_bytes() != requirements.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", str(requirements)], check=True)
        shutil.copy(requirements, installed)
    return folder


def version(peer: Peer) -> str:
    """The pinned version of what the peer is named after."""
    lines = (_SOURCES / peer.name / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{peer.name}=="))


@contextmanager
def running(peer: Peer, bundle: Path, jpeg: bytes) -> Iterator[RunningPeer]:
    """A peer that has answered; ended afterwards.

    Args:
        peer: Which.
        bundle: What it serves.
        jpeg: What it is asked.

    Raises:
        RuntimeError: It does not answer.
    """
    binaries = environment(peer) / "bin"
    port = _free_port()
    command, *arguments = (part.format(port=port, cores=available_cores()) for part in peer.command)
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [binaries / command, *arguments],
            cwd=_SOURCES / peer.name,
            env=_surroundings(binaries, bundle),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            call = peer.call(port, jpeg)
            _wait_until_it_answers(call, process, log)
            yield RunningPeer(peer, call, Tree(process.pid))
        finally:
            _end(process)


def answer(call: Call) -> list[dict[str, Any]]:
    """The classes that a peer finds, the most probable first.

    Raises:
        httpx.HTTPError: It does not answer, or with an error.
        grpc.RpcError: Likewise.
    """
    if call.http1:
        headers = dict(header.split(": ", 1) for header in call.headers)
        content = (
            httpx.post(call.url, content=call.body, headers=headers, timeout=10).raise_for_status().content
        )
    else:
        address, _, path = call.url.removeprefix("http://").partition("/")
        with grpc.insecure_channel(address) as channel:
            method: Any = channel.unary_unary(f"/{path}")
            content = method(call.body[h2load.GRPC_PREFIX_BYTES :], timeout=10)
    classes: list[dict[str, Any]] = json.loads(content)
    return classes


def _wait_until_it_answers(call: Call, process: subprocess.Popen[bytes], log: IO[str]) -> None:
    ending = time.monotonic() + _START_SECONDS
    while True:
        try:
            answer(call)
        except (httpx.HTTPError, grpc.RpcError) as error:
            if time.monotonic() < ending and process.poll() is None:
                time.sleep(0.2)
                continue
            log.seek(0)
            raise RuntimeError(f"{call.url} does not answer ({error}); its log:\n{log.read()}") from error
        return


def _surroundings(binaries: Path, bundle: Path) -> dict[str, str]:
    """The environment variables of a peer: its own commands first, and the classifier that all share."""
    return {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(_SOURCES / "shared"),
        "BUNDLE": str(bundle),
        # Some of them report to their makers.
        "BENTOML_DO_NOT_TRACK": "true",
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a peer and all that it started: they are one group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
