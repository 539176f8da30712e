"""What the server says of all versions that it has, served or not, and how it is told to load them."""

from dataclasses import asdict, dataclass
from typing import Any

from retinue_client._calls import make_request


@dataclass(frozen=True, slots=True)
class ModelState:
    """Where one version of a model is in its life.

    Attributes:
        name: The model's name.
        version: Its version.
        state: "ready", "loading", "unloading" or "unavailable".
        reason: Why it is unavailable; empty where it is not.
    """

    name: str
    version: int
    state: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        return asdict(self)


def repository_stub(channel: Any) -> Any:
    """The calls that load, unload and list, over a channel of either kind."""
    # Registers names with protobuf that Triton's client registers, too: who never loads models may use both.
    from retinue.inference import grpc_service_pb2_grpc  # noqa: PLC0415

    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def load_request(name: str) -> Any:
    """The request to load a model.

    Raises:
        InvalidRequestError: The name is no text.
    """
    from retinue.inference import grpc_service_pb2  # noqa: PLC0415

    return make_request(grpc_service_pb2.RepositoryModelLoadRequest, model_name=name)


def unload_request(name: str) -> Any:
    """The request to take a model away.

    Raises:
        InvalidRequestError: The name is no text.
    """
    from retinue.inference import grpc_service_pb2  # noqa: PLC0415

    return make_request(grpc_service_pb2.RepositoryModelUnloadRequest, model_name=name)


def index_request() -> Any:
    """The request for the states of all versions."""
    from retinue.inference import grpc_service_pb2  # noqa: PLC0415

    return grpc_service_pb2.RepositoryIndexRequest()


def model_states(response: Any) -> list[ModelState]:
    """Reads the states from the wire; a version that is no number counts as 0."""
    return [
        ModelState(
            entry.name,
            int(entry.version) if entry.version.isdecimal() else 0,
            entry.state.lower(),
            entry.reason,
        )
        for entry in response.models
    ]
