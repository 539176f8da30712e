"""Pipelines: models that run one after another as one, found anew among those that are served whenever these change.

So a pipeline is served while its steps are and fit together, whatever comes and goes, and a call that has found one has
found all of its steps and holds them until it is answered.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from retinue.v1 import manifest_pb2 as pb

from retinue_server.batching.queue import Queue
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.bundle.manifest import MANIFEST_FILE
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import TASKS, Catalog, Leases, ServedModel
from retinue_server.errors import BundleError, RetinueError, UnavailableError
from retinue_server.interface import Interface
from retinue_server.results import Answer, Task, Work
from retinue_server.runtime.memory import MemoryUse
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.session import Threads
from retinue_server.tensor_steps import Step, TensorSteps, given
from retinue_server.tensors import TensorSpec

_log = structlog.get_logger(__name__)

_NAMES_IN_MESSAGES = 10
_NOT_RUN = Profile((1,), (0.01,), lone_seconds=0.0)


class Declaration:
    """The queue of a pipeline that was read and whose steps are not known: nobody finds it."""

    refusal: UnavailableError | None = None

    def __len__(self) -> int:
        """Nothing waits."""
        return 0

    def check_room(self, count: int, *, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        """Is never asked."""
        raise AssertionError("a pipeline without steps was found")

    async def submit(
        self, items: Sequence[Any], *, caller: Hashable, priority: Priority, deadline: float | None
    ) -> list[Outcome[Any]]:
        """Is never asked."""
        raise AssertionError("a pipeline without steps was found")


class DetectorQueue:
    """The detector's queue, seen as that of a pipeline; what waits is counted there.

    Args:
        parts: The queues of the pipeline's models, the detector's first.
    """

    def __init__(self, parts: Sequence[Queue]) -> None:
        self._detector = parts[0]
        self._parts = parts

    @property
    def refusal(self) -> UnavailableError | None:
        """Of the first of its models that takes nothing."""
        return next((part.refusal for part in self._parts if part.refusal is not None), None)

    def __len__(self) -> int:
        """Nothing waits here."""
        return 0

    def check_room(self, count: int, *, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        """As the detector's."""
        self._detector.check_room(count, caller=caller, priority=priority, deadline=deadline)

    async def submit(
        self, items: Sequence[Work], *, caller: Hashable, priority: Priority, deadline: float | None
    ) -> list[Outcome[Answer]]:
        """As the detector's."""
        return await self._detector.submit(items, caller=caller, priority=priority, deadline=deadline)


class JointLeases(Leases):
    """Calls that hold several models at once.

    Args:
        parts: The models' leases.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Leases]) -> None:
        super().__init__()
        self._parts = parts

    def take(self) -> None:
        """Counts one more call of each."""
        super().take()
        for part in self._parts:
            part.take()

    def give_back(self) -> None:
        """Counts one call less of each."""
        super().give_back()
        for part in self._parts:
            part.give_back()


def declared(bundle: BundleFolder, manifest: pb.ModelManifest) -> ServedModel:
    """A pipeline as its manifest declares it; `resolved` makes one of it that requests may find."""
    return ServedModel(
        name=bundle.name,
        version=bundle.version,
        task=TASKS[manifest.task],
        manifest=manifest,
        class_ids={},
        interface=Interface({}, {}),
        batcher=Declaration(),
        threads=Threads(1, 1),
        profile=_NOT_RUN,
        memory=MemoryUse(0),
    )


def resolved(loaded: Catalog, before: Catalog) -> Catalog:
    """What requests may find: the models that were loaded, and the pipelines whose steps are among them.

    Args:
        loaded: Models, declared pipelines, and what could not be loaded.
        before: What requests found until now.
    """
    pipelines = [model for model in loaded.models if model.manifest.HasField("pipeline")]
    if not pipelines:
        return loaded
    models = [model for model in loaded.models if not model.manifest.HasField("pipeline")]
    parts, failures = loaded.with_models(models, loaded.failures), dict(loaded.failures)
    for pipeline in pipelines:
        key = pipeline.name, pipeline.version
        told = {"model": pipeline.name, "version": pipeline.version}
        try:
            models.append(_resolved(pipeline, parts))
            if not before.serves(*key):
                _log.info(
                    "pipeline_served", **told, steps=[one.model for one in pipeline.manifest.pipeline.steps]
                )
        except BundleError as error:
            failures[key] = error
            earlier = before.failures.get(key)
            if earlier is None or earlier.message != error.message:
                _log.error("model_refused", **told, reason=error.message)
    return loaded.with_models(models, failures)


def detecting(
    name: str, version: int, manifest: pb.ModelManifest, parts: Catalog, own: Leases
) -> ServedModel:
    """A detecting pipeline that another process has resolved, with the models of this one.

    Args:
        name: Its name.
        version: Its version.
        manifest: As `resolved` has made it, which says what the detector's says, too.
        parts: Has the models.
        own: The calls that hold it.
    """
    models = [_part(number, step, parts) for number, step in enumerate(manifest.pipeline.steps)]
    leases = JointLeases([own, *dict.fromkeys(model.leases for model in models)])
    return _renamed(models, name, version, manifest, leases)


def _resolved(pipeline: ServedModel, parts: Catalog) -> ServedModel:
    """A pipeline with its steps.

    Raises:
        BundleError: One is not served, or does not fit.
    """
    steps = pipeline.manifest.pipeline.steps
    models = [_part(number, step, parts) for number, step in enumerate(steps)]
    leases = JointLeases([pipeline.leases, *dict.fromkeys(model.leases for model in models)])
    if pipeline.task is Task.DETECT:
        return _detecting(pipeline, models, leases)
    _check_batched(models)
    joined = [Step(models[0], {name: name for name in models[0].interface.inputs})]
    for number in range(1, len(models)):
        joined.append(Step(models[number], _sources(number, steps[number].inputs, models)))
    # Only pixels have a size that is known before they are read.
    inputs = {name: replace(spec, encoded=False) for name, spec in models[0].interface.inputs.items()}
    return replace(
        pipeline,
        interface=Interface(inputs, given(models[-1]), models[0].interface.batched),
        batcher=TensorSteps(joined),
        threads=models[0].threads,
        profile=models[0].profile,
        leases=leases,
    )


def _part(number: int, step: pb.PipelineStep, parts: Catalog) -> ServedModel:
    try:
        return parts.get(step.model, step.version)
    except RetinueError as error:
        raise _unfit(f"{number}].model", f"is '{step.model}': {error.message}") from error


def _detecting(pipeline: ServedModel, models: Sequence[ServedModel], leases: JointLeases) -> ServedModel:
    for number, (model, task) in enumerate(zip(models, (Task.DETECT, Task.CLASSIFY), strict=True)):
        if model.task is not task:
            raise _unfit(f"{number}].model", f"is '{model.name}', which serves {model.task}, not {task}.")
    manifest = pb.ModelManifest()
    manifest.CopyFrom(models[0].manifest)
    manifest.MergeFrom(pipeline.manifest)
    return _renamed(models, pipeline.name, pipeline.version, manifest, leases)


def _renamed(
    models: Sequence[ServedModel], name: str, version: int, manifest: pb.ModelManifest, leases: JointLeases
) -> ServedModel:
    return replace(
        models[0],
        name=name,
        version=version,
        manifest=manifest,
        batcher=DetectorQueue([model.batcher for model in models]),
        memory=MemoryUse(0),
        layout=None,
        leases=leases,
    )


def _check_batched(models: Sequence[ServedModel]) -> None:
    for number, model in enumerate(models):
        if model.interface.batched != models[0].interface.batched:
            raise _unfit(
                f"{number}].model",
                f"is '{model.name}': of it and '{models[0].name}', only one has a row for each image.",
            )


def _sources(number: int, named: Mapping[str, str], models: Sequence[ServedModel]) -> dict[str, str]:
    """Where each input of a step comes from.

    Raises:
        BundleError: From nowhere, or from what does not fit.
    """
    model, outputs = models[number], given(models[number - 1])
    for name in named:
        if name not in model.interface.inputs:
            raise _unfit(f"{number}].inputs", f"has '{name}', which model '{model.name}' does not take.")
    sources = {}
    for name, spec in model.interface.inputs.items():
        source = named.get(name, name)
        output = outputs.get(source)
        if output is None:
            if spec.optional and name not in named:
                continue
            raise _unfit(
                f"{number}].inputs",
                f"must say where '{name}', {spec}, comes from: '{models[number - 1].name}' gives no '{source}', but "
                f"{', '.join(list(outputs)[:_NAMES_IN_MESSAGES])}.",
            )
        if not _fits(output, spec):
            raise _unfit(
                f"{number}].inputs",
                f"has '{name}', {spec}, come from '{source}' of '{models[number - 1].name}', which is {output}.",
            )
        sources[name] = source
    if not sources:
        raise _unfit(f"{number}].model", f"is '{model.name}', which takes nothing of the step before it.")
    return sources


def _fits(output: TensorSpec, taken: TensorSpec) -> bool:
    return (
        output.datatype == taken.datatype
        and len(output.shape) == len(taken.shape)
        and all(-1 in sizes or sizes[0] == sizes[1] for sizes in zip(output.shape, taken.shape, strict=True))
    )


def _unfit(field: str, rule: str) -> BundleError:
    return BundleError(f"{MANIFEST_FILE}: field `pipeline.steps[{field}` {rule}", reason="STEP_UNFIT")
