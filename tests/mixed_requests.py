"""Requests of mixed sizes to the tiny bundles, good and bad ones, as bytes: thousands a second of them."""

import asyncio
import io
import random

import grpc
import numpy as np
from google.protobuf.message import Message
from PIL import Image
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

_CALLERS = 16
_PATH = "/retinue.v1.VisionService/"


def _raw(side: int) -> image_pb2.Image:
    return image_pb2.Image(raw=image_pb2.RawImage(width=side, height=side, data=bytes(side * side * 3)))


def _encoded(width: int, height: int, form: str = "JPEG") -> image_pb2.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).resize((width, height)).save(file, form)
    return image_pb2.Image(encoded=file.getvalue())


def _kinds() -> list[tuple[int, str, Message]]:
    """How many of a hundred requests are of each kind, and the kind."""
    cut = image_pb2.Image(encoded=_encoded(200, 150).encoded[:900])
    bad = image_pb2.Image(encoded=b"no image")
    return [
        (30, "Classify", pb.ClassifyRequest(images=[_raw(8)])),
        (15, "Detect", pb.DetectRequest(images=[_encoded(24, 16)])),
        (15, "Segment", pb.SegmentRequest(images=[_encoded(32, 24, "PNG")])),
        (10, "Classify", pb.ClassifyRequest(images=[bad])),
        (5, "Detect", pb.DetectRequest(images=[cut])),
        (10, "Classify", pb.ClassifyRequest(images=[_encoded(96, 80), _raw(8), bad])),
        (6, "Segment", pb.SegmentRequest(images=[_encoded(16 + 8 * number, 16) for number in range(8)])),
        (5, "Detect", pb.DetectRequest(images=[_encoded(504, 376)])),
        (2, "Segment", pb.SegmentRequest(images=[_encoded(640, 480, "PNG")])),
        (1, "Classify", pb.ClassifyRequest(images=[_encoded(1280, 960)])),
        (1, "Classify", pb.ClassifyRequest(images=[_raw(8)], top_k=0)),
    ]


_HUNDRED = [(method, body.SerializeToString()) for share, method, body in _kinds() for _ in range(share)]
random.Random(0).shuffle(_HUNDRED)


async def send(address: str, count: int) -> None:
    """Sends so many requests to a server over one connection and reads what it answers.

    Raises:
        grpc.RpcError: A request failed that should not.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        calls = [(channel.unary_unary(_PATH + method), body) for method, body in _HUNDRED]
        numbers = iter(range(count))

        async def call_on() -> None:
            for number in numbers:
                call, body = calls[number % len(calls)]
                try:
                    await call(body)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.INVALID_ARGUMENT:
                        raise

        await asyncio.gather(*(call_on() for _ in range(_CALLERS)))
