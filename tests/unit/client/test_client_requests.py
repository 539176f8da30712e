"""How the images of one call become requests: how many, how large, and when."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from retinue_client import Client, OverloadedError


def test_images_are_taken_as_requests_are_sent_and_not_all_at_first(ask, server):
    """An iterable may be longer than the memory."""
    taken, ahead = 0, []

    def images():
        nonlocal taken
        for place in range(40):
            taken += 1
            yield f"{place}".encode() if place % 3 else b"bad" if place % 2 else np.zeros((2, 3, 3), np.uint8)

    server.service.on_request = lambda *_: ahead.append(taken)
    assert len(ask("classify", images(), client={"max_request_images": 4})) == 40
    assert ahead[0] <= 12


def test_long_lists_become_several_requests_and_stay_in_order(ask, server):
    images = [f"image {index}".encode() for index in range(75)]
    outcomes = ask("classify", images)
    assert [outcome.best.label for outcome in outcomes] == [image.decode() for image in images]
    assert sorted(len(request.images) for request in server.service.requests) == [11, 32, 32]


def test_requests_are_bounded_in_bytes_too(ask, server):
    sizes = [400, 400, 400, 2000, 10, 10]
    outcomes = ask("classify", [b"x" * size for size in sizes], client={"max_request_bytes": 1000})
    assert len(outcomes) == 6
    sent = [[len(image.encoded) for image in request.images] for request in server.service.requests]
    assert sorted(sent, reverse=True) == sorted([[400, 400], [400], [2000], [10, 10]], reverse=True)


def test_two_requests_of_a_long_list_are_under_way_at_once_and_no_more(ask, server):
    server.service.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, "classify", [b"x"] * 10, client={"max_request_images": 2})
        while server.service.running < 2:
            assert not answer.done()
        server.service.hold.set()
        assert len(answer.result(timeout=30)) == 10
    assert server.service.most_running == 2


def test_a_list_is_read_from_disk_only_as_it_is_sent(server, tmp_path):
    (tmp_path / "first").write_bytes(b"first")
    (tmp_path / "last").write_bytes(b"never read")

    def paths():
        for _ in range(6):
            yield tmp_path / "first"
        assert len(server.service.requests) >= 4
        (tmp_path / "last").write_bytes(b"read late")
        yield tmp_path / "last"

    with Client(server.address, max_request_images=1) as client:
        assert client.classify(paths())[-1].best.label == "read late"


def test_a_failed_request_of_a_long_list_fails_the_call_and_leaves_none_behind(ask, server, failure):
    server.service.failures.append(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL"))
    with pytest.raises(OverloadedError):
        ask("classify", [b"x"] * 10, client={"max_request_images": 1})
    assert len(server.service.requests) <= 3
    assert ask("classify", b"still there").best.label == "still there"


@pytest.mark.parametrize("limit", ["max_request_images", "max_request_bytes"])
def test_limits_below_one_are_refused(limit):
    with pytest.raises(ValueError, match="at least 1"):
        Client("localhost:1", **{limit: 0})
