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
def engine_held(connection: Connection, server: ServerProcess, waiting: int = 1) -> Iterator[grpc.Future]:
    """Runs one batch of about a second in a server with one instance, and leaves more images waiting behind it.

    Args:
        connection: To the server.
        server: It serves `odd_bundles.slow_classifier` and is idle.
        waiting: How many images of the slow model wait; each batch of them takes another second.

    Yields:
        The call that is answered when all of them have run. It is cancelled afterwards if it still runs.
    """
    batch = connection.get_model(SLOW_MODEL).execution.max_batch_size
    request = pb.ClassifyRequest(model=SLOW_MODEL, images=[flat(255)] * (batch + waiting))
    call = connection.vision.Classify.future(request)
    try:
        wait_until(lambda: waiting_images(server.http_url, SLOW_MODEL) == waiting, "the engine to be busy")
        yield call
    finally:
        call.cancel()
