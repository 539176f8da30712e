"""How the scripts talk to the tests: JSON in, JSON out, refusals included."""

import json
import sys
from collections.abc import Callable
from typing import Any

from tritonclient.utils import InferenceServerException


def given() -> dict[str, Any]:
    """What the test gives."""
    return json.load(sys.stdin)


def tell(what: Any) -> None:
    """Tells the test."""
    json.dump(what, sys.stdout)


def attempted(call: Callable[[], Any]) -> Any:
    """Makes a call and returns what it does, or how it was refused."""
    try:
        return call()
    except InferenceServerException as error:
        return refusal(error)


def refusal(error: InferenceServerException) -> dict[str, str]:
    """A refusal as tests have it."""
    return {"status": error.status() or "", "message": error.message()}
