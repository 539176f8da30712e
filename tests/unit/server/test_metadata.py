"""What comes beside a request is looked up by its name, whatever else comes."""

from types import SimpleNamespace
from typing import Any

import pytest

from retinue_server.rpc.calls import metadata_of


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (None, None),
        ((), None),
        ((("other", "x"),), None),
        ((("other", "x"), ("user-id", "ann")), "ann"),
        # The first of several, so that what is added on the way changes nothing.
        ((("user-id", "ann"), ("user-id", "bob")), "ann"),
        ((("user-id", b"ann"),), None),
    ],
)
def test_an_entry_is_found_by_its_name(entries: Any, expected: str | None) -> None:
    context: Any = SimpleNamespace(invocation_metadata=lambda: entries)
    assert metadata_of(context)("user-id") == expected
