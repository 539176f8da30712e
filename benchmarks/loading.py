"""A network of 100 MB without a manifest, from the call that loads it until it is served, beside a bare session."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from retinue.inference import grpc_service_pb2 as pb
from retinue.inference import grpc_service_pb2_grpc
from tests.server_process import running_server

from benchmarks import bundles
from benchmarks.machine import ROOT

_NAME = "resnet-50"
_FILE = ROOT / ".work" / "bench" / "resnet50.onnx"
_SIDE = 224
_SESSION = """
import sys, time
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
began = time.perf_counter()
ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(time.perf_counter() - began)
"""


def run(*, quick: bool) -> dict[str, Any]:
    """Loads it in turn in a process of its own and in a server, for the first time there and again."""
    rounds = 1 if quick else 5
    bare, first, again = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "models" / _NAME / "1"
        version.mkdir(parents=True)
        shutil.copyfile(_network(), version / "model.onnx")
        for number in range(rounds):
            cache = str(Path(folder) / f"cache-{number}")
            told = subprocess.run(
                [sys.executable, "-c", _SESSION, _FILE], check=True, capture_output=True, text=True
            )
            bare.append(float(told.stdout))
            arguments = ("--provider", "cpu", "--model-control", "explicit", "--cache-folder", cache)
            with (
                running_server(version.parent.parent, *arguments) as server,
                grpc.insecure_channel(server.grpc_address) as channel,
            ):
                stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
                first.append(_load_seconds(stub))
                stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=_NAME))
                again.append(_load_seconds(stub))
    return {
        "file_bytes": _FILE.stat().st_size,
        "rounds": rounds,
        "session_seconds": median(bare),
        "first_seconds": median(first),
        "again_seconds": median(again),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a line of Markdown."""
    return (
        f"A network of {result['file_bytes'] / 1e6:.0f} MB without a manifest is served "
        f"{result['first_seconds']:.2f} s after the call that loads it, and {result['again_seconds']:.2f} s where this "
        f"machine has measured it before; a bare `InferenceSession` of it takes {result['session_seconds']:.2f} s."
    )


def _load_seconds(stub: Any) -> float:
    began = time.perf_counter()
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=_NAME), timeout=120)
    return time.perf_counter() - began


def _network() -> Path:
    """ResNet-50 as PyTorch exports it, made where it is not there yet."""
    if not _FILE.exists():
        # Not needed, and slow to import, where the file is there.
        import torch  # noqa: PLC0415
        import torchvision  # noqa: PLC0415

        bundles.folder().mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        network = torchvision.models.resnet50().eval()
        program = torch.onnx.export(
            network,
            (torch.rand(2, 3, _SIDE, _SIDE),),
            dynamo=True,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes={"x": {0: torch.export.Dim("n")}},
        )
        program.save(_FILE, include_initializers=True, external_data=False)
    return _FILE
