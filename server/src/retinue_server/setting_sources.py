"""Where settings come from beside the flags, and what is said of those that do not hold."""

import difflib
import json
import os
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retinue_server.errors import StartupError

PREFIX = "RETINUE_"
"""Of the environment's variables."""
# A letter or two that are missing or in each other's place.
_ALIKE = 0.8


def toml_string(text: str) -> str:
    """TOML's basic strings are JSON's, but for surrogate pairs and the bare DEL character, which it lacks."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_file(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The settings that a TOML file has.

    Args:
        path: Of the file.
        names: Those that it may have.

    Raises:
        StartupError: It cannot be read, or has others.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise StartupError(f"cannot read the settings file {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"the settings file {path} is not valid TOML: {error}.") from error
    unknown = sorted(values.keys() - set(names))
    if unknown:
        raise StartupError(
            f"the settings file {path} has unknown settings: {', '.join(unknown)}"
            f"{_did_you_mean(unknown[0], names)}."
        )
    return values


def check_environment(names: Collection[str]) -> None:
    """Refuses variables that nothing reads and that are nearly the server's; others may be of other programs.

    Args:
        names: Of all settings.

    Raises:
        StartupError: There is one.
    """
    known = {name.upper() for name in names}
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(PREFIX)
        if name != variable.upper() and name not in known and (nearest := _nearest(name, known)):
            raise StartupError(
                f"the environment has {variable}, which is no setting: the nearest one is {PREFIX}{nearest}; correct "
                "the name, or unset it."
            )


def explain_flags(message: str, names: Collection[str]) -> str:
    """What argparse says of flags, in one sentence.

    Args:
        message: Its own.
        names: Of all settings.
    """
    message = message.removeprefix("error parsing CLI: ")
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown == message:
        return f"{message}; --help lists all flags."
    words = unknown.split()
    flag = next((word for word in words if word.startswith("-")), words[0]).partition("=")[0]
    nearest = _did_you_mean(flag, [f"--{name.replace('_', '-')}" for name in names])
    return f"there is no flag '{flag[:64]}'{nearest}; --help lists all flags."


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = _nearest(name, known)
    return f" (the nearest is {nearest})" if nearest else ""


def _nearest(name: str, known: Iterable[str]) -> str:
    """What is so like a name that it may be meant; empty where nothing is."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)), "")


def explain(error: ValidationError) -> str:
    """Which settings are out of their range, in one sentence."""
    parts = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        flag = f"--{name.replace('_', '-')} (RETINUE_{name.upper()})"
        parts.append(f"{flag} is {problem['input']!r}: {problem['msg'].lower()}")
    return "; ".join(parts) + "."
