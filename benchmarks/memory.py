"""Resident memory of the server: when it is ready, and after many requests to all models."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from retinue.v1 import image_pb2, manifest_pb2, vision_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as pb
from tests.server_process import running_server

from benchmarks.machine import ROOT
from benchmarks.photos import jpegs

_CALLERS = 8


def run(*, quick: bool) -> dict[str, Any]:
    """Sends requests of one image each, spread evenly over the models."""
    requests = 200 if quick else 10_000
    photos = jpegs()
    with running_server(ROOT / "models", "--provider", "cpu") as server:
        at_start = server.memory_bytes()
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = vision_service_pb2_grpc.VisionServiceStub(channel)
            models = list(stub.ListModels(pb.ListModelsRequest()).models)

            def call(number: int) -> None:
                model = models[number % len(models)]
                image = image_pb2.Image(encoded=photos[number // len(models) % len(photos)])
                if model.manifest.task == manifest_pb2.TASK_CLASSIFY:
                    stub.Classify(pb.ClassifyRequest(model=model.name, images=[image]))
                elif model.manifest.task == manifest_pb2.TASK_DETECT:
                    stub.Detect(pb.DetectRequest(model=model.name, images=[image]))
                else:
                    stub.Segment(pb.SegmentRequest(model=model.name, images=[image]))

            with ThreadPoolExecutor(_CALLERS) as callers:
                for _ in callers.map(call, range(requests)):
                    pass
        return {
            "models": len(models),
            "requests": requests,
            "ready_bytes": at_start,
            "after_bytes": server.memory_bytes(),
        }


def table(result: dict[str, Any]) -> str:
    """The result as a line of Markdown."""
    return (
        f"Resident memory with {result['models']} bundles: {result['ready_bytes'] / 1e6:.0f} MB when ready, "
        f"{result['after_bytes'] / 1e6:.0f} MB after {result['requests']:,} requests to all of them."
    )
