"""Asks the engine in this process, where the server's distribution is installed beside this one."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_client._calls import Call, classify_call, detect_call, make_request, segment_call, version_fields
from retinue_client._errors import ImageError, RetinueError, ServerError, error_from_status
from retinue_client._images import describe
from retinue_client._models import ModelInfo, Task, list_models_request, model_info
from retinue_client._score.rows import Result

_GROUP = "retinue.engine"
_METHODS = pb.DESCRIPTOR.services_by_name["VisionService"].methods_by_name
_CALLS: dict[Task, Any] = {"classify": classify_call, "detect": detect_call, "segment": segment_call}


class Engine(Protocol):
    """What the entry point `retinue.engine` gives: the server without its ports, for one event loop."""

    async def start(self) -> bytes:
        """Loads the models; returns nothing, or the google.rpc.Status that says why it cannot."""
        ...

    async def answer(
        self, method: str, request: bytes, timeout_seconds: float | None = None
    ) -> tuple[bool, bytes]:
        """Answers a call of VisionService: whether there is a reply, and the reply or a google.rpc.Status."""
        ...

    async def close(self) -> None:
        """Ends it."""
        ...


def find_engine(arguments: Sequence[str], models: str) -> Engine:
    """The engine that is installed here; it does nothing yet.

    Args:
        arguments: Flags of `retinue-server`.
        models: Which models it is to load, separated by commas; empty for all of its folder.

    Raises:
        ServerError: None is installed, or what runs networks is not.
    """
    found = next(iter(entry_points(group=_GROUP)), None)
    if found is None:
        raise ServerError(
            "There is no engine in this environment: install the server beside the client, "
            'pip install "retinue-server[cpu]" (or [gpu]), or leave --local away and ask a server.',
            reason="ENGINE_MISSING",
        )
    try:
        made: Engine = found.load()(arguments, models)
    except ImportError as exc:
        raise ServerError(
            f"The engine that is installed here lacks {exc.name or exc}: "
            'pip install "retinue-server[cpu]", or [gpu] for a GPU.',
            reason="ENGINE_MISSING",
        ) from exc
    return made


class LocalAsker:
    """Asks an engine in this process, which is started at the first question; see `Asker`.

    Args:
        engine: It; it is closed with this.
        task: The question.
        options: The question's options, as the client takes them.
    """

    address = "this process"

    def __init__(self, engine: Engine, task: Task, options: dict[str, Any]) -> None:
        self._engine = engine
        self._call: Call[Result] = _CALLS[task](**options)
        self._is_started = False

    async def list_models(self, task: Task, *, timeout_seconds: float | None = None) -> list[ModelInfo]:
        """The models of a task that it has loaded."""
        response = await self._invoke("ListModels", list_models_request(task))
        return [model_info(model) for model in response.models]

    async def get_model(
        self, name: str, version: int | str | None = None, *, timeout_seconds: float | None = None
    ) -> ModelInfo:
        """One of the models that it has loaded."""
        request = make_request(pb.GetModelRequest, model=name, **version_fields(version))
        return model_info((await self._invoke("GetModel", request)).model)

    async def ask(self, images: Sequence[bytes]) -> list[Result | ImageError]:
        """The answers about these images."""
        request = self._call.new_request()
        for image in images:
            request.images.add().encoded = image
        response = await self._invoke(self._call.method, request)
        return self._call.read_response(response, request.images, [describe(image) for image in images])

    async def close(self) -> None:
        """Ends the engine; what runs is finished."""
        await self._engine.close()

    async def _invoke(self, method: str, request: Any) -> Any:
        if not self._is_started:
            # Only once: a model that cannot be loaded now cannot be loaded later.
            self._is_started = True
            if status := await self._engine.start():
                raise _error(status)
        is_answered, data = await self._engine.answer(method, request.SerializeToString())
        if not is_answered:
            raise _error(data)
        return GetMessageClass(_METHODS[method].output_type).FromString(data)


def _error(status: bytes) -> RetinueError:
    return error_from_status(status_pb2.Status.FromString(status))
