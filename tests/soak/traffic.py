"""Mixed traffic whose right answers are known, from callers that go to another server where one is going."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np
from retinue.inference import grpc_service_pb2 as inference_pb
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, pictures
from tests.calls import flat
from tests.soak.node import Life, Node

_CALL_SECONDS = 30.0
_MOST_TRIES = 8
# Until callers know that a connection broke.
_AFTERMATH_SECONDS = 1.0
_VISION = "/retinue.v1.VisionService/"
_INFERENCE = "/inference.GRPCInferenceService/"
_SWAPPED = "colours"
_BAD = image_pb2.Image(encoded=b"no image")
_COLOURS = tuple(pictures.COLOURS.items())
_PRIORITIES = (pb.PRIORITY_HIGH, pb.PRIORITY_NORMAL, pb.PRIORITY_LOW)


@dataclass
class Tally:
    """What became of the calls of all callers.

    Attributes:
        good: Calls that had to be answered, by kind.
        excused: Tries that broke with a process that was killed, and were answered elsewhere.
        moved: Tries that a server turned away because it was going, and were answered elsewhere.
        failed: What should have been answered and was not, or wrongly: for people.
        tries: All of them.
        left: Calls whose callers left.
    """

    good: Counter[str] = field(default_factory=Counter)
    excused: int = 0
    moved: int = 0
    failed: list[str] = field(default_factory=list)
    tries: int = 0
    left: int = 0


class Wrong(Exception):
    """An answer that is not the right one."""


Kind = Callable[[Node, Life], Awaitable[None]]


class Traffic:
    """Callers.

    Args:
        nodes: The servers.
        chance: The dice.
    """

    def __init__(self, nodes: Sequence[Node], chance: random.Random) -> None:
        self.tally = Tally()
        self.over = asyncio.Event()
        self._nodes = nodes
        self._chance = chance
        self._kinds: list[tuple[str, Kind, int]] = [
            ("Classify", self._classify, 8),
            ("Detect", self._detect, 4),
            ("Segment", self._segment, 4),
            ("ModelInfer", self._infer, 4),
            ("ModelStreamInfer", self._stream, 2),
            ("HTTP classify", self._http_classify, 3),
            ("HTTP infer", self._http_infer, 2),
            ("some bad images", self._some_bad, 3),
            ("bad images", self._all_bad, 1),
            ("a swapped model", self._swapped, 4),
            ("a failing model", self._failing, 1),
            ("a slow model", self._slow, 1),
            ("callers that leave", self._leaving, 1),
        ]

    async def run(self, callers: int, pause_seconds: float) -> None:
        """Calls until it is over."""

        async def caller() -> None:
            names, kinds, weights = zip(*self._kinds, strict=True)
            while not self.over.is_set():
                place = self._chance.choices(range(len(kinds)), weights)[0]
                await self._answered(names[place], kinds[place])
                await asyncio.sleep(pause_seconds * self._chance.random())

        await asyncio.gather(*(caller() for _ in range(callers)))

    async def _answered(self, name: str, kind: Kind) -> None:
        """Makes a call until it is answered, elsewhere where a server goes or was killed."""
        self.tally.good[name] += 1
        for _ in range(_MOST_TRIES):
            node = await self._serving()
            life, began = node.life, time.monotonic()
            self.tally.tries += 1
            try:
                return await kind(node, life)
            except Wrong as error:
                break_off = f"{name} at {node.name}: {error}"
            except (grpc.aio.AioRpcError, httpx.HTTPError, asyncio.CancelledError) as error:
                life.abandoned += 1
                if isinstance(error, asyncio.CancelledError) and self.over.is_set():
                    raise
                if life.killed or began < node.shaken_at + _AFTERMATH_SECONDS:
                    self.tally.excused += 1
                    continue
                if _is_draining(error) and not node.serving:
                    self.tally.moved += 1
                    continue
                since = time.monotonic() - node.shaken_at
                break_off = f"{name} at {node.name}, {since:.0f} s after a front-end was killed: {error!r}"[
                    :600
                ]
            self.tally.failed.append(break_off)
            return
        self.tally.failed.append(f"{name} was never answered")

    async def _serving(self) -> Node:
        while not (there := [node for node in self._nodes if node.serving]):
            await asyncio.sleep(0.05)
        return self._chance.choice(there)

    def _colour(self) -> tuple[str, tuple[int, int, int]]:
        return self._chance.choice(_COLOURS)

    def _image(self, level: tuple[int, int, int]) -> image_pb2.Image:
        if self._chance.random() < 0.5:
            return flat(*level)
        form = self._chance.choice(("PNG", "BMP", "WEBP"))
        side = self._chance.choice((8, 20, 200))
        return image_pb2.Image(encoded=pictures.encode(pictures.solid(level, side, side), form))

    async def _call(self, node: Node, life: Life, method: str, request: Any, reply: type[Any]) -> Any:
        prefix = _VISION if hasattr(pb, f"{method}Request") else _INFERENCE
        call = self._chance.choice(node.channels).unary_unary(
            prefix + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            answer = await call(request, timeout=_CALL_SECONDS, metadata=node.metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL:
                life.answered[method, error.code().name] += 1
            raise
        # What a model has counted goes with its last version.
        if getattr(request, "model", "") != _SWAPPED:
            life.answered[method, "OK"] += 1
        return answer

    async def _classify(self, node: Node, life: Life) -> None:
        wanted = [self._colour() for _ in range(self._chance.choice((1, 1, 1, 3, 12)))]
        request = pb.ClassifyRequest(
            model="colour-classifier",
            images=[self._image(level) for _, level in wanted],
            priority=self._chance.choice(_PRIORITIES),
        )
        reply = await self._call(node, life, "Classify", request, pb.ClassifyResponse)
        _same([name for name, _ in wanted], [_label(one) for one in reply.outcomes])

    async def _detect(self, node: Node, life: Life) -> None:
        name, level = self._colour()
        request = pb.DetectRequest(images=[self._image(level)], model="colour-detector")
        reply = await self._call(node, life, "Detect", request, pb.DetectResponse)
        _same([name], [one.label for one in reply.outcomes[0].result.detections])

    async def _segment(self, node: Node, life: Life) -> None:
        name, level = self._colour()
        request = pb.SegmentRequest(
            images=[self._image(level)], model="colour-segmenter", mask_format=pb.MASK_FORMAT_RAW
        )
        reply = await self._call(node, life, "Segment", request, pb.SegmentResponse)
        _same({colour_bundles.LABELS.index(name)}, set(reply.outcomes[0].result.raw))

    def _infer_request(self, level: tuple[int, int, int], number: str = "") -> inference_pb.ModelInferRequest:
        file = pictures.encode(pictures.solid(level))
        tensor = inference_pb.ModelInferRequest.InferInputTensor(name="images", datatype="BYTES", shape=[1])
        return inference_pb.ModelInferRequest(
            model_name="colour-classifier",
            id=number,
            inputs=[tensor],
            raw_input_contents=[len(file).to_bytes(4, "little") + file],
        )

    async def _infer(self, node: Node, life: Life) -> None:
        name, level = self._colour()
        reply = await self._call(
            node, life, "ModelInfer", self._infer_request(level), inference_pb.ModelInferResponse
        )
        _same(name, _best(reply))

    async def _stream(self, node: Node, life: Life) -> None:
        wanted = {str(number): self._colour() for number in range(self._chance.choice((1, 5, 30)))}
        call = self._chance.choice(node.channels).stream_stream(
            f"{_INFERENCE}ModelStreamInfer",
            request_serializer=inference_pb.ModelInferRequest.SerializeToString,
            response_deserializer=inference_pb.ModelStreamInferResponse.FromString,
        )
        requests = [self._infer_request(level, number) for number, (_, level) in wanted.items()]
        came: dict[str, str] = {}
        async for reply in call(iter(requests), timeout=_CALL_SECONDS, metadata=node.metadata):
            number = reply.infer_response.id
            if reply.error_message or number in came:
                raise Wrong(f"message {number!r}: {reply.error_message or 'answered twice'}")
            came[number] = _best(reply.infer_response)
        _same({number: name for number, (name, _) in wanted.items()}, came)

    async def _http_classify(self, node: Node, life: Life) -> None:
        name, level = self._colour()
        told = await self._post(
            node, life, "/v1/models/colour-classifier:classify", pictures.png(level), "Classify"
        )
        _same(name, told["outcomes"][0]["result"]["classes"][0]["label"])

    async def _http_infer(self, node: Node, life: Life) -> None:
        name, level = self._colour()
        data = np.full((1, colour_bundles.SIDE, colour_bundles.SIDE, 3), level).tolist()
        tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": data}
        body = json.dumps({"inputs": [tensor]}).encode()
        told = await self._post(node, life, "/v2/models/colour-classifier/infer", body, "ModelInfer")
        _same(name, colour_bundles.LABELS[int(np.argmax(told["outputs"][0]["data"]))])

    async def _post(self, node: Node, life: Life, path: str, body: bytes, method: str) -> Any:
        kind = "application/json" if body.startswith(b"{") else "image/png"
        told = await node.http.post(path, content=body, headers={"content-type": kind})
        if told.status_code != 200:
            raise httpx.HTTPError(f"{told.status_code} {told.text}")
        life.answered[method, "OK"] += 1
        return told.json()

    async def _some_bad(self, node: Node, life: Life) -> None:
        (first, level), (third, other) = self._colour(), self._colour()
        request = pb.ClassifyRequest(
            model="colour-classifier", images=[self._image(level), _BAD, self._image(other)]
        )
        reply = await self._call(node, life, "Classify", request, pb.ClassifyResponse)
        _same([first, "error 3", third], [_label(one) for one in reply.outcomes])

    async def _all_bad(self, node: Node, life: Life) -> None:
        request = pb.ClassifyRequest(model="colour-classifier", images=[_BAD])
        reply = await self._call(node, life, "Classify", request, pb.ClassifyResponse)
        _same(["error 3"], [_label(one) for one in reply.outcomes])

    async def _failing(self, node: Node, life: Life) -> None:
        """A network that fails on white images, and goes on."""
        request = pb.ClassifyRequest(model="failing-classifier", images=[flat(255)])
        try:
            reply = await self._call(node, life, "Classify", request, pb.ClassifyResponse)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INTERNAL:
                raise
            return
        raise Wrong(f"what should fail was answered: {_label(reply.outcomes[0])}")

    async def _swapped(self, node: Node, life: Life) -> None:
        """A model whose versions come and go: whichever answers, it answers as it should."""
        request = pb.ClassifyRequest(model=_SWAPPED, images=[flat(255, 0, 0)])
        reply = await self._call(node, life, "Classify", request, pb.ClassifyResponse)
        colour, _, version = _label(reply.outcomes[0]).partition("-")
        if int(version) != reply.version or (colour == "red") != (reply.version == 1):
            raise Wrong(f"version {reply.version} says {colour}-{version}")

    async def _slow(self, node: Node, life: Life) -> None:
        name, _ = self._colour()
        level = [90 + 60 * (one == name) for one in colour_bundles.LABELS]
        request = pb.ClassifyRequest(model="slow-classifier", images=[flat(*level)])
        reply = await self._call(node, life, "Classify", request, pb.ClassifyResponse)
        _same(name, _label(reply.outcomes[0]))

    async def _leaving(self, node: Node, life: Life) -> None:
        """A caller that does not wait for the answer."""
        call = self._chance.choice(node.channels).unary_unary(f"{_VISION}Classify")
        request = pb.ClassifyRequest(model="slow-classifier", images=[flat(60, 60, 90)] * 3)
        asked = call(request.SerializeToString(), timeout=_CALL_SECONDS, metadata=node.metadata)
        self.tally.left += 1
        life.abandoned += 1
        await asyncio.sleep(self._chance.random() * 0.2)
        asked.cancel()


def _label(outcome: Any) -> str:
    if outcome.HasField("error"):
        return f"error {outcome.error.code}"
    return str(outcome.result.classes[0].label)


def _best(reply: inference_pb.ModelInferResponse) -> str:
    return colour_bundles.LABELS[int(np.argmax(np.frombuffer(reply.raw_output_contents[0], np.float32)))]


def _same(wanted: object, came: object) -> None:
    if wanted != came:
        raise Wrong(f"{came} instead of {wanted}")


def _is_draining(error: BaseException) -> bool:
    """Whether a server has turned a call away because it was going, before anything was done."""
    return "shutting down" in str(error)
