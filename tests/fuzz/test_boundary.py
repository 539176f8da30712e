"""Whatever a server is sent over gRPC and HTTP, it says what is wrong with it, and goes on."""

from tests.fuzz.boundary import bombard
from tests.server_process import ServerProcess

# A share of those of `make fuzz`.
_REQUESTS = 500


def test_random_requests_have_proper_statuses_and_leave_the_server_as_it_was(
    colour_server: ServerProcess,
) -> None:
    statuses = bombard(colour_server, _REQUESTS, seed=1)
    # They reach far: some are answered, and others are refused at several places.
    assert statuses["gRPC"]["OK"] > _REQUESTS / 20
    assert statuses["HTTP"]["200"] > _REQUESTS / 100
    assert {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"} <= statuses["gRPC"].keys()
