"""What a call that must be refused says."""

from collections.abc import Callable

import pytest

from retinue_server.errors import Code, InvalidRequestError


def refusal(reason: str, call: Callable[[], object]) -> str:
    """The message of a call that must be refused for a reason."""
    with pytest.raises(InvalidRequestError) as refused:
        call()
    assert (refused.value.code, refused.value.reason) == (Code.INVALID_ARGUMENT, reason)
    return refused.value.message
