"""The RPCs of inference.GRPCInferenceService: convert, call, convert."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from retinue.inference import grpc_service_pb2 as pb
from retinue.inference import grpc_service_pb2_grpc

from retinue_server import __version__, inference, tensor_steps
from retinue_server.catalog import ServedModel
from retinue_server.errors import InvalidRequestError, UnsupportedError
from retinue_server.inference import Limits
from retinue_server.metrics import Metrics
from retinue_server.results import TensorWork, Work
from retinue_server.rpc import inference_replies as replies
from retinue_server.rpc import inference_requests as requests
from retinue_server.rpc.calls import Context, caller_of, current_call, metadata_of
from retinue_server.rpc.model_control import Control
from retinue_server.runtime.providers import Provider
from retinue_server.service import VisionService
from retinue_server.settings import Settings
from retinue_server.shadow import Copy
from retinue_server.shared_memory import SharedMemoryRegions
from retinue_server.tally import Statistics

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)
# To read an image's header or a value takes tens of microseconds, so that more are left to a thread.
_QUICK_IMAGES = 64
_QUICK_BYTES = 8 * 1024 * 1024


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Translates calls for a `VisionService`.

    Args:
        service: Answers them.
        metrics: Has what was counted of models.
        provider: What runs the models, for the descriptions.
        settings: Limits of images and replies.
        control: Lists, loads and unloads models.
        regions: Of shared memory; None where it is not served.
        counted_by_all: Tells what all processes have counted of models, by name and version; None where this is the
            only one.
    """

    def __init__(
        self,
        service: VisionService,
        metrics: Metrics,
        provider: Provider,
        settings: Settings,
        control: Control,
        *,
        regions: SharedMemoryRegions | None = None,
        counted_by_all: Callable[[], Awaitable[Mapping[tuple[str, int], Statistics]]] | None = None,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._provider = provider
        self._control = control
        self._regions = regions
        self._counted_by_all = counted_by_all
        self._max_request_bytes = settings.max_request_bytes
        self._limits = Limits(
            max_images=min(settings.max_images_per_request, settings.max_queue_images),
            max_image_pixels=settings.max_image_pixels,
            max_reply_bytes=settings.max_reply_bytes,
        )

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Whether the process answers."""
        return pb.ServerLiveResponse(live=self._service.alive)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Whether requests are taken."""
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Whether a model takes requests."""
        version = requests.version(request.version)
        if not self._service.ready:
            return pb.ModelReadyResponse(ready=False)
        catalog = self._service.catalog
        ready = catalog.serves(request.name, version) and catalog.get(request.name, version).ready
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Says who answers."""
        shared = ("system_shared_memory",) if self._regions is not None else ()
        return pb.ServerMetadataResponse(
            name="retinue", version=__version__, extensions=[*_EXTENSIONS, *shared]
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Says what a model takes and gives."""
        model = self._model(request.name, request.version)
        return replies.metadata(model, self._service.catalog.versions(model.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """Says how a model is run."""
        model = self._model(request.name, request.version)
        return pb.ModelConfigResponse(config=replies.config(model, self._provider, self._limits.max_images))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Says what was counted of a model, or of all."""
        version = requests.version(request.version)
        models = self._service.catalog.models
        if request.name:
            found = self._service.catalog.get(request.name, version)
            # A name alone means all its versions here.
            models = [found] if version else [model for model in models if model.name == request.name]
        counted = {} if self._counted_by_all is None else await self._counted_by_all()
        return pb.ModelStatisticsResponse(
            model_stats=[
                replies.statistics(
                    model, counted.get((model.name, model.version)) or self._metrics.statistics(model)
                )
                for model in models
            ]
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Runs a model."""
        arrived = time.monotonic()
        model = self._model(request.model_name, request.model_version, context)
        call = current_call.get()
        call.priority = requests.priority(request)
        count = inference.check_inputs(model, requests.declared(request), self._limits.max_images)
        call.unqueued_images = count
        wanted = inference.check_outputs(model, requests.wanted(request))
        reply_bytes = inference.output_bytes(model, wanted, count, self._limits.max_reply_bytes)
        destinations = requests.destinations(request, self._regions)
        priority = call.priority
        deadline = _deadline(arrived, context.time_remaining(), requests.timeout_seconds(request))
        caller = caller_of(context)
        # Where a server has more to do than it can, most of it is to refuse: before tensors are looked at.
        model.batcher.check_room(count, caller=caller, priority=priority, deadline=deadline)

        def works() -> tuple[list[Work] | list[TensorWork], Copy]:
            tensors = requests.tensors(request, self._regions)
            # Not of the request: what it has in shared memory may be another by then.
            copy = Copy(
                lambda: request_bytes,
                lambda candidate: inference.works(candidate, tensors, wanted, self._limits),
                of_tensors=True,
            )
            return inference.works(model, tensors, wanted, self._limits), copy

        call.images = count
        holding = call.holding
        request_bytes = request.ByteSize() + requests.shared_bytes(request, self._max_request_bytes)
        holding.hold_request(request_bytes)
        quick = count <= _QUICK_IMAGES and request_bytes <= _QUICK_BYTES
        items, copy = works() if quick else await asyncio.to_thread(works)
        holding.hold_reply(reply_bytes)
        holding.hold_between(tensor_steps.between_bytes(model, count))
        call.unqueued_images = 0
        outcomes = await self._service.answer(
            model, items, caller=caller, priority=priority, deadline=deadline, copy=copy
        )
        if any(one.top_k for one in wanted):
            outputs = await asyncio.to_thread(inference.outputs, model, outcomes, wanted)
        else:
            outputs = inference.outputs(model, outcomes, wanted)
        inference.check_output_bytes(outputs, self._limits.max_reply_bytes)
        return replies.infer_response(model, request, outputs, destinations, self._regions)

    async def ModelStreamInfer(  # type: ignore[override]
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelStreamInferResponse:
        """Runs a model for one message of a stream."""
        current_call.get().message_id = request.id
        return pb.ModelStreamInferResponse(infer_response=await self.ModelInfer(request, context))

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Lists the models that there are."""
        return await self._control.index(request)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Loads a model, or what is new of it."""
        return await self._control.load(request)

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Takes a model away."""
        return await self._control.unload(request)

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        """Lists the regions of shared memory."""
        reply = pb.SystemSharedMemoryStatusResponse()
        for region in self._shared().status(request.name):
            reply.regions[region.name].CopyFrom(
                pb.SystemSharedMemoryStatusResponse.RegionStatus(
                    name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size
                )
            )
        return reply

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Registers a region of shared memory."""
        self._shared().register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forgets a region of shared memory, or all."""
        if self._regions is not None:
            if request.name:
                self._regions.unregister(request.name)
            else:
                self._regions.unregister_all()
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, context: Context
    ) -> pb.CudaSharedMemoryStatusResponse:
        """Lists the regions of a GPU's memory, of which there are none."""
        if request.name:
            raise _no_cuda_memory()
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(
        self, request: pb.CudaSharedMemoryRegisterRequest, context: Context
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Refuses a region of a GPU's memory."""
        raise _no_cuda_memory()

    async def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Does nothing, since there are none; clients tidy up before they begin."""
        return pb.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(
        self, request: pb.TraceSettingRequest, context: Context
    ) -> pb.TraceSettingResponse:
        """Tells that traces are not set by calls."""
        if any(value.value for value in request.settings.values()):
            raise UnsupportedError(
                "this server's traces are set at its start, with --trace-endpoint; leave the settings empty."
            )
        return pb.TraceSettingResponse()

    async def LogSettings(self, request: pb.LogSettingsRequest, context: Context) -> pb.LogSettingsResponse:
        """Tells that logging is not set by calls."""
        if request.settings:
            raise UnsupportedError(
                "this server's log is set at its start, with --log-level and --log-format."
            )
        return pb.LogSettingsResponse()

    def _model(self, name: str, version: str, context: Context | None = None) -> ServedModel:
        """Finds the model that a request is for, or without a context, that it asks about."""
        if not name:
            raise InvalidRequestError("the request names no model; name one.", reason="MODEL_NOT_NAMED")
        catalog, number = self._service.catalog, requests.version(version)
        model = (
            catalog.get(name, number) if context is None else catalog.pick(name, number, metadata_of(context))
        )
        current_call.get().name_model(model)
        return model

    def _shared(self) -> SharedMemoryRegions:
        if self._regions is None:
            raise requests.not_served()
        return self._regions


def _deadline(arrived: float, remaining_seconds: float | None, timeout_seconds: float | None) -> float | None:
    given = [seconds for seconds in (remaining_seconds, timeout_seconds) if seconds is not None]
    return arrived + min(given) if given else None


def _no_cuda_memory() -> UnsupportedError:
    return UnsupportedError(
        "this server takes no regions of a GPU's memory; send tensors in the request or in system shared memory.",
        reason="CUDA_SHARED_MEMORY_NOT_SERVED",
    )
