"""The engine of a process of its own looks at requests before it takes them apart, as a server does."""

import asyncio
from types import SimpleNamespace

import pytest
from retinue.v1 import vision_service_pb2 as pb

from retinue_server.errors import InvalidRequestError
from retinue_server.local import LocalEngine


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"images": [{"encoded": b"x"}] * 3}, "TOO_MANY_IMAGES"),
        ({"images": [{"regions": [{}] * 16385}]}, "TOO_MANY_REGIONS"),
        ({"classes": ["x"] * 4097}, "TOO_MANY_FIELDS"),
    ],
)
def test_a_request_that_would_take_many_times_its_size_is_refused(fields, reason):
    engine = LocalEngine()
    engine._core = SimpleNamespace(settings=SimpleNamespace(max_images_per_request=2))
    call = SimpleNamespace(holding=SimpleNamespace(hold_request=lambda size_bytes: None))
    request = pb.DetectRequest(**fields).SerializeToString()
    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(engine._work("Detect", request, None, call))
    assert caught.value.reason == reason
