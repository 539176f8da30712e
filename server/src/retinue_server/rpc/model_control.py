"""Calls that list, load and unload models: answered here, or passed on to the process that has the repository."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from retinue.inference import grpc_service_pb2 as pb

from retinue_server.errors import InvalidRequestError
from retinue_server.lifecycle import Repository
from retinue_server.rpc import inference_replies as replies
from retinue_server.rpc import inference_requests as requests

Reply = TypeVar("Reply", bound=Message)

_INDEX, _LOAD, _UNLOAD = "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"


class Control(Protocol):
    """What answers calls about models."""

    async def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Lists the models that there are."""
        ...

    async def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Loads a model, or what is new of it; `config` says how its versions are served until it is loaded again."""
        ...

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Takes a model away. The parameters say nothing: Triton has one, for an ensemble's models, which stay here."""
        ...


class ModelControl:
    """Answers them in the process that has the repository.

    Args:
        repository: Loads and unloads models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """As `Control`."""
        _check_repository(request.repository_name)
        entries = await self._repository.index()
        return pb.RepositoryIndexResponse(models=replies.index(entries, ready_only=request.ready))

    async def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """As `Control`."""
        _check_repository(request.repository_name)
        await self._repository.load(request.model_name, requests.serving_policy(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """As `Control`."""
        _check_repository(request.repository_name)
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def answer(self, method: str, request: bytes) -> bytes:
        """Answers what a `PassedOnControl` passes on: a method's serialised request.

        Raises:
            RetinueError: Why there is no reply.
        """
        reply: Message
        if method == _INDEX:
            reply = await self.index(pb.RepositoryIndexRequest.FromString(request))
        elif method == _LOAD:
            reply = await self.load(pb.RepositoryModelLoadRequest.FromString(request))
        else:
            assert method == _UNLOAD, method
            reply = await self.unload(pb.RepositoryModelUnloadRequest.FromString(request))
        return reply.SerializeToString()


class PassedOnControl:
    """Passes them on.

    Args:
        ask: Gives the serialised reply to a method's serialised request, or raises a RetinueError.
    """

    def __init__(self, ask: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        self._ask = ask

    async def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """As `Control`."""
        return await self._reply(_INDEX, request, pb.RepositoryIndexResponse)

    async def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """As `Control`."""
        return await self._reply(_LOAD, request, pb.RepositoryModelLoadResponse)

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """As `Control`."""
        return await self._reply(_UNLOAD, request, pb.RepositoryModelUnloadResponse)

    async def _reply(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        return reply.FromString(await self._ask(method, request.SerializeToString()))


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(
            f"there is no repository '{name[:128]}', but one without a name; leave repository_name empty.",
            reason="REPOSITORY_UNKNOWN",
        )
