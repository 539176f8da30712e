"""Follows the models folder: looks again and again, and tells which models have changed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from retinue_server.bundle.folder import ModelOnDisk
from retinue_server.errors import StartupError

_log = structlog.get_logger(__name__)


async def watch(
    look: Callable[[], Mapping[str, ModelOnDisk]],
    seen: Mapping[str, ModelOnDisk],
    follow: Callable[[str], Awaitable[object]],
    look_seconds: float,
) -> None:
    """Has models followed that lie on the disk otherwise than they did when they were followed last; never ends.

    A change is taken up when two looks in a row have seen it: what is still being copied is not tried again and again,
    and a folder that is replaced is not gone in between.

    Args:
        look: How models lie there now, by name. Blocks.
        seen: How they did. Is kept up by whoever follows one.
        follow: Follows the model of that name.
        look_seconds: How often to look.
    """
    before = dict(seen)
    trouble = ""
    while True:
        await asyncio.sleep(look_seconds)
        try:
            now = dict(await asyncio.to_thread(look))
            for name in sorted({*now, *before, *seen}):
                state = now.get(name)
                if state == before.get(name) and state != seen.get(name):
                    try:
                        await follow(name)
                    except StartupError:
                        raise
                    except Exception:
                        # The others must be followed, whatever has happened to this one; it is tried again.
                        _log.exception("watch_failed", model=name)
        except StartupError as error:
            # What is served is kept: a volume may come back.
            if error.message != trouble:
                _log.error("models_unreadable", reason=error.message)
            trouble = error.message
        except Exception:
            # It must be followed on, whatever has happened to one change.
            _log.exception("watch_failed")
        else:
            before, trouble = now, ""
