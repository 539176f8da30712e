"""A request in an application with OpenTelemetry: what is sent beside it, and that its span ends."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import propagate, trace
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import AsyncClient, Client, UnavailableError


class _Header:
    """A propagator that names its header as HTTP does, as that of X-Ray."""

    fields = frozenset({"X-Amzn-Trace-Id"})

    def inject(self, carrier: dict[str, str], **_: Any) -> None:
        carrier["X-Amzn-Trace-Id"] = "Root=1-5759e988-bd862e3fe1be46a994272793"


@pytest.fixture
def header() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(_Header())  # type: ignore[arg-type]
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("header")
def test_a_propagators_header_goes_with_a_call_whatever_its_case(ask, server):
    assert trace.get_tracer("application")
    seen = []
    server.service.on_request = lambda _, context: seen.append(dict(context.invocation_metadata()))
    assert ask("classify", b"x").best.label == "x"
    assert seen[0]["x-amzn-trace-id"].startswith("Root=1-")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_the_span_of_a_request_that_is_not_sent_ends(kind, server):
    client: Any = kind(server.address)
    sending = client._transport.prepare("Classify", pb.ClassifyRequest(), 10)
    span = sending.span
    assert span is not None
    ended = []
    span.abandon = lambda: ended.append(True)
    closing = client.close()
    if kind is AsyncClient:
        await closing
    with pytest.raises(UnavailableError, match="closed"):
        client._transport.begin(sending)
    assert ended == [True]
