"""A batch's way through the engine: decode and resize, run the network, make each caller's result."""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from retinue_server.batching.tickets import Stop
from retinue_server.errors import EngineError, RetinueError
from retinue_server.feeds import Feeds
from retinue_server.postprocess import Postprocess
from retinue_server.results import Answer, DetectOptions, TensorOptions, Work
from retinue_server.vision.resize import Frame, prepare
from retinue_server.vision.spec import InputSpec

_log = structlog.get_logger(__name__)


class Network(Protocol):
    """What runs batches of images."""

    def run(
        self,
        images: npt.NDArray[np.uint8],
        feeds: Mapping[str, npt.NDArray[Any]],
        extra: Collection[str],
        when_stopped: Callable[[Callable[[], None]], None],
        *,
        alone: bool,
    ) -> Mapping[str, npt.NDArray[Any]]:
        """Runs uint8 [N,H,W,C] and what else the network takes; returns arrays of N rows, those of `extra` too.

        What is handed to `when_stopped` is called from another thread when the answers are not wanted any more. What
        runs alone may take all cores.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


class Decoders(Protocol):
    """What decodes the images of a batch at once."""

    def map(
        self,
        decode: Callable[[Work, npt.NDArray[np.uint8]], tuple[Frame | RetinueError, float]],
        items: Sequence[Work],
        rows: npt.NDArray[np.uint8],
    ) -> Iterable[tuple[Frame | RetinueError, float]]:
        """Decodes each into its row, in order; with how long that took, in seconds."""
        ...


def together(first: Work, second: Work) -> bool:
    """Whether two images can be in one batch: a network takes one overlap threshold for all of them."""
    thresholds = DetectOptions | TensorOptions
    if isinstance(first.options, thresholds) and isinstance(second.options, thresholds):
        return first.options.iou_threshold == second.options.iou_threshold
    return True


class Pipeline:
    """A model as a `batching.Backend`.

    On a CPU the calling thread decodes its own batch: no hop, no idle core, warm caches. In front of a GPU a pool of
    decoders fills the batch, while the network runs what the engine's other threads have filled. A GPU's libraries take
    a second or more over each batch size that is new to them, so batches are filled up there to one of the sizes that
    were run when the model was loaded.

    Args:
        network: What runs the batch.
        spec: What images it takes.
        feeds: Makes what it takes beside images.
        postprocess: Makes a result of a row of its outputs.
        batch_sizes: Ascending; the last is the most images of one batch.
        decoders: Pool that decodes in front of a GPU; None where the calling thread does it.
        new_slab: Makes what a batch is decoded into, where the network does not run batches that lie elsewhere.
        name: Of the model, for the log.
    """

    def __init__(
        self,
        network: Network,
        spec: InputSpec,
        feeds: Feeds,
        postprocess: Postprocess,
        *,
        batch_sizes: Sequence[int],
        decoders: Decoders | None = None,
        new_slab: Callable[[], npt.NDArray[np.uint8]] | None = None,
        name: str = "",
    ) -> None:
        self._network = network
        self._spec = spec
        self._feeds = feeds
        self._postprocess = postprocess
        self._batch_sizes = batch_sizes
        self._decoders = decoders
        self._name = name
        self._new_slab = new_slab or self._plain_slab
        # On a CPU the one that was used last, which caches hold; on GPUs each in turn, since it says which GPU runs.
        self._which_slab = -1 if decoders is None else 0
        # Slabs are handed out and back under the interpreter's lock: as many exist as batches ever ran at once.
        self._slabs: list[npt.NDArray[np.uint8]] = []

    @property
    def max_batch_size(self) -> int:
        """The most images of one batch."""
        return self._batch_sizes[-1]

    def run(self, items: Sequence[Work], stop: Stop, *, alone: bool = False) -> list[Answer | RetinueError]:
        """Answers each image, in order; one that cannot be read gets its error and costs the others nothing.

        Raises:
            Stopped: Nobody waits for the answers any more.
        """
        with self._slab() as slab:
            return self._run_in(slab, items, stop, alone)

    def probe(self, stop: Stop) -> None:
        """Runs the network on a black image.

        Raises:
            Exception: It cannot.
        """
        rows = self._rows(1)
        with self._slab() as slab:
            slab[:rows] = 0
            self._network.run(slab[:rows], self._feeds.typical(rows), (), stop.when_requested, alone=False)

    def close(self) -> None:
        """Gives back the slabs and what the network holds."""
        self._slabs.clear()
        self._network.close()

    @contextmanager
    def _slab(self) -> Iterator[npt.NDArray[np.uint8]]:
        """What a batch lies in while it runs."""
        slab = self._slabs.pop(self._which_slab) if self._slabs else self._new_slab()
        try:
            yield slab
        finally:
            self._slabs.append(slab)

    def _run_in(
        self, slab: npt.NDArray[np.uint8], items: Sequence[Work], stop: Stop, alone: bool
    ) -> list[Answer | RetinueError]:
        prepared = self._prepare_all(slab, items)
        batch_size = len(items)
        errors = [frame for frame, _ in prepared if isinstance(frame, RetinueError)]
        if len(errors) == batch_size:
            return list(errors)

        rows = self._rows(batch_size)
        feeds = self._feeds.make(items, (frame for frame, _ in prepared), rows)
        extra = frozenset().union(*(work.options.extra_outputs for work in items))
        stop.check()
        began = time.perf_counter()
        # The row of an unreadable image, or of none, holds what was there before; its output is dropped.
        outputs = self._network.run(slab[:rows], feeds, extra, stop.when_requested, alone=alone)
        inference_seconds = time.perf_counter() - began

        began = time.perf_counter()
        result_of_row = self._postprocess(outputs)
        answers: list[Answer | RetinueError] = []
        for row, (work, (frame, decode_seconds)) in enumerate(zip(items, prepared, strict=True)):
            if isinstance(frame, RetinueError):
                answers.append(frame)
                continue
            try:
                result = result_of_row(row, frame, work.options)
            except Exception as error:
                answers.append(failure_of(error, self._name))
                began = time.perf_counter()
                continue
            done = time.perf_counter()
            answers.append(Answer(result, decode_seconds, inference_seconds, done - began, batch_size))
            began = done
        return answers

    def _prepare_all(
        self, slab: npt.NDArray[np.uint8], items: Sequence[Work]
    ) -> list[tuple[Frame | RetinueError, float]]:
        each = map if self._decoders is None else self._decoders.map
        return list(each(self._prepare, items, slab))

    def _prepare(self, work: Work, row: npt.NDArray[np.uint8]) -> tuple[Frame | RetinueError, float]:
        """Decodes one image into its row; returns how the row maps to the image, and the seconds it took."""
        began = time.perf_counter()
        frame: Frame | RetinueError
        try:
            frame = prepare(work.image, self._spec, row)
        except Exception as error:
            frame = failure_of(error, self._name)
        return frame, time.perf_counter() - began

    def _rows(self, batch_size: int) -> int:
        """How many rows the network runs for so many images."""
        if self._decoders is None:
            return batch_size
        return next(size for size in self._batch_sizes if size >= batch_size)

    def _plain_slab(self) -> npt.NDArray[np.uint8]:
        spec = self._spec
        return np.zeros((self.max_batch_size, spec.height, spec.width, spec.channels), np.uint8)


def failure_of(error: Exception, model: str) -> RetinueError:
    """What the caller of one image is told, so that whatever went wrong with it costs its neighbours nothing.

    The traceback is dropped: its frames would keep the image's pixels until the next garbage collection.

    Args:
        error: What went wrong.
        model: Its name, for the log.
    """
    if isinstance(error, RetinueError) and not isinstance(error, EngineError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    error_id = secrets.token_hex(8)
    if isinstance(error, EngineError):
        _log.error("image_failed", model=model, error_id=error_id, reason=error.message)
        return EngineError(f"{error.message.rstrip('.')}; the server logged it as {error_id}.")
    _log.error("image_failed", model=model, error_id=error_id, exc_info=error)
    return EngineError(f"the server failed on this image; it logged it as {error_id}.")
