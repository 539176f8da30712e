"""The endpoints of the Open Inference Protocol, below /v2, and which of gRPC's methods each is."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from pydantic import JsonValue, TypeAdapter, ValidationError
from retinue.inference import grpc_service_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from retinue_server.errors import InvalidRequestError, RetinueError
from retinue_server.http.exchange import Exchanges, HttpContext, Reply, without_delay
from retinue_server.http.messages import plain, to_json
from retinue_server.http.tensors import HEADER_LENGTH, InferRequest
from retinue_server.rpc.methods import Methods

_MOST_JSON_BYTES = 1024 * 1024
_JSON_OBJECT = TypeAdapter(dict[str, JsonValue])
_MODEL, _VERSION = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
_NOT_READY = 503

# Reasons that say more than that the elements of a tensor are too many, or no numbers.
_TOLD_FIRST = frozenset(
    {
        "MODEL_NOT_FOUND",
        "INPUT_UNKNOWN",
        "INPUT_MISMATCH",
        "INPUT_TWICE",
        "INPUT_MISSING",
        "VERSION_OUT_OF_RANGE",
    }
)

# Of an RPC's reply what goes into the JSON; elsewhere all of it.
_SHOWN: dict[str, Callable[[Any], Any]] = {
    "ModelConfig": lambda reply: plain(reply.config),
    "RepositoryIndex": lambda reply: [plain(one) for one in reply.models],
    "SystemSharedMemoryStatus": lambda reply: [plain(one) for _, one in sorted(reply.regions.items())],
    "CudaSharedMemoryStatus": lambda reply: [plain(one) for _, one in sorted(reply.regions.items())],
    "TraceSetting": lambda reply: plain(reply)["settings"],
    "LogSettings": lambda reply: plain(reply)["settings"],
}


def routes(exchanges: Exchanges, methods: Methods) -> list[Route]:
    """The endpoints.

    Args:
        exchanges: Answers requests as calls.
        methods: What answers the calls.
    """

    def call(path: str, method: str, message: type[Message], verb: str = "GET") -> Route:
        """An endpoint that is a call of a method, whose fields are in the path and, with POST, in a JSON object."""
        shown: Callable[[Any], Any] = _SHOWN.get(method, plain)

        async def endpoint(request: Request) -> Response:
            async def work(body: bytes, context: HttpContext) -> Reply:
                asked = _message(message, request.path_params, body if verb == "POST" else b"")
                reply = await methods[method](asked, context)
                return Reply([await without_delay(lambda: to_json(shown(reply)), reply.ByteSize())])

            return await exchanges.answer(request, method, work)

        return Route(path, endpoint, methods=[verb])

    def health(path: str, method: str, message: type[Message], answer: str) -> Route:
        async def endpoint(request: Request) -> Response:
            async def work(body: bytes, context: HttpContext) -> Reply:
                reply = await methods[method](_message(message, request.path_params, b""), context)
                return Reply([], 200 if getattr(reply, answer) else _NOT_READY)

            return await exchanges.answer(request, method, work)

        return Route(path, endpoint)

    async def infer(request: Request) -> Response:
        async def work(body: bytes, context: HttpContext) -> Reply:
            length = request.headers.get(HEADER_LENGTH)
            named = request.path_params
            read = partial(InferRequest, body, length, named["name"], named.get("version", ""))
            asked = await without_delay(read, len(body))
            # What it has is in the message now, and the call may wait for long.
            del body, read
            if asked.fault is not None:
                raise await _told_first(asked.message, asked.fault, methods, context)
            answer = await methods["ModelInfer"](asked.message, context)
            return await without_delay(lambda: asked.reply(answer), answer.ByteSize())

        return await exchanges.answer(request, "ModelInfer", work)

    made = [
        health("/v2/health/live", "ServerLive", pb.ServerLiveRequest, "live"),
        health("/v2/health/ready", "ServerReady", pb.ServerReadyRequest, "ready"),
        call("/v2", "ServerMetadata", pb.ServerMetadataRequest),
        call("/v2/models/stats", "ModelStatistics", pb.ModelStatisticsRequest),
    ]
    for model in (_MODEL, _VERSION):
        made += [
            health(f"{model}/ready", "ModelReady", pb.ModelReadyRequest, "ready"),
            call(model, "ModelMetadata", pb.ModelMetadataRequest),
            call(f"{model}/config", "ModelConfig", pb.ModelConfigRequest),
            call(f"{model}/stats", "ModelStatistics", pb.ModelStatisticsRequest),
            call(f"{model}/trace/setting", "TraceSetting", pb.TraceSettingRequest),
            call(f"{model}/trace/setting", "TraceSetting", pb.TraceSettingRequest, "POST"),
            Route(f"{model}/infer", infer, methods=["POST"]),
        ]
    load, unload = pb.RepositoryModelLoadRequest, pb.RepositoryModelUnloadRequest
    made += [
        call("/v2/repository/index", "RepositoryIndex", pb.RepositoryIndexRequest, "POST"),
        call("/v2/repository/models/{model_name}/load", "RepositoryModelLoad", load, "POST"),
        call("/v2/repository/models/{model_name}/unload", "RepositoryModelUnload", unload, "POST"),
    ]
    for kind in ("System", "Cuda"):
        folder = f"/v2/{kind.lower()}sharedmemory"
        for path in (folder, f"{folder}/region/{{name}}"):
            status, unregister = f"{kind}SharedMemoryStatus", f"{kind}SharedMemoryUnregister"
            made.append(call(f"{path}/status", status, _request_of(status)))
            made.append(call(f"{path}/unregister", unregister, _request_of(unregister), "POST"))
        register = f"{kind}SharedMemoryRegister"
        made.append(call(f"{folder}/region/{{name}}/register", register, _request_of(register), "POST"))
    for path, method in (("/v2/trace/setting", "TraceSetting"), ("/v2/logging", "LogSettings")):
        made.append(call(path, method, _request_of(method)))
        made.append(call(path, method, _request_of(method), "POST"))
    return made


async def _told_first(
    message: pb.ModelInferRequest, fault: InvalidRequestError, methods: Methods, context: HttpContext
) -> RetinueError:
    """What to tell of tensors that do not hold: what their model has against their names and types comes first."""
    # As many as no request may have, so that nothing runs.
    message.raw_input_contents[:] = [b""] * (len(message.inputs) + 1)
    try:
        await methods["ModelInfer"](message, context)
    except RetinueError as error:
        return error if error.reason in _TOLD_FIRST else fault
    return fault


def _request_of(method: str) -> type[Message]:
    kind: type[Message] = getattr(pb, f"{method}Request")
    return kind


def _message(kind: type[Message], named: Mapping[str, str], body: bytes) -> Message:
    """A request of what is in the path and in the body; names that the protocol does not have are left out."""
    message = kind()
    fields = kind.DESCRIPTOR.fields_by_name
    given = _object(body)
    if "settings" in fields:
        # Here the body is the settings themselves.
        given = {"settings": given}
    for name, value in (given | dict(named)).items():
        field = fields.get(name)
        try:
            if field is not None and field.is_repeated:
                _set_entries(getattr(message, name), value)
            elif field is not None and field.type != FieldDescriptor.TYPE_BYTES:
                setattr(message, name, value)
        except (TypeError, ValueError):
            raise InvalidRequestError(
                f"'{name}' in the JSON of the request is of another type than the protocol says.",
                reason="JSON_INVALID",
            ) from None
    return message


def _set_entries(told: Any, value: Any) -> None:
    for name, one in dict(value).items():
        if one is None:
            continue
        entry = told[name]
        if isinstance(entry, pb.TraceSettingRequest.SettingValue):
            entry.value.extend(map(str, one if isinstance(one, list) else [one]))
        elif isinstance(one, bool):
            entry.bool_param = one
        elif isinstance(one, int) and isinstance(entry, pb.ModelRepositoryParameter):
            entry.int64_param = one
        else:
            entry.string_param = str(one)


def _object(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if len(body) > _MOST_JSON_BYTES:
        raise InvalidRequestError(
            f"the JSON has {len(body)} bytes, but at most {_MOST_JSON_BYTES} are taken.",
            reason="JSON_TOO_LARGE",
        )
    try:
        return dict(_JSON_OBJECT.validate_json(body))
    except ValidationError:
        raise InvalidRequestError("the body is no JSON object.", reason="JSON_INVALID") from None
