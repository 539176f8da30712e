"""A model without a manifest as a `batching.Backend`: rows of tensors, or whole requests."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from retinue_server.batching.tickets import Stop
from retinue_server.errors import DeviceError, EngineError, OverloadedError, RetinueError
from retinue_server.pipeline import failure_of
from retinue_server.results import Answer, TensorRows, TensorWork
from retinue_server.tensors import Array


class TensorNetwork(Protocol):
    """What runs tensors."""

    def run(
        self, tensors: Mapping[str, Array], when_stopped: Callable[[Callable[[], None]], None]
    ) -> Mapping[str, Array]:
        """Runs them; returns all outputs by name.

        What is handed to `when_stopped` is called from another thread when these are not wanted any more.
        """
        ...

    def probe(self, when_stopped: Callable[[Callable[[], None]], None]) -> None:
        """Runs what was made up when the model was loaded, where it ran that."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


def together(first: TensorWork, second: TensorWork) -> bool:
    """Whether two rows can be in one batch: those of one shape can."""
    if first.row is None or second.row is None:
        return False
    return first.tensors is second.tensors or all(
        array.shape[1:] == second.tensors[name].shape[1:] for name, array in first.tensors.items()
    )


class TensorBackend:
    """Runs rows of tensors together, as many as are worth it, or whole requests one by one.

    Args:
        network: What runs them.
        max_batch_size: The most rows of one batch.
        name: Of the model, for the log.
    """

    def __init__(self, network: TensorNetwork, max_batch_size: int, name: str = "") -> None:
        self._network = network
        self._name = name
        self._max_batch_size = max_batch_size

    @property
    def max_batch_size(self) -> int:
        """The most rows of one batch."""
        return self._max_batch_size

    def run(
        self, items: Sequence[TensorWork], stop: Stop, *, alone: bool = False
    ) -> list[Answer | RetinueError]:
        """Answers each row, in order, or one whole request.

        A network may fail on what one row holds, as on an index out of its range: then each is run by itself.

        Raises:
            Stopped: Nobody waits for the answers any more.
        """
        stop.check()
        try:
            return self._run(items, stop)
        except DeviceError:
            raise
        except Exception as error:
            stop.check()
            # Where there is no room for all, to ask for each would only keep others waiting.
            if len(items) == 1 or isinstance(error, OverloadedError):
                return [failure_of(error, self._name)] * len(items)
        return [self.run([item], stop)[0] for item in items]

    def probe(self, stop: Stop) -> None:
        """Runs what it ran when it was loaded.

        Raises:
            Exception: The network does not run any more.
        """
        self._network.probe(stop.when_requested)

    def _run(self, items: Sequence[TensorWork], stop: Stop) -> list[Answer | RetinueError]:
        began = time.perf_counter()
        tensors = _gathered(items)
        gathered = time.perf_counter()
        outputs = self._network.run(tensors, stop.when_requested)
        ran = time.perf_counter()
        answers: list[Answer | RetinueError] = []
        for row, item in enumerate(items):
            if item.row is None:
                arrays = dict(outputs)
            elif any(len(values) != len(items) for values in outputs.values()):
                answers.append(
                    EngineError(
                        f"the network gave another number of rows than the {len(items)} that it took."
                    )
                )
                continue
            else:
                # Copied, since a row would keep the whole batch.
                arrays = {name: np.array(values[row]) for name, values in outputs.items()}
            spent = (gathered - began) / len(items)
            answers.append(Answer(TensorRows(arrays), spent, ran - gathered, 0.0, len(items)))
        return answers

    def close(self) -> None:
        """Gives back what the network holds."""
        self._network.close()


def _gathered(items: Sequence[TensorWork]) -> Mapping[str, Array]:
    """The tensors of a batch."""
    first = items[0]
    if first.row is None:
        return first.tensors
    rows = [item.row for item in items]
    if all(item.tensors is first.tensors for item in items) and rows == list(
        range(first.row, first.row + len(items))
    ):
        # As they came: nothing is copied.
        return {name: array[first.row : first.row + len(items)] for name, array in first.tensors.items()}
    return {name: np.stack([item.tensors[name][item.row] for item in items]) for name in first.tensors}
