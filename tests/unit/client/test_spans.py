"""What an application's OpenTelemetry has sent beside a request."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import propagate, trace



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
