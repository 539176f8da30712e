"""What the server does, in its own terms: images and options in, outcomes out. `rpc` translates to and from it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.errors import (
    EngineError,
    ImageError,
    RetinueError,
    UnavailableError,
)
from retinue_server.metrics import Metrics
from retinue_server.results import Answer, TensorWork, Work
from retinue_server.shadow import Copy, Shadow
from retinue_server.tracing.origin import current_origin
from retinue_server.tracing.tracer import CallTrace, Stages


class VisionService:
    """Answers requests with the models of a catalog.

    Args:
        engine: Runs the models.
        metrics: Where images are counted.
        cutter: Whose threads cut out what was found in images; None for the engine's own.
        could_be_loaded: What catalogs are told of models that they have not.

    Attributes:
        cutter: As given, or the engine.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        cutter: Engine | None = None,
        could_be_loaded: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self._engine = engine
        self.cutter = cutter or engine
        self._metrics = metrics
        self._could_be_loaded = could_be_loaded
        self._catalog: Catalog | None = None
        self._draining = False
        self._shadow = Shadow(metrics)
        self._reachable: Callable[[], bool] = lambda: True

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        catalog = self._catalog
        if catalog is None or self._draining:
            return False
        return catalog.works and self.alive and self._reachable()

    @property
    def is_open(self) -> bool:
        """Whether it has models and is not stopping."""
        return self._catalog is not None and not self._draining

    @property
    def alive(self) -> bool:
        """Whether waiting may help where `ready` is off; if not, the process must be started anew."""
        return self._engine.healthy and self.cutter.healthy and not self._engine.device_lost

    @property
    def catalog(self) -> Catalog:
        """The models.

        Raises:
            UnavailableError: They are still being loaded, or the server is stopping.
        """
        if self._draining:
            raise UnavailableError("the server is shutting down; retry on another one.", reason="DRAINING")
        if self._catalog is None:
            raise UnavailableError("the server is loading its models; retry shortly.", reason="LOADING")
        return self._catalog

    def open(self, catalog: Catalog, reachable: Callable[[], bool] = lambda: True) -> None:
        """Begins to take requests.

        Args:
            catalog: The models.
            reachable: Whether there is anybody who brings requests.
        """
        self.replace(catalog)
        self._reachable = reachable

    def replace(self, catalog: Catalog) -> None:
        """Finds models in another catalog from now on; calls that have found theirs keep it."""
        catalog.could_be_loaded = self._could_be_loaded
        self._catalog = catalog
        self._shadow.keep(catalog.models)

    def drain(self) -> None:
        """Turns readiness off; what arrives from now on is refused, what is in flight is still answered."""
        self._draining = True
        self._shadow.close()

    async def answer(
        self,
        model: ServedModel,
        works: Sequence[Work | TensorWork | ImageError],
        *,
        caller: str,
        priority: Priority,
        deadline: float | None,
        copy: Copy | None = None,
    ) -> list[Outcome[Answer]]:
        """Answers each image, in order.

        Args:
            model: Whose answer is wanted.
            works: Images, or why one could not be opened.
            caller: Whose they are: callers take turns.
            priority: When their turn is.
            deadline: When the answer is worthless, on time.monotonic; None for never.
            copy: How the request is made again, should a shadow want it.

        Raises:
            OverloadedError: There is no room, or the deadline cannot be met.
            DeadlineExpiredError: The deadline passed in the queue.
            UnavailableError: The engine stopped meanwhile.
            EngineError: The engine failed on every image.
        """
        opened = [work for work in works if not isinstance(work, ImageError)]
        outcomes: list[Outcome[Answer]] = []
        origin = current_origin.get()
        trace = origin.trace if origin is not None else None
        began = time.monotonic() if trace is not None else 0.0
        self._metrics.receive_images(model.name, model.version, priority, len(works))
        if opened:
            try:
                outcomes = await model.batcher.submit(
                    opened, caller=caller, priority=priority, deadline=deadline
                )
            except BaseException as error:
                self._metrics.count_lost_images(
                    model.name, model.version, priority, _code_of(error), len(works)
                )
                raise
        if trace is not None:
            _trace(trace, model, began, outcomes)
        if len(opened) < len(works):
            ran = iter(outcomes)
            outcomes = [
                next(ran) if not isinstance(work, ImageError) else Outcome(work, None) for work in works
            ]
        trace_id = trace.context.trace_name if trace is not None else ""
        lost = _what_lost(outcomes)
        self._metrics.count_images(model, outcomes, priority, lost, trace_id)
        if lost is not None:
            raise lost
        if copy is not None and self._catalog is not None and not self._draining:
            candidate = self._catalog.shadow(model)
            if candidate is not None:
                self._shadow.send(model, candidate, copy, outcomes)
        return outcomes


def _trace(trace: CallTrace, model: ServedModel, began: float, outcomes: Sequence[Outcome[Answer]]) -> None:
    """Takes down where the time of images went."""
    images = [
        Stages(
            one.queue_seconds or 0.0,
            one.value.decode_seconds,
            one.value.inference_seconds,
            one.value.postprocess_seconds,
            one.value.batch_size,
        )
        for one in outcomes
        if isinstance(one.value, Answer)
    ]
    trace.ran(model.name, model.version, began, images)


def raise_if_lost(outcomes: Sequence[Outcome[Any]]) -> None:
    """Raises what failed the request as a whole: an error of no single image, or the engine's on all of them.

    Raises:
        RetinueError: There is such an error.
    """
    lost = _what_lost(outcomes)
    if lost is not None:
        raise lost


def _what_lost(outcomes: Sequence[Outcome[Any]]) -> RetinueError | None:
    """What failed the request as a whole; where a model failed on images, the log is to name the call."""
    errors = [outcome.value for outcome in outcomes if isinstance(outcome.value, RetinueError)]
    if not errors:
        return None
    origin = current_origin.get()
    engine_errors = [error for error in errors if isinstance(error, EngineError)]
    if origin is not None:
        for failure in engine_errors:
            origin.note_failure(failure.message)
    for error in errors:
        if not isinstance(error, ImageError | EngineError):
            return error
    return engine_errors[0] if len(engine_errors) == len(outcomes) else None


def _code_of(error: BaseException) -> str:
    """The gRPC status of a request that ends so."""
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    return error.code.name if isinstance(error, RetinueError) else "INTERNAL"
