"""Whose bundles a server serves: a file has the public keys, and is read again when it changes."""

import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from retinue_server.bundle import sealed
from retinue_server.bundle.signature import Keys, public_keys
from retinue_server.errors import StartupError
from retinue_server.followed import Followed, bounded_bytes
from retinue_server.settings import Settings

_FLAG = "--require-signature"
# Some hundred keys.
_MOST_BYTES = 64 * 1024


class SignerFile:
    """The public keys of a file, as it is now.

    Args:
        path: PEM, one key or several.
        clock: Unix time.

    Raises:
        StartupError: It cannot be read, others may change it, or it has something else than such keys.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._followed = Followed("signature_keys", [path], lambda: _read(path), clock)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """That which the settings name; None where bundles need no signature.

        Raises:
            StartupError: As above, or this system cannot keep what was checked from being changed.
        """
        if not settings.require_signature:
            return None
        if not sealed.AVAILABLE:
            raise StartupError(f"{_FLAG} needs Linux, which seals what was checked; leave it out.")
        return cls(Path(settings.require_signature))

    def current(self) -> Keys:
        """The keys that it has now, or had before where that cannot be used, which is logged once."""
        return self._followed.current()


def _read(path: Path) -> Keys:
    content = bounded_bytes(_FLAG, path, _MOST_BYTES)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise StartupError(f"cannot read {_FLAG} '{path}': {error.strerror}.") from error
    # Whoever may change it may have anything served.
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StartupError(f"others may change {_FLAG} '{path}'; `chmod go-w` keeps them from it.")
    return public_keys(content, f"{_FLAG} '{path}'")
