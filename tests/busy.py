"""Keeping a server's only engine thread busy, so that a test decides what waits."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from retinue.v1 import vision_service_pb2 as pb

from tests.calls import Connection, flat
from tests.metrics_page import wait_until, waiting_images
from tests.server_process import ServerProcess

SLOW_MODEL = "slow-classifier"


@contextmanager
def engine_held(
    connection: Connection,
    server: ServerProcess,
    waiting: int = 1,
    model: str = SLOW_MODEL,
    priority: pb.Priority.ValueType = pb.PRIORITY_NORMAL,
) -> Iterator[grpc.Future]:
    """Runs one batch of about a second in a server with one instance, and leaves more images waiting behind it.

    Args:
        connection: To the server.
        server: It serves `odd_bundles.slow_classifier` and is idle.
        waiting: How many images of the slow model wait; each batch of them takes another second.
        model: The slow model, where the server has several.
        priority: Of them all: what others ask for waits for all that is of a higher one.

    Yields:
        The call that is answered when all of them have run. It is cancelled afterwards if it still runs.
    """
    batch = connection.get_model(model).execution.max_batch_size
    request = pb.ClassifyRequest(model=model, images=[flat(255)] * (batch + waiting), priority=priority)
    call = connection.vision.Classify.future(request)
    try:
        wait_until(lambda: waiting_images(server.http_url, model) == waiting, "the engine to be busy")
        yield call
    finally:
        call.cancel()
