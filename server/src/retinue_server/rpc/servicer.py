"""The RPCs of retinue.v1.VisionService: convert, call, convert."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from retinue.v1 import manifest_pb2, vision_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as pb

from retinue_server.catalog import ServedModel
from retinue_server.crops import CropClassifier, Question, Turn
from retinue_server.errors import ImageError, InvalidRequestError
from retinue_server.results import DetectOptions, PictureOptions, Task, Work
from retinue_server.rpc import replies, reply_size, requests
from retinue_server.rpc.calls import Context, caller_of, current_call, metadata_of
from retinue_server.runtime.providers import Provider
from retinue_server.service import VisionService
from retinue_server.settings import Settings
from retinue_server.shadow import Copy

SERVICE = pb.DESCRIPTOR.services_by_name["VisionService"].full_name

_TASKS = {
    manifest_pb2.TASK_UNSPECIFIED: None,
    manifest_pb2.TASK_CLASSIFY: Task.CLASSIFY,
    manifest_pb2.TASK_DETECT: Task.DETECT,
    manifest_pb2.TASK_SEGMENT: Task.SEGMENT,
    manifest_pb2.TASK_TENSOR: Task.TENSOR,
}

# To read a header takes tens of microseconds, that of a hostile image a few milliseconds; to read a region or to tell
# of an object takes about one. More than these are left to a thread, so that they hold nobody up.
_IMAGES_ON_THE_LOOP = 4
_REGIONS_ON_THE_LOOP = 200
_ENTRIES_ON_THE_LOOP = 500

ImagesRequest = pb.ClassifyRequest | pb.DetectRequest | pb.SegmentRequest
Reply = TypeVar("Reply")


class VisionServicer(vision_service_pb2_grpc.VisionServiceServicer):
    """Translates calls for a `VisionService`.

    Args:
        service: Answers them.
        provider: What runs the models, for the descriptions.
        runtime_version: Of ONNX Runtime, likewise.
        settings: Limits of images and replies.
    """

    def __init__(
        self, service: VisionService, provider: Provider, runtime_version: str, settings: Settings
    ) -> None:
        self._service = service
        self._provider = provider
        self._runtime_version = runtime_version
        self._max_image_pixels = settings.max_image_pixels
        self._max_reply_bytes = settings.max_reply_bytes
        self._crops = CropClassifier(service, settings)

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """Says which classes each image shows."""
        arrived = time.monotonic()
        model = self._model(Task.CLASSIFY, request, context)
        options = requests.classify_options(request, model, max_picture_bytes=self._share_bytes(request))
        outcomes = await self._answer(request, _turn(request, context, arrived), model, options)
        return await _reply(replies.classify_response, model, outcomes, arrived)

    async def Detect(self, request: pb.DetectRequest, context: Context) -> pb.DetectResponse:
        """Finds the objects in each image."""
        arrived = time.monotonic()
        model = self._model(Task.DETECT, request, context)
        options = requests.detect_options(request, model, max_picture_bytes=self._share_bytes(request))
        if not (request.HasField("classify_with") or model.manifest.HasField("pipeline")):
            outcomes = await self._answer(request, _turn(request, context, arrived), model, options)
            return await _reply(replies.detect_response, model, outcomes, arrived)
        question = self._question(request, context, model, options)
        turn = _turn(request, context, arrived)
        # Where the classifier has too much to do, nothing need be detected.
        question.model.batcher.check_room(
            1, caller=turn.caller, priority=turn.priority, deadline=turn.deadline
        )
        outcomes = await self._answer(request, turn, model, options)
        holding = current_call.get().holding
        holding.hold_reply(holding.reply_bytes + reply_size.crop_class_bytes(outcomes, question))
        sources = [partial(requests.opened, image, self._max_image_pixels) for image in request.images]
        outcomes = await self._crops.classify(question, outcomes, sources, turn, holding.hold_between)
        build = partial(replies.detect_response, classifier=question.model)
        return await _reply(build, model, outcomes, arrived)

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse:
        """Gives each pixel of each image a class."""
        arrived = time.monotonic()
        model = self._model(Task.SEGMENT, request, context)
        options = requests.segment_options(request, model, max_picture_bytes=self._share_bytes(request))
        outcomes = await self._answer(request, _turn(request, context, arrived), model, options)
        return await _reply(replies.segment_response, model, outcomes, arrived)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Lists the models that are served."""
        if request.task not in _TASKS:
            raise InvalidRequestError(
                f"task {request.task} is unknown; use CLASSIFY, DETECT, SEGMENT or TENSOR, or leave it unset for all.",
                reason="TASK_UNKNOWN",
            )
        task = _TASKS[request.task]
        models = [model for model in self._service.catalog.models if task in (None, model.task)]
        return pb.ListModelsResponse(models=[self._message(model) for model in models])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describes one model."""
        model = self._service.catalog.get(request.model, requests.version(request))
        current_call.get().name_model(model)
        return pb.GetModelResponse(model=self._message(model))

    def _model(self, task: Task, request: ImagesRequest, context: Context) -> ServedModel:
        version = requests.version(request)
        model = self._service.catalog.for_task(task, request.model, version, metadata_of(context))
        call = current_call.get()
        call.name_model(model)
        call.unqueued_images = len(request.images)
        call.priority = requests.priority(request)
        return model

    def _question(
        self, request: pb.DetectRequest, context: Context, detector: ServedModel, options: DetectOptions
    ) -> Question:
        """What is asked of the objects, of a classifier that is held from now on."""
        catalog, asked = self._service.catalog, request.classify_with
        name, version = asked.model, requests.version(asked)
        if not name and detector.manifest.HasField("pipeline"):
            step = detector.manifest.pipeline.steps[-1]
            # Of the version with which the pipeline was found to fit, whoever asks, as the detector is.
            name, version = step.model, version or catalog.get(step.model, step.version).version
        model = catalog.for_task(Task.CLASSIFY, name, version, metadata_of(context))
        current_call.get().hold_model(model)
        question = requests.crop_question(asked, model)
        most = len(request.images) * options.max_detections
        reply_size.check_crop_classes(most, question, max_bytes=self._max_reply_bytes)
        return question

    def _share_bytes(self, request: ImagesRequest) -> int:
        """What the masks or the heatmap of one image may take, so that all fit into the reply."""
        return self._max_reply_bytes // max(len(request.images), 1)

    async def _answer(
        self,
        request: ImagesRequest,
        turn: Turn,
        model: ServedModel,
        options: PictureOptions,
    ) -> replies.Outcomes:
        call = current_call.get()
        call.images = len(request.images)
        caller, priority, deadline = turn.caller, turn.priority, turn.deadline
        # Where a server has more to do than it can, most of it is to refuse: before images are looked at.
        model.batcher.check_room(len(request.images), caller=caller, priority=priority, deadline=deadline)
        takes_regions = model.manifest.detect.max_regions > 0
        if len(request.images) > _IMAGES_ON_THE_LOOP or (
            takes_regions and sum(len(image.regions) for image in request.images) > _REGIONS_ON_THE_LOOP
        ):
            works = await asyncio.to_thread(self._open, request, model, options)
        else:
            works = self._open(request, model, options)
        picture_bytes = reply_size.expected_bytes(options, works, model, max_bytes=self._max_reply_bytes)
        call.holding.hold_reply(picture_bytes)
        copy = Copy(request.ByteSize, lambda candidate: self._open(request, candidate, options))
        call.unqueued_images = 0
        return await self._service.answer(
            model, works, caller=caller, priority=priority, deadline=deadline, copy=copy
        )

    def _open(
        self, request: ImagesRequest, model: ServedModel, options: PictureOptions
    ) -> list[Work | ImageError]:
        max_regions = model.manifest.detect.max_regions
        return [
            requests.open_image(image, options, max_pixels=self._max_image_pixels, max_regions=max_regions)
            for image in request.images
        ]

    def _message(self, model: ServedModel) -> pb.Model:
        policy = self._service.catalog.policy(model.name)
        return replies.model_message(model, policy, self._provider, self._runtime_version)


async def _reply(
    build: Callable[[ServedModel, replies.Outcomes, float], Reply],
    model: ServedModel,
    outcomes: replies.Outcomes,
    arrived: float,
) -> Reply:
    total_seconds = time.monotonic() - arrived
    if replies.entries(outcomes) > _ENTRIES_ON_THE_LOOP:
        return await asyncio.to_thread(build, model, outcomes, total_seconds)
    return build(model, outcomes, total_seconds)


def _turn(request: ImagesRequest, context: Context, arrived: float) -> Turn:
    """When the turn of a request's images is, of which there must be some."""
    if not request.images:
        raise InvalidRequestError("the request has no images; send at least one.", reason="NO_IMAGES")
    remaining_seconds = context.time_remaining()
    deadline = None if remaining_seconds is None else arrived + remaining_seconds
    return Turn(caller_of(context), current_call.get().priority, deadline)
