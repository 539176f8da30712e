"""The same pixels as the typed API takes them and as tensors of the Open Inference Protocol, over gRPC and HTTP."""

import json
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
from retinue.inference import grpc_service_pb2 as pb
from retinue.v1 import image_pb2, vision_service_pb2

from benchmarks import bundles, h2load, photos, served
from benchmarks.h2load import Call
from benchmarks.served import CLASSIFY, RetinueServer, Served

_CALLERS = (1, 4, 16)
_SIDE = 224
# Of this the model's rule only cuts out the centre.
_TYPED_SIDE = 256
_MODEL = bundles.MOBILENET_V2
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_HEADER_LENGTH = "inference-header-content-length"

_TYPED, _TENSORS, _HTTP = (
    "Classify, raw pixels",
    "ModelInfer, raw tensor",
    "ModelInfer over HTTP, binary tensor",
)


def run(*, quick: bool) -> dict[str, Any]:
    """Measures the three in turn, at each concurrency."""
    rounds, seconds = (1, 1.0) if quick else (5, 4.0)
    rates: dict[tuple[str, int], list[Served]] = {}
    with served.running() as server:
        calls = _calls(server)
        for _ in range(rounds):
            for callers in _CALLERS:
                for title, call in calls.items():
                    rates.setdefault((title, callers), []).append(
                        server.drive(call, _MODEL, callers, seconds)
                    )
    rows = []
    for (title, callers), measured in rates.items():
        typed = rates[_TYPED, callers]
        # Those of one round follow each other.
        ratios = [
            one.images_per_second / other.images_per_second
            for one, other in zip(measured, typed, strict=True)
        ]
        values = [asdict(one) for one in measured]
        rows.append(
            {
                "call": title,
                "callers": callers,
                **{name: median(value[name] for value in values) for name in values[0]},
                "of_typed": median(ratios),
            }
        )
    return {"rounds": rounds, "seconds": seconds, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| | callers | images/s | of the typed API's | CPU ms/image | p50 ms | p99 ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['call']} | {row['callers']} | {row['images_per_second']:,.0f} | {row['of_typed']:.2f} "
        f"| {1000 * row['cpu_seconds_per_image']:.2f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _calls(server: RetinueServer) -> dict[str, Call]:
    """Requests about one image of which nothing is to be resized: for the best classes, and for all probabilities."""
    pixels, larger = photos.pixels(_SIDE, grey=False), photos.pixels(_TYPED_SIDE, grey=False)
    typed = vision_service_pb2.ClassifyRequest(
        model=_MODEL,
        images=[
            image_pb2.Image(
                raw=image_pb2.RawImage(data=larger.tobytes(), height=_TYPED_SIDE, width=_TYPED_SIDE)
            )
        ],
    )
    tensors = pb.ModelInferRequest(
        model_name=_MODEL,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=[1, *pixels.shape])
        ],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")],
        raw_input_contents=[pixels.tobytes()],
    )
    address = server.process.grpc_address
    calls = {
        _TYPED: h2load.grpc(address, CLASSIFY, typed.SerializeToString()),
        _TENSORS: h2load.grpc(address, _INFER, tensors.SerializeToString()),
        _HTTP: _over_http(server.process.http_url, pixels),
    }
    server.check(typed.SerializeToString())
    return calls


def _over_http(url: str, pixels: np.ndarray) -> Call:
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "datatype": "UINT8",
                    "shape": [1, *pixels.shape],
                    "parameters": {"binary_data_size": pixels.nbytes},
                }
            ],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return Call(
        f"{url}/v2/models/{_MODEL}/infer",
        header + pixels.tobytes(),
        (f"{_HEADER_LENGTH}: {len(header)}", "content-type: application/octet-stream"),
        http1=True,
    )
