"""What the server says of all versions that it has, served or not, and how it is told to load them."""

from dataclasses import asdict, dataclass
from typing import Any

from retinue.inference import grpc_service_pb2 as inference_pb

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


def load_request(name: str) -> inference_pb.RepositoryModelLoadRequest:
    """The request to load a model.

    Raises:
        InvalidRequestError: The name is no text.
    """
    request: inference_pb.RepositoryModelLoadRequest = make_request(
        inference_pb.RepositoryModelLoadRequest, model_name=name
    )
    return request


def unload_request(name: str) -> inference_pb.RepositoryModelUnloadRequest:
    """The request to take a model away.

    Raises:
        InvalidRequestError: The name is no text.
    """
    request: inference_pb.RepositoryModelUnloadRequest = make_request(
        inference_pb.RepositoryModelUnloadRequest, model_name=name
    )
    return request


def index_request() -> inference_pb.RepositoryIndexRequest:
    """The request for the states of all versions."""
    return inference_pb.RepositoryIndexRequest()


def model_states(response: inference_pb.RepositoryIndexResponse) -> list[ModelState]:
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
