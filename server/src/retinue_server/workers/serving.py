"""How to serve, and what: the engine's process tells each front-end when it starts, and whenever models come or go."""

import json
import struct
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retinue.v1 import vision_service_pb2 as pb

from retinue_server.errors import BundleError, UnavailableError
from retinue_server.runtime.providers import Provider
from retinue_server.settings import Settings
from retinue_server.workers.slots import Layout, Place

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a front-end is to serve.

    Attributes:
        settings: Its own: the limits of the whole server are shared among all front-ends.
        provider: What runs the models.
        decode_threads: How many threads decode images.
        private_address: Where it takes calls of the engine's process besides, without encryption; empty for nowhere.
        joins: Whether others serve already, so that it takes no call before it has the models.
    """

    settings: Settings
    provider: Provider
    decode_threads: int
    private_address: str = ""
    joins: bool = False

    def pack(self) -> bytes:
        """The body of `SETTINGS`."""
        provider = self.provider
        return json.dumps(
            {
                "settings": self.settings.as_toml(),
                "provider": [provider.name, provider.requested, provider.fallback_reason],
                "decode_threads": self.decode_threads,
                "private_address": self.private_address,
                "joins": self.joins,
            }
        ).encode()

    @classmethod
    def unpack(cls, body: bytes) -> "Plan":
        """Reads what `pack` gave."""
        value = json.loads(body)
        settings = Settings(**tomllib.loads(value["settings"]))
        name, requested, fallback_reason = value["provider"]
        provider = Provider(name, requested, fallback_reason, chain=())
        return cls(settings, provider, value["decode_threads"], value["private_address"], value["joins"])


def shared_among(settings: Settings, workers: int, grpc_port: int) -> Settings:
    """The settings of each of several front-ends on one port: limits of the whole server become their shares."""
    return settings.model_copy(
        update={
            "grpc_port": grpc_port,
            "max_concurrent_requests": -(-settings.max_concurrent_requests // workers),
            "trace_callers_per_second": settings.trace_callers_per_second / workers,
            "max_bytes_in_flight": max(-(-settings.max_bytes_in_flight // workers), 1024),
        }
    )


@dataclass(frozen=True, slots=True)
class Served:
    """What is served.

    Attributes:
        number: Which state of it this is; each is higher than the one before.
        models: The descriptions of those that have slots.
        places: Of each of them, where its slots are.
        pipelines: The descriptions of those that lead to others.
        failures: Why bundles that were found are not served, by (name, version).
        unready: Of the models that take no requests now, why not, by the number of their place.
    """

    number: int
    models: Sequence[pb.Model]
    places: Sequence[Place]
    pipelines: Sequence[pb.Model]
    failures: dict[tuple[str, int], BundleError]
    unready: Mapping[int, UnavailableError] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The body of `MODELS`."""
        described = pb.ListModelsResponse(models=[*self.models, *self.pipelines]).SerializeToString()
        more = {
            "number": self.number,
            "places": [[place.number, place.offset, place.layout.to_json()] for place in self.places],
            "failures": [[*key, error.message, error.reason] for key, error in self.failures.items()],
            "unready": [[number, error.message, error.reason] for number, error in self.unready.items()],
        }
        return _LENGTH.pack(len(described)) + described + json.dumps(more).encode()

    @classmethod
    def unpack(cls, body: bytes) -> "Served":
        """Reads what `pack` gave."""
        (length,) = _LENGTH.unpack_from(body)
        described_end = _LENGTH.size + length
        described = pb.ListModelsResponse.FromString(body[_LENGTH.size : described_end]).models
        more = json.loads(body[described_end:])
        places = [
            Place(number, offset, Layout.from_json(layout)) for number, offset, layout in more["places"]
        ]
        return cls(
            more["number"],
            described[: len(places)],
            places,
            described[len(places) :],
            {
                (name, version): BundleError(message, reason=reason)
                for name, version, message, reason in more["failures"]
            },
            {number: UnavailableError(message, reason=reason) for number, message, reason in more["unready"]},
        )
