"""A Retinue server made of canned answers, on a real socket."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from retinue.v1 import image_pb2, manifest_pb2
from retinue.v1 import vision_service_pb2 as pb
from retinue.v1 import vision_service_pb2_grpc as pb_grpc

TIMING = pb.Timing(
    decode_us=1500, queue_us=200, inference_us=6000, postprocess_us=100, total_us=8100, batch_size=4
)


def status(
    code: int, message: str, reason: str | None, retry_after_seconds: float | None = None
) -> status_pb2.Status:
    """A google.rpc.Status with the details that Retinue's server sends."""
    made = status_pb2.Status(code=code, message=message)
    details: list[Any] = []
    if reason is not None:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain="retinue"))
    if retry_after_seconds is not None:
        delay = duration_pb2.Duration(
            nanos=round(retry_after_seconds % 1 * 1e9), seconds=int(retry_after_seconds)
        )
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        made.details.append(packed)
    return made


@dataclass
class Failure:
    """How a whole call fails."""

    code: grpc.StatusCode
    message: str
    reason: str | None = None
    retry_after_seconds: float | None = None

    def abort(self, context: grpc.ServicerContext) -> None:
        if self.reason is not None:
            made = status(self.code.value[0], self.message, self.reason, self.retry_after_seconds)
            context.set_trailing_metadata((("grpc-status-details-bin", made.SerializeToString()),))
        context.abort(self.code, self.message)


def content_of(image: Any) -> str:
    """What an image says of itself: its bytes as text, or a raw image's size and channel order."""
    if image.WhichOneof("source") == "raw":
        return f"{image.raw.width}x{image.raw.height} order {image.raw.channel_order}"
    if image.encoded.startswith(b"\x89PNG"):
        return "a PNG"
    return image.encoded[:40].decode("latin-1")


# A block of 10 rows from 2 and 8 columns from 1, in an image of 64 x 48, as pycocotools encodes it.
MASK_COUNTS = b"b1:V10000000000000^b2"


def _heatmap() -> bytes:
    levels = np.zeros((4, 6), dtype=np.uint8)
    levels[1, 4] = 255
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


# One hot pixel of 6 x 4: in row 1 and column 4.
HEATMAP = _heatmap()


@dataclass
class FakeService(pb_grpc.VisionServiceServicer):
    """Answers every image with a class named after the image's content; `bad...` gets an error.

    `failures` are used up first, one a call; `on_request` may then fail it. `hold` keeps calls waiting until it is set.
    """

    requests: list[Any] = field(default_factory=list)
    models: list[Any] = field(default_factory=lambda: [*MODELS])
    failures: list[Failure] = field(default_factory=list)
    hold: threading.Event | None = None
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    alter_response: Callable[[Any], None] | None = None
    on_request: Callable[[Any, Any], None] | None = None

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        def result(image: Any) -> pb.ClassifyOutcome:
            classes = [
                pb.ClassScore(class_id=7, label=content_of(image), score=0.75),
                pb.ClassScore(class_id=3, label="other", score=0.25),
            ]
            classification = pb.Classification(classes=classes)
            if request.heatmap:
                classification.heatmap = HEATMAP
            return pb.ClassifyOutcome(result=classification, timing=TIMING)

        return self._answer(request, context, pb.ClassifyResponse, pb.ClassifyOutcome, result)

    def Detect(self, request: Any, context: grpc.ServicerContext) -> Any:
        def result(image: Any) -> pb.DetectOutcome:
            found = [
                pb.Detection(
                    box=image_pb2.BoundingBox(x_min=1, y_min=2, x_max=11, y_max=22),
                    class_id=2,
                    label=content_of(image),
                    score=0.9,
                ),
                pb.Detection(
                    box=image_pb2.BoundingBox(x_min=5.5, y_min=6.5, x_max=30, y_max=20),
                    class_id=0,
                    label="bag",
                    score=0.5,
                ),
            ]
            if request.masks:
                for one in found:
                    one.mask_counts = MASK_COUNTS
                    one.keypoints.add(name="tip", x=6, y=12, score=3.5)
            if request.HasField("classify_with"):
                # The last one reached no score.
                found[0].classes.add(class_id=4, label="red", score=0.75)
                found[0].classes.add(class_id=1, label="blue", score=0.125)
            detections = pb.DetectionList(detections=found, image_width=64, image_height=48)
            return pb.DetectOutcome(result=detections, timing=TIMING)

        return self._answer(request, context, pb.DetectResponse, pb.DetectOutcome, result)

    def Segment(self, request: Any, context: grpc.ServicerContext) -> Any:
        class_map = np.zeros((4, 6), dtype=np.uint8)
        class_map[1:3, 2:5] = 2
        areas = [
            pb.ClassArea(class_id=0, label="background", area_pixels=18),
            pb.ClassArea(class_id=2, label="bag", area_pixels=6),
        ]

        def result(_image: Any) -> pb.SegmentOutcome:
            segmentation = pb.Segmentation(width=6, height=4, areas=areas)
            if request.mask_format == pb.MASK_FORMAT_RAW:
                segmentation.raw = class_map.tobytes()
            elif request.mask_format == pb.MASK_FORMAT_COCO_RLE:
                segmentation.coco_rle.masks.add(class_id=2, label="bag", counts=b"9220003")
            else:
                buffer = io.BytesIO()
                Image.fromarray(class_map).save(buffer, "PNG")
                segmentation.png = buffer.getvalue()
            return pb.SegmentOutcome(result=segmentation, timing=TIMING)

        return self._answer(request, context, pb.SegmentResponse, pb.SegmentOutcome, result)

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._begin(request, context)
        return pb.ListModelsResponse(
            models=[model for model in self.models if request.task in (0, model.manifest.task)]
        )

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._begin(request, context)
        for model in self.models:
            if model.name == request.model:
                return pb.GetModelResponse(model=model)
        Failure(grpc.StatusCode.NOT_FOUND, f"There is no model {request.model!r}.", "MODEL_NOT_FOUND").abort(
            context
        )
        raise AssertionError

    def _begin(self, request: Any, context: grpc.ServicerContext) -> None:
        with self.lock:
            self.requests.append(request)
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            failure.abort(context)
        if self.on_request is not None:
            self.on_request(request, context)

    def _answer(
        self,
        request: Any,
        context: grpc.ServicerContext,
        response_type: type[Any],
        outcome_type: type[Any],
        result: Callable[[Any], Any],
    ) -> Any:
        self._begin(request, context)
        with self.lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            if self.hold is not None:
                self.hold.wait(timeout=30)
            response = response_type(model=request.model or "only-model", version=request.version or 3)
            if isinstance(request, pb.DetectRequest) and request.HasField("classify_with"):
                response.classifier = request.classify_with.model or "only-classifier"
                response.classifier_version = request.classify_with.version or 5
            for image in request.images:
                if image.encoded.startswith(b"bad"):
                    error = status(
                        code_pb2.INVALID_ARGUMENT, "These bytes are no image.", "IMAGE_UNDECODABLE"
                    )
                    response.outcomes.append(outcome_type(error=error))
                else:
                    response.outcomes.append(result(image))
            if self.alter_response is not None:
                self.alter_response(response)
            return response
        finally:
            with self.lock:
                self.running -= 1


def _model(name: str, task: int, provider: str = "CPUExecutionProvider") -> pb.Model:
    manifest = manifest_pb2.ModelManifest(
        name=name,
        task=task,
        input=manifest_pb2.ImageInput(height=224, width=160, colour=manifest_pb2.COLOUR_RGB),
        labels=["shirt", "bag", "boot"],
        precision=manifest_pb2.PRECISION_FP16_WEIGHTS,
        quality=[
            manifest_pb2.QualityMeasurement(
                metric="top1_accuracy",
                value=0.925,
                dataset="Fashion-MNIST test split",
                images=10000,
                precision=manifest_pb2.PRECISION_FP16_WEIGHTS,
                engine="onnxruntime",
            )
        ],
        source=manifest_pb2.Source(architecture="test.net", licence="Apache-2.0"),
        sha256="ab" * 32,
    )
    if task == manifest_pb2.TASK_DETECT:
        manifest.detect.max_detections = 100
        manifest.detect.default_score_threshold = 0.25
        manifest.detect.adjustable_thresholds = True
        manifest.detect.max_regions = 4
        manifest.detect.mask_height = manifest.detect.mask_width = 28
        manifest.detect.keypoint_names.append("tip")
    if task == manifest_pb2.TASK_CLASSIFY:
        manifest.classify.heatmap_height = manifest.classify.heatmap_width = 7
    if task == manifest_pb2.TASK_SEGMENT:
        manifest.segment.background_class_id = 0
    execution = pb.Execution(
        provider=provider, requested_provider="auto", max_batch_size=8, memory_bytes=12 << 20, instances=2
    )
    if task == manifest_pb2.TASK_CLASSIFY:
        # The others are as servers described them before they told this.
        execution.memory.weights_bytes = 7 << 20
        execution.memory.arena_bytes = 4 << 20
        execution.memory.buffers_bytes = 1 << 20
    return pb.Model(name=name, version=3, manifest=manifest, execution=execution)


MODEL_OF_TASK = {"classify": "a-classifier", "detect": "b-detector", "segment": "c-segmenter"}
MODELS = [
    _model("a-classifier", manifest_pb2.TASK_CLASSIFY),
    _model("b-detector", manifest_pb2.TASK_DETECT),
    _model("c-segmenter", manifest_pb2.TASK_SEGMENT),
]


_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):
    """Says whether the server is ready; grpc_health's own, for threads, may wait for itself when a watcher goes."""

    def __init__(self) -> None:
        self._ready = True
        self._changed = threading.Condition()

    def set_ready(self, ready: bool) -> None:
        """What it says from now on."""
        with self._changed:
            self._ready = ready
            self._changed.notify_all()

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        told: bool | None = None

        def wake() -> None:
            with self._changed:
                self._changed.notify_all()

        context.add_callback(wake)
        while True:
            with self._changed:
                while self._ready is told and context.is_active():
                    self._changed.wait()
                told = self._ready
            if not context.is_active():
                return
            yield health_pb2.HealthCheckResponse(status=_SERVING if told else _NOT_SERVING)


@dataclass
class FakeServer:
    """A running fake.

    Attributes:
        service: What it answers, and what it was asked.
        address: Where it listens.
        health: What it says of itself.
        stop: Ends it and waits until it has.
        start_again: A new server on the same port with the same service.
    """

    service: FakeService
    address: str
    _server: grpc.Server
    health: Health

    def stop(self) -> None:
        self._server.stop(None).wait()

    def start_again(self) -> None:
        self._server, _ = listen(self.service, self.health, self.address)


MAX_MESSAGE_BYTES = 1 << 20


def listen(service: FakeService, checks: Health, address: str) -> tuple[grpc.Server, int]:
    """Starts a server at HOST:PORT and returns it with its port, which is a free one where 0 was given."""
    server = grpc.server(
        futures.ThreadPoolExecutor(32),
        options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)],
    )
    pb_grpc.add_VisionServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    # Of a name with several addresses gRPC is content with one, and somebody else may answer at the port's other.
    port = server.add_insecure_port(address.replace("localhost", "127.0.0.1"))
    server.start()
    return server, port
