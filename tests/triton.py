"""Triton's own client, for tests of the Open Inference Protocol.

Its generated code registers the same names with protobuf as ours does, and it may want another protobuf, so that it has
an environment of its own, made on first use, and runs in processes of its own: the scripts of tests/triton_scripts.
"""

import base64
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tests.server_process import ROOT, ServerProcess
from tests.system_packages import unavailable

_REQUIREMENTS = ROOT / "tests" / "triton-requirements.txt"
_SCRIPTS = ROOT / "tests" / "triton_scripts"
_INSTALL_TIMEOUT_SECONDS = 600
_TIMEOUT_SECONDS = 120
_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}

How = Literal["sync", "async", "aio", "stream", "aio stream", "http", "http async", "http aio"]
Protocol = Literal["grpc", "http"]


@dataclass(frozen=True)
class Answer:
    """What the client has of a request.

    Attributes:
        id: The answer's, empty where the request had none.
        version: Of the model that answered.
        outputs: By name; of BYTES as an array of str.
        datatypes: Of the outputs, by name.
        status: Of a request that failed, as `StatusCode.NOT_FOUND` or HTTP's `404`; else empty. Streams have none.
        message: Of a request that failed, else empty.
    """

    id: str = ""
    version: str = ""
    outputs: Mapping[str, npt.NDArray[Any]] | None = None
    datatypes: Mapping[str, str] | None = None
    status: str = ""
    message: str = ""

    def __getitem__(self, output: str) -> npt.NDArray[Any]:
        """An output of a request that was answered."""
        assert self.outputs is not None, f"{self.status}: {self.message}"
        return self.outputs[output]


class TritonClient:
    """The client, in processes of its own that end after each call.

    Args:
        address: host:port of the server.
        protocol: Which it speaks there.
    """

    def __init__(self, address: str, protocol: Protocol = "grpc") -> None:
        self._address = address
        self.protocol = protocol
        self._python = _environment() / "bin" / "python"

    @classmethod
    def of(cls, server: ServerProcess, protocol: Protocol) -> "TritonClient":
        """The client for a protocol."""
        return cls(server.grpc_address if protocol == "grpc" else server.http_url[len("http://") :], protocol)

    def infer(self, *requests: Mapping[str, Any], how: How = "sync") -> list[Answer]:
        """Sends requests, as `request` makes them, and returns an answer for each: of streams as they came."""
        script = "http_infer" if self.protocol == "http" else "infer"
        return [_answer(told) for told in self.run(script, requests=requests, how=how)]

    def call(self, *calls: tuple[str, Mapping[str, Any]]) -> list[Any]:
        """Calls methods of the client by name, one after the other.

        Args:
            calls: The name and the arguments of each.

        Returns:
            What each returned; of one that was refused {"status": ..., "message": ...}.
        """
        return self.run("call", calls=calls)

    def run(self, script: str, **given: Any) -> Any:
        """Runs a script of tests/triton_scripts and returns what it prints as JSON.

        Args:
            script: Its name.
            given: What it reads as JSON, beside the server's address.

        Raises:
            AssertionError: It failed.
        """
        done = subprocess.run(
            [self._python, _SCRIPTS / f"{script}.py"],
            input=json.dumps({"address": self._address, "protocol": self.protocol, **given}),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{script} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)


def request(
    model: str,
    images: npt.NDArray[np.uint8] | Sequence[bytes],
    *outputs: str | tuple[str, int],
    inputs: Mapping[str, npt.NDArray[Any]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A request for `TritonClient.infer`.

    Args:
        model: Its name.
        images: Pixels as the network takes them, uint8 [N,H,W,C], or image files.
        outputs: The names of those that are wanted, each alone or with how many classes to name.
        inputs: Others than the images, uint8 or float32.
        options: Of the client: model_version, request_id, priority, timeout (microseconds), client_timeout (seconds);
            as_json, for HTTP: whether tensors go as JSON instead of bytes.
    """
    if isinstance(images, np.ndarray):
        sent = [_tensor("images", images)]
    else:
        elements = [base64.b64encode(file).decode() for file in images]
        sent = [{"name": "images", "datatype": "BYTES", "shape": [len(elements)], "elements": elements}]
    sent += [_tensor(name, array) for name, array in (inputs or {}).items()]
    wanted = [(one, 0) if isinstance(one, str) else one for one in outputs]
    return {"model": model, "inputs": sent, "outputs": wanted, "options": options}


def colours(*classes: int) -> npt.NDArray[np.uint8]:
    """Pixels of images of one colour each, uint8 [N,8,8,3]: 0 red, 1 green, 2 blue."""
    pixels = np.zeros((len(classes), 8, 8, 3), np.uint8)
    for number, of in enumerate(classes):
        pixels[number, ..., of] = 255
    return pixels


def best_classes(probabilities: npt.NDArray[Any]) -> list[int]:
    """The class of each image."""
    return list(probabilities.argmax(axis=1))


def _tensor(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    raw = base64.b64encode(array.tobytes()).decode()
    return {"name": name, "datatype": _DATATYPES[array.dtype.name], "shape": array.shape, "raw": raw}


def _answer(told: dict[str, Any]) -> Answer:
    if "message" in told:
        return Answer(status=told["status"], message=told["message"])
    outputs = {name: np.array(one["values"]).reshape(one["shape"]) for name, one in told["outputs"].items()}
    datatypes = {name: one["datatype"] for name, one in told["outputs"].items()}
    return Answer(told["id"], told["version"], outputs, datatypes)


def _environment() -> Path:
    """The folder of the environment, which is made where it is not there, or not as a whole."""
    versions = _REQUIREMENTS.read_text() + sys.version
    folder = ROOT / ".work" / f"triton-{hashlib.sha256(versions.encode()).hexdigest()[:12]}"
    complete = folder / ".complete"
    folder.parent.mkdir(exist_ok=True)
    # Two test runs may want it at the same time.
    with open(f"{folder}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            _install(folder)
            complete.touch()
    return folder


def _install(folder: Path) -> None:
    done = subprocess.run(
        [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "-r", _REQUIREMENTS],
        capture_output=True,
        text=True,
        timeout=_INSTALL_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        unavailable(f"tests/triton-requirements.txt cannot be installed: {done.stderr.strip()[-500:]}")
