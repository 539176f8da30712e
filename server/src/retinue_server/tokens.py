"""Bearer tokens: a file has their hashes and what each is for, and is read again when it changes."""

import hashlib
import hmac
import json
import secrets
import stat
import time
import tomllib
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from retinue_server.errors import StartupError
from retinue_server.followed import Followed, bounded_bytes
from retinue_server.settings import Settings

_FLAG = "--tokens"
_MOST_BYTES = 1024 * 1024
# Each is compared with at each call.
_MOST_TOKENS = 1000
_MOST_SHOWN = 128
# 256 bits cannot be guessed, so that their hash needs neither salt nor slowness. Source: NIST SP
# 800-63B (2017), 5.1.2.2, which asks for that below 112 bits.
_RANDOM_BYTES = 32
# By which scanners of published files can tell it.
_PREFIX = "retinue_"
_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Scope(StrEnum):
    """What a token is for."""

    INFER = "infer"
    MANAGE = "manage"
    OBSERVE = "observe"


class Token(BaseModel):
    """One entry of the file.

    Attributes:
        name: Whose it is, in metrics and messages; several entries may have one, and share its limits.
        sha256: Of the token, in hexadecimal digits.
        scopes: What it is for.
        requests_per_second: How many it may make, each message of a stream one; None for any number.
        max_concurrent_requests: How many at once; None for any number.
        expires: When it is worth nothing any more; None for never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=_NAME_PATTERN)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    requests_per_second: Annotated[float, Field(gt=0, le=1e6, strict=True)] | None = None
    max_concurrent_requests: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    expires: AwareDatetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    tokens: list[Token] = Field(max_length=_MOST_TOKENS)


class TokenFile:
    """The tokens of a file, as it is now.

    Args:
        path: JSON where it ends with .json, else TOML.
        clock: Unix time.

    Raises:
        StartupError: It cannot be read, others may read it, or an entry does not hold; the message names the field.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._followed = Followed("tokens", [path], lambda: _read(path), clock)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """That which the settings name; None where nobody needs a token."""
        return cls(Path(settings.tokens)) if settings.tokens else None

    @property
    def tokens(self) -> Sequence[Token]:
        """All of them, also those that have expired."""
        return self._followed.current()

    def find(self, secret: str) -> Token | None:
        """The entry of a token; None for one that is unknown or has expired.

        Takes as long whichever of them it is, and however much of it is right.
        """
        digest = hashlib.sha256(secret.encode()).hexdigest()
        found = None
        for token in self.tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is not None and found.expires is not None and found.expires.timestamp() <= self._clock():
            return None
        return found


def new_token() -> str:
    """A token that nobody has."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def entry(name: str, secret: str, scopes: Sequence[Scope]) -> str:
    """The lines of a TOML file for a token.

    Raises:
        StartupError: That is no name.
    """
    digest = hashlib.sha256(secret.encode()).hexdigest()
    try:
        token = Token(name=name, sha256=digest, scopes=frozenset(scopes))
    except ValidationError as error:
        raise StartupError(
            "a token's name has letters, digits, '.', '_' and '-', at most 64, and begins with a letter or digit."
        ) from error
    shown = ", ".join(f'"{scope}"' for scope in sorted(token.scopes))
    return f'[[tokens]]\nname = "{token.name}"\nsha256 = "{token.sha256}"\nscopes = [{shown}]\n'


def _read(path: Path) -> list[Token]:
    content = bounded_bytes(_FLAG, path, _MOST_BYTES)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise StartupError(f"cannot read {_FLAG} '{path}': {error.strerror}.") from error
    # Whoever may change it may let anybody in. A group may read it, as Kubernetes has it with fsGroup.
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise StartupError(f"others may read or change {_FLAG} '{path}'; `chmod 600` keeps them out.")
    try:
        tokens = _File.model_validate(_parse(path, content)).tokens
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        # Names come from the file: of any length, and with what steers a terminal.
        field = "".join(filter(str.isprintable, place[:_MOST_SHOWN])) or "the file"
        raise StartupError(f"{_FLAG} '{path}': {field}: {problem['msg'].lower()}.") from None
    if len({token.sha256 for token in tokens}) < len(tokens):
        raise StartupError(f"{_FLAG} '{path}': two of the tokens have the same sha256.")
    return tokens


def _parse(path: Path, content: bytes) -> Any:
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        text = content.decode()
        return json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # What stands there may be a token that somebody has mistaken for its hash.
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise StartupError(f"{_FLAG} '{path}' is no valid {kind}{', ' + where if where else ''}.") from None
