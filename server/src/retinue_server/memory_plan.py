"""What a server's memory is for: its models, and what is set aside for requests."""

import math
from functools import partial
from typing import NamedTuple

import structlog

from retinue_server.runtime.memory import (
    Ceiling,
    MemoryLimit,
    control_group_limit_bytes,
    process_limit,
)
from retinue_server.runtime.providers import Provider
from retinue_server.settings import Settings
from retinue_server.vision.room import ROOM

_log = structlog.get_logger(__name__)

# As grpc's, as the parsed message's and as the images'.
_COPIES_OF_A_REQUEST = 3
# Of a limit, half for the bytes of requests and half for decoding them.
_SHARE_OF_A_LIMIT = 4
_LEAST_BYTES = 1024
# What comes between two looks at the memory must have room, too.
_NEARLY_ALL = 0.9
_LEAST_CEILING = 0.75


class MemoryPlan(NamedTuple):
    """What may take how much.

    Attributes:
        settings: With limits of requests that fit the memory there may be.
        limit: Of the models.
        ceiling: What this process may have.
    """

    settings: Settings
    limit: MemoryLimit
    ceiling: Ceiling


def plan(settings: Settings, provider: Provider) -> MemoryPlan:
    """What there is for requests and for models; the decoding of this process is bounded by it from now on.

    In front of a GPU it is the device's memory that models are limited in, and the process's that requests are.
    """
    granted_bytes = control_group_limit_bytes()
    told = 0 if provider.on_gpu else settings.memory_limit
    limit_bytes = told or granted_bytes
    fitting = within(settings, limit_bytes)
    ROOM.max_bytes = fitting.max_decoded_bytes_in_flight
    if provider.on_gpu:
        limit = MemoryLimit(settings.memory_limit, "--memory-limit allows", on_device=True)
        most_bytes = _NEARLY_ALL * granted_bytes or math.inf
        return MemoryPlan(fitting, limit, Ceiling(lambda: most_bytes))
    limit = process_limit(
        settings.memory_limit, processes=1 + settings.workers, requests_bytes=room_bytes(fitting)
    )
    return MemoryPlan(fitting, limit, Ceiling(partial(ceiling_bytes, limit)))


def ceiling_bytes(limit: MemoryLimit) -> float:
    """What a process may have while it reads requests, without what comes between two looks at it.

    Args:
        limit: Of its models, and what is planned beside them.
    """
    if not limit.limit_bytes:
        return _NEARLY_ALL * limit.taken_bytes
    # A model that is being loaded takes more for a moment, which is no reason to refuse what others send.
    least_bytes = _LEAST_CEILING * limit.limit_bytes
    return max(_NEARLY_ALL * min(limit.taken_bytes, limit.limit_bytes), least_bytes)


def within(settings: Settings, limit_bytes: int) -> Settings:
    """Settings whose requests leave the models three quarters of the memory that there may be.

    What somebody has set stays as it is.

    Args:
        settings: As they were resolved.
        limit_bytes: Most memory of all processes; 0 for no limit.
    """
    if not limit_bytes:
        return settings
    half_bytes = limit_bytes // _SHARE_OF_A_LIMIT // 2
    processes = settings.workers or 1
    lowered: dict[str, int] = {}

    def lower(name: str, most: int) -> int:
        told = int(getattr(settings, name))
        if name in settings.model_fields_set or told <= most:
            return told
        lowered[name] = max(most, _LEAST_BYTES)
        return lowered[name]

    lower("max_decoded_bytes_in_flight", half_bytes // processes)
    in_flight = lower("max_bytes_in_flight", half_bytes // _COPIES_OF_A_REQUEST)
    # A lone call may hold more than all together.
    for name in ("max_request_bytes", "max_reply_bytes"):
        lower(name, in_flight // processes)
    if lowered:
        _log.info("limits_lowered", limit_bytes=limit_bytes, **lowered)
    return settings.model_copy(update=lowered)


def room_bytes(settings: Settings) -> int:
    """The most memory that requests take, while they are read, decoded and answered."""
    return (
        _COPIES_OF_A_REQUEST * settings.max_bytes_in_flight
        + (settings.workers or 1) * settings.max_decoded_bytes_in_flight
    )
