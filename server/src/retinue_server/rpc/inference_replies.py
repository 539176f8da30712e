"""To the wire: tensors and models to the messages of the Open Inference Protocol."""

from collections.abc import Mapping, Sequence

from retinue.inference import grpc_service_pb2 as pb

from retinue_server.catalog import ServedModel
from retinue_server.errors import RetinueError
from retinue_server.inventory import IndexEntry, ModelState
from retinue_server.runtime.providers import Provider
from retinue_server.shared_memory import SharedMemoryRegions
from retinue_server.tally import Statistics
from retinue_server.tensor_steps import wiring
from retinue_server.tensors import BYTES, Array, TensorSpec, datatype_of, to_bytes

# Clients take it for what reads the model's file.
PLATFORM, BACKEND, MODEL_FILE = "onnxruntime_onnx", "onnxruntime", "model.onnx"
ENSEMBLE = "ensemble"
# Triton's version of a step that has none.
_ANY_VERSION = -1

_TYPES = {
    "BOOL": pb.TYPE_BOOL,
    "UINT8": pb.TYPE_UINT8,
    "UINT16": pb.TYPE_UINT16,
    "UINT32": pb.TYPE_UINT32,
    "UINT64": pb.TYPE_UINT64,
    "INT8": pb.TYPE_INT8,
    "INT16": pb.TYPE_INT16,
    "INT32": pb.TYPE_INT32,
    "INT64": pb.TYPE_INT64,
    "FP16": pb.TYPE_FP16,
    "FP32": pb.TYPE_FP32,
    "FP64": pb.TYPE_FP64,
    BYTES: pb.TYPE_STRING,
}


def infer_response(
    model: ServedModel,
    request: pb.ModelInferRequest,
    outputs: Mapping[str, Array],
    destinations: Mapping[str, tuple[str, int, int]],
    regions: SharedMemoryRegions | None,
) -> pb.ModelInferResponse:
    """The answer to a request; what is to go to shared memory is written there.

    Args:
        model: Which answered.
        request: What it answers.
        outputs: By name.
        destinations: Region, offset and room in bytes of those that go to shared memory.
        regions: Of shared memory.

    Raises:
        InvalidRequestError: There is not enough room in shared memory.
    """
    reply = pb.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    for name, array in outputs.items():
        told = reply.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        raw = to_bytes(array)
        if name in destinations and regions is not None:
            region, offset, room = destinations[name]
            regions.write(region, offset, raw, room)
            told.parameters["shared_memory_region"].string_param = region
            told.parameters["shared_memory_offset"].int64_param = offset
            told.parameters["shared_memory_byte_size"].int64_param = len(raw)
            raw = b""
        reply.raw_output_contents.append(raw)
    return reply


def stream_error(error: RetinueError, request_id: str) -> bytes:
    """A stream's message of an error."""
    return pb.ModelStreamInferResponse(
        error_message=f"{error.reason}: {error.message}", infer_response=pb.ModelInferResponse(id=request_id)
    ).SerializeToString()


def metadata(model: ServedModel, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """What a model takes and gives."""
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in versions],
        platform=_platform(model),
        inputs=[_tensor(one) for one in model.interface.inputs.values()],
        outputs=[_tensor(one) for one in model.interface.outputs.values()],
    )


def config(model: ServedModel, provider: Provider, max_images: int) -> pb.ModelConfig:
    """How a model is run. A request may have more images than a batch: they are split."""
    first = 1 if model.interface.batched else 0
    told = pb.ModelConfig(
        name=model.name,
        platform=_platform(model),
        max_batch_size=max_images if model.interface.batched else 0,
        input=[
            pb.ModelInput(
                name=one.name, data_type=_TYPES[one.datatype], dims=one.shape[first:], optional=one.optional
            )
            for one in model.interface.inputs.values()
        ],
        output=[
            pb.ModelOutput(name=one.name, data_type=_TYPES[one.datatype], dims=one.shape[first:])
            for one in model.interface.outputs.values()
        ],
    )
    told.parameters["task"].string_value = str(model.task)
    if model.manifest.HasField("pipeline"):
        told.ensemble_scheduling.step.extend(_ensemble_steps(model))
        return told
    told.backend, told.default_model_filename = BACKEND, MODEL_FILE
    told.instance_group.add(
        name=model.name,
        count=model.threads.instances,
        kind=pb.ModelInstanceGroup.KIND_GPU if provider.on_gpu else pb.ModelInstanceGroup.KIND_CPU,
        gpus=provider.devices if provider.on_gpu else (),
    )
    if model.interface.batched:
        told.dynamic_batching.preferred_batch_size.append(model.profile.max_batch_size)
        told.dynamic_batching.priority_levels, told.dynamic_batching.default_priority_level = 3, 2
    return told


def _platform(model: ServedModel) -> str:
    return ENSEMBLE if model.manifest.HasField("pipeline") else PLATFORM


def _ensemble_steps(model: ServedModel) -> list[pb.ModelEnsembling.Step]:
    """What a pipeline runs for a request of this protocol: of one that detects, the detector."""
    return [
        pb.ModelEnsembling.Step(
            model_name=step.model,
            model_version=step.version or _ANY_VERSION,
            input_map=wires.inputs,
            output_map=wires.outputs,
        )
        for step, wires in zip(model.manifest.pipeline.steps, wiring(model), strict=False)
    ]


def statistics(model: ServedModel, counted: Statistics) -> pb.ModelStatistics:
    """What was counted of a model."""
    told = pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=int(counted.last_at * 1000),
        inference_count=counted.images,
        execution_count=sum(count for count, _ in counted.batches.values()),
        inference_stats=pb.InferStatistics(
            success=_duration(*counted.success),
            fail=_duration(*counted.fail),
            queue=_duration(*counted.stages["queue"]),
            compute_input=_duration(*counted.stages["decode"]),
            compute_infer=_duration(*counted.stages["inference"]),
            compute_output=_duration(*counted.stages["postprocess"]),
        ),
        memory_usage=[
            pb.MemoryUsage(type=part, byte_size=size_bytes) for part, size_bytes in model.memory.parts()
        ],
    )
    for size, (count, seconds) in sorted(counted.batches.items()):
        told.batch_stats.add(batch_size=size, compute_infer=_duration(count, seconds))
    return told


def index(entries: Sequence[IndexEntry], *, ready_only: bool) -> list[pb.RepositoryIndexResponse.ModelIndex]:
    """The models that there are; without a version those of which none is known."""
    return [
        pb.RepositoryIndexResponse.ModelIndex(
            name=entry.name, version=str(entry.version or ""), state=entry.state, reason=entry.reason
        )
        for entry in entries
        if not ready_only or entry.state is ModelState.READY
    ]


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))
