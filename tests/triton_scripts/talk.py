"""How the scripts talk to the tests: JSON in, JSON out, refusals included."""

import importlib
import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tritonclient.utils import InferenceServerException


def given() -> dict[str, Any]:
    """What the test gives."""
    return json.load(sys.stdin)


def library(given: dict[str, Any]) -> ModuleType:
    """The client's library for the protocol that the test names."""
    return importlib.import_module(f"tritonclient.{given['protocol']}")


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
