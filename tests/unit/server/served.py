"""Served models without a network, for tests of what surrounds them."""

from collections.abc import Sequence
from typing import Any

from retinue.v1 import manifest_pb2 as pb

from retinue_server.catalog import ServedModel, ids_by_label
from retinue_server.interface import Interface
from retinue_server.results import Task
from retinue_server.runtime.memory import MemoryUse
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.session import Threads

_WIRE_TASKS = {
    Task.CLASSIFY: pb.TASK_CLASSIFY,
    Task.DETECT: pb.TASK_DETECT,
    Task.SEGMENT: pb.TASK_SEGMENT,
}


class IdleQueue:
    """A queue in which so many images wait, and that takes more."""

    refusal = None

    def __init__(self, waiting: int = 0) -> None:
        self._waiting = waiting

    def __len__(self) -> int:
        return self._waiting


def served_model(
    name: str,
    version: int = 1,
    task: Task = Task.CLASSIFY,
    batcher: Any = None,
    labels: Sequence[str] = ("red", "green"),
) -> ServedModel:
    """A model of two classes, or those it is given, whose queue is empty unless another is given."""
    manifest = pb.ModelManifest(
        name=name,
        task=_WIRE_TASKS[task],
        labels=labels,
        input=pb.ImageInput(
            height=32,
            width=64,
            resize=pb.ResizeRule(mode=pb.RESIZE_MODE_STRETCH, interpolation=pb.INTERPOLATION_BILINEAR),
        ),
        precision=pb.PRECISION_FP16_WEIGHTS,
    )
    return ServedModel(
        name=name,
        version=version,
        task=task,
        manifest=manifest,
        class_ids=ids_by_label(manifest.labels),
        interface=Interface({}, {}),
        batcher=IdleQueue() if batcher is None else batcher,
        threads=Threads(2, 1),
        profile=Profile((1, 2, 4, 8), (0.01, 0.02, 0.04, 8 / 123.4), lone_seconds=0.009),
        memory=MemoryUse(700, 200, 100),
    )
