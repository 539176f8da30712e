"""What every exporter's layout must be able to say."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from retinue_export.adoption import endings
from retinue_export.adoption.facts import Facts, Told
from retinue_export.adoption.heads import Activation, ClassMap, Head, Probabilities
from retinue_export.adoption.reading import Foreign
from retinue_export.adoption.wrapping import Pixels
from retinue_export.class_maps import background_of
from retinue_export.errors import ExportError
from retinue_export.input_options import Task
from retinue_export.parity import Outputs


class Layout(ABC):
    """How one exporter's files are to be understood.

    Args:
        foreign: a file of this layout.
        told: what the command line says.
    """

    name: str
    """The exporter, for people."""
    batch_advice = "export it again with a dynamic batch (torch.onnx.export: dynamic_axes, or dynamic_shapes)"
    """What to do about a file that cannot be made to take any batch size."""

    def __init__(self, foreign: Foreign, told: Told) -> None:
        self.foreign = foreign
        self.told = told

    @abstractmethod
    def learn(self, facts: Facts) -> None:
        """Adds what the file says of its input, labels and task.

        Raises:
            ExportError: what it says cannot be adopted.
        """

    @abstractmethod
    def head(self, facts: Facts, pixels: Pixels, answers: Outputs) -> Head:
        """Finds out what the outputs mean.

        Args:
            facts: all of them.
            pixels: how images are prepared.
            answers: what it answers to one image.

        Raises:
            ExportError: they are none of those that are known, or do not fit the labels.
        """

    @property
    def licence(self) -> str:
        """The licence of the weights, as the file says it."""
        return "unknown"

    def classifier(self, facts: Facts, answers: Outputs, name: str) -> Head:
        """What is put behind an output [N,K].

        Raises:
            ExportError: it has another shape or another number of classes than there are labels, it cannot be seen
                whether it holds logits, or it holds a single one.
        """
        shape = self.shape(answers, name)
        if not shape or any(size != 1 for size in shape[1:]):
            raise self.unknown(shape, "a classifier's [N,classes]")
        facts.check_labels(shape[0])
        if endings.is_probabilities(self.foreign.model.graph, name):
            facts.learn("the graph's end", activation=Activation.NONE)
        elif facts.flag("multi_label"):
            facts.learn("multi label", activation=Activation.SIGMOID)
        elif not _sums_to_one(answers[name]):
            facts.learn("the graph's end", activation=Activation.SOFTMAX)
        facts.require("activation")
        activation = Activation(facts.text("activation") or "")
        if shape[0] == 1 and activation is Activation.SOFTMAX:
            raise ExportError(
                f"{self.foreign.path} answers one logit, of which a softmax makes 1: export it with a sigmoid."
            )
        return Probabilities(name, shape[0], activation)

    def segmenter(self, facts: Facts, pixels: Pixels, answers: Outputs, name: str) -> Head:
        """What is put behind an output [N,K,h,w] of logits, or [N,h,w] of classes.

        Raises:
            ExportError: it has another shape or another number of classes than there are labels.
        """
        shape, labels = self.shape(answers, name), facts.labels()
        decided = np.issubdtype(answers[name].dtype, np.integer)
        if len(shape) not in ((2, 3) if decided else (3,)) or (decided and len(shape) == 3 and shape[0] != 1):
            raise self.unknown(shape, "a segmenter's logits [N,classes,h,w] or classes [N,h,w]")
        if not decided:
            facts.check_labels(shape[0])
            if shape[0] < 2:
                raise ExportError(
                    f"{self.foreign.path} answers one class a pixel: a class map needs at least two."
                )
        own = shape[-2:]
        wanted = own if decided or self.told.native_map else (pixels.spec.height, pixels.spec.width)
        return ClassMap(
            output=name,
            classes=len(labels),
            height=wanted[0],
            width=wanted[1],
            scaled=own != wanted,
            decided=decided,
            background=background_of(labels),
        )

    def shape(self, answers: Outputs, name: str) -> tuple[int, ...]:
        """The shape of one output for one image, without the batch; see `answer`."""
        return self.answer(answers, name).shape[1:]

    def answer(self, answers: Outputs, name: str) -> NDArray[np.generic]:
        """One of the outputs.

        Raises:
            ExportError: there is none of that name with a row for each image.
        """
        if name not in answers:
            has = ", ".join(f"`{key}`" for key in answers) or "none"
            raise ExportError(
                f"{self.foreign.path} has no output `{name}` with a row for each image; such outputs are: {has}."
            )
        return answers[name]

    def check_task(self, task: Task) -> None:
        """Holds what the file answers against what was told.

        Raises:
            ExportError: it is another task.
        """
        if self.told.task not in (None, task):
            raise ExportError(
                f"{self.foreign.path} is there to {task}, and --task says {self.told.task}: leave it out."
            )

    def unknown(self, shape: tuple[int, ...], wanted: str) -> ExportError:
        """What to say of an output of another shape."""
        return ExportError(f"{self.foreign.path} answers [N,{','.join(map(str, shape))}], not {wanted}.")


def _sums_to_one(answer: NDArray[np.generic]) -> bool:
    values = answer.astype(np.float64).reshape(len(answer), -1)
    return bool(values.shape[1] > 1 and (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3))
