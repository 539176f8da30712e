"""Pipelines of tensors: what runs from step to step."""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from retinue_server import inference
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.catalog import ServedModel
from retinue_server.errors import UnavailableError
from retinue_server.inference import Declared, Limits, Wanted
from retinue_server.results import Answer, TensorWork, Work
from retinue_server.settings import MIB
from retinue_server.tensors import Array, TensorSpec, datatype_of

# What one call's tensors may take between two steps.
_MOST_BYTES = 256 * MIB


@dataclass(frozen=True, slots=True)
class Step:
    """A model of a pipeline of tensors.

    Attributes:
        model: Which.
        sources: For each of its inputs, the output of the step before it, or the pipeline's input.
    """

    model: ServedModel
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wires:
    """What a step's tensors are called in its pipeline.

    Attributes:
        inputs: By the step's names.
        outputs: Likewise.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class TensorSteps:
    """Runs tensors through several models' queues; what is between them stays here.

    Args:
        steps: At least two.

    Attributes:
        row_bytes: What a row takes between two steps at most, as far as sizes are known.
        wires: What the tensors of each step are called; between two steps, with the number of that which gives them.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self.wires = [
            _wires(number, step, last=number == len(steps) - 1) for number, step in enumerate(steps)
        ]
        # Of one step at a time, and of the next one's while they are made.
        self.row_bytes = 2 * max(
            sum(inference.row_bytes(spec) for spec in given(step.model).values()) for step in steps[:-1]
        )

    def __len__(self) -> int:
        """Nothing waits here."""
        return 0

    @property
    def refusal(self) -> UnavailableError | None:
        """Of the first step that takes nothing."""
        refusals = (step.model.batcher.refusal for step in self._steps)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def check_room(self, count: int, *, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        """As the first step's queue."""
        first = self._steps[0].model.batcher
        first.check_room(count, caller=caller, priority=priority, deadline=deadline)

    async def submit(
        self, items: Sequence[TensorWork], *, caller: Hashable, priority: Priority, deadline: float | None
    ) -> list[Outcome[Answer]]:
        """Waits for the last step's outcomes, in order.

        Args:
            items: All rows of one request, or the request as a whole.
            caller: As for any queue.
            priority: Likewise.
            deadline: Likewise.

        Raises:
            RetinueError: A step has no answer for one row: then the request has none.
        """
        tensors = items[0].tensors
        outcomes: list[Outcome[Answer]] = []
        for number, step in enumerate(self._steps):
            if number:
                tensors = await asyncio.to_thread(_outputs, self._steps[number - 1].model, outcomes)
            works = await asyncio.to_thread(_works, step, tensors)
            outcomes = await step.model.batcher.submit(
                works, caller=caller, priority=priority, deadline=deadline
            )
        return outcomes


def between_bytes(model: ServedModel, count: int) -> int:
    """What so many rows of a request take between the steps of a pipeline, as far as that is known; else nothing."""
    if not isinstance(model.batcher, TensorSteps):
        return 0
    return count * model.batcher.row_bytes


def wiring(pipeline: ServedModel) -> Sequence[Wires]:
    """What the tensors of the steps of a pipeline are called that run for a request of tensors."""
    if isinstance(pipeline.batcher, TensorSteps):
        return pipeline.batcher.wires
    found = pipeline.interface
    return [Wires({name: name for name in found.inputs}, {name: name for name in found.outputs})]


def is_measured(model: ServedModel) -> bool:
    """Whether its profile is its own: that of a pipeline of tensors is its first step's."""
    return not isinstance(model.batcher, TensorSteps)


def _wires(number: int, step: Step, *, last: bool) -> Wires:
    inputs = {name: f"{number - 1}.{source}" if number else source for name, source in step.sources.items()}
    return Wires(inputs, {name: name if last else f"{number}.{name}" for name in given(step.model)})


def _outputs(model: ServedModel, outcomes: Sequence[Outcome[Answer]]) -> Mapping[str, Array]:
    outputs = inference.outputs(model, outcomes, _wanted(model))
    inference.check_output_bytes(outputs, _MOST_BYTES)
    return outputs


def _works(step: Step, tensors: Mapping[str, Array]) -> Sequence[Work | TensorWork]:
    inputs = {name: tensors[source] for name, source in step.sources.items() if source in tensors}
    # Sizes that the graphs leave open are known only now.
    declared = [Declared(name, datatype_of(array.dtype), array.shape) for name, array in inputs.items()]
    rows = max(len(array) for array in inputs.values()) if step.model.interface.batched else 1
    inference.check_inputs(step.model, declared, rows)
    limits = Limits(max_images=rows, max_image_pixels=1, max_reply_bytes=_MOST_BYTES)
    return inference.works(step.model, inputs, _wanted(step.model), limits)


def _wanted(model: ServedModel) -> Sequence[Wanted]:
    """What a model computes anyway."""
    return [Wanted(name) for name in given(model)]


def given(model: ServedModel) -> dict[str, TensorSpec]:
    """What a model gives in every run, by name."""
    found = model.interface
    return {name: spec for name, spec in found.outputs.items() if name not in found.extra_outputs}
