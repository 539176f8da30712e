"""Work in a thread that is not left alone: who waits for it goes on only when it has ended."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
DoneT = TypeVar("DoneT")


async def in_thread(
    function: Callable[Arguments, DoneT], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> DoneT:
    """Runs it in a thread, and returns when it has ended, also where whoever waits is cancelled meanwhile.

    For what writes: a job that is interrupted must not let others have its folder while a thread still writes there.

    Raises:
        asyncio.CancelledError: That happened, and the function has ended.
    """
    work = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        # What it raised is of no interest any more.
        work.exception()
        raise
