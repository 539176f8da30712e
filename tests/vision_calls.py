"""Calls of all three tasks on the tiny colour bundles, for tests that only need traffic."""

import io

import grpc
from PIL import Image
from retinue.v1 import image_pb2, vision_service_pb2, vision_service_pb2_grpc

CALLS = 4


def call_everything(grpc_address: str) -> None:
    """Makes CALLS calls of three images: Classify, Detect, Segment, and a Classify of a model that is not there."""
    images = [image_pb2.Image(encoded=_png(colour)) for colour in ("red", "lime", "blue")]
    with grpc.insecure_channel(grpc_address) as channel:
        stub = vision_service_pb2_grpc.VisionServiceStub(channel)
        classified = stub.Classify(
            vision_service_pb2.ClassifyRequest(model="colour-classifier", images=images, top_k=1)
        )
        assert [outcome.result.classes[0].label for outcome in classified.outcomes] == [
            "red",
            "green",
            "blue",
        ]
        stub.Detect(vision_service_pb2.DetectRequest(model="colour-detector", images=images))
        stub.Segment(vision_service_pb2.SegmentRequest(model="colour-segmenter", images=images))
        try:
            stub.Classify(vision_service_pb2.ClassifyRequest(model="nobody", images=images))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND  # noqa: PT017
        else:
            raise AssertionError("a model that is not there was found")


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(buffer, "PNG")
    return buffer.getvalue()
