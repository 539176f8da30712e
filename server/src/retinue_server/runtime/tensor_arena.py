"""The memory that networks without a manifest work in, all together: a run that wants more than there is fails."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import onnxruntime as ort

from retinue_server.errors import InvalidRequestError, OverloadedError
from retinue_server.runtime.options import session_options
from retinue_server.runtime.providers import IDENTITY_MODEL

Result = TypeVar("Result")

# How long a run waits for others to end, and others for one that has the arena for itself.
_PATIENCE_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_SAME_AS_REQUESTED = 1
# Source: ONNX Runtime's core/framework/bfc_arena.cc; the last is the C++ library's.
_NO_MEMORY = re.compile(r"bfc_arena\.cc|Failed to allocate memory|std::bad_alloc")
_REQUESTED = re.compile(r"smaller than requested bytes of (\d+)")


class TensorArena:
    """One arena of ONNX Runtime's on the CPU for several sessions, with a limit.

    What such networks take may hang on the values that they are given, so nobody knows it before they run. One that
    finds the arena too full, or in pieces too small, runs once more when no other does. So whoever takes much delays
    others, and fails none.

    A process has one at a time: sessions that are opened later take part in the latest.

    Args:
        limit_bytes: The most that it takes. Weights are not in it, nor the contents of strings.
        patience_seconds: How long a run waits for others.

    Attributes:
        limit_bytes: As given.
    """

    def __init__(self, limit_bytes: int, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self.limit_bytes = limit_bytes
        self._patience_seconds = patience_seconds
        self._running = 0
        self._alone = False
        self._changed = threading.Condition()
        memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        # Doubling would take the limit up with what no run has asked for.
        how = {"max_mem": limit_bytes, "arena_extend_strategy": _SAME_AS_REQUESTED}
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(how))
        self._identity = ort.InferenceSession(
            IDENTITY_MODEL, self.session_options(1), providers=["CPUExecutionProvider"]
        )

    def session_options(self, threads: int) -> ort.SessionOptions:
        """How sessions run that take part.

        Args:
            threads: Of one run.
        """
        options = session_options(threads)
        # A plan of the first run would be set aside in all later ones, whatever they take by themselves.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        return options

    def run(self, run: Callable[[], Result]) -> Result:
        """Runs a network, once more by itself where there was no memory for it beside others.

        Args:
            run: Does so. What it raises is raised.

        Raises:
            InvalidRequestError: It wants more than all there is.
            OverloadedError: Others run for long.
        """
        try:
            with self._beside_others():
                return run()
        except Exception as error:
            if not _is_no_memory(error):
                raise
            if _requested_bytes(error) > self.limit_bytes:
                raise self._too_large() from None
        try:
            with self._by_itself():
                self._shrink()
                return run()
        except Exception as error:
            if not _is_no_memory(error):
                raise
        raise self._too_large()

    def give_back(self) -> None:
        """Gives back what nobody needs now, unless others fill it all."""
        try:
            self._shrink()
        except Exception as error:
            if not _is_no_memory(error):
                raise

    @contextmanager
    def _beside_others(self) -> Iterator[None]:
        with self._changed:
            self._wait(lambda: not self._alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def _by_itself(self) -> Iterator[None]:
        with self._changed:
            self._wait(lambda: not self._alone)
            # From here on the next ones wait.
            self._alone = True
        try:
            with self._changed:
                self._wait(lambda: not self._running)
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    def _wait(self, is_so: Callable[[], bool]) -> None:
        # An engine's thread waits here, which other models want, too.
        if not self._changed.wait_for(is_so, self._patience_seconds):
            raise OverloadedError(
                "the network finds no memory beside what runs now; retry later.",
                retry_after_seconds=_RETRY_SECONDS,
                reason="NETWORK_MEMORY",
            )

    def _shrink(self) -> None:
        """Gives back what no run needs: pieces that are too small for the next one would fill the arena."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._identity.run(None, {"x": np.zeros(1, np.float32)}, options)

    def _too_large(self) -> InvalidRequestError:
        return InvalidRequestError(
            "on these tensors the network takes more memory than the "
            f"{self.limit_bytes / 1e6:,.0f} MB that --tensor-memory-limit allows; send smaller ones or fewer rows, or "
            "raise it.",
            reason="NETWORK_MEMORY",
        )


def _is_no_memory(error: Exception) -> bool:
    return _NO_MEMORY.search(str(error)) is not None


def _requested_bytes(error: Exception) -> int:
    """What was asked for at once; 0 where ONNX Runtime does not say."""
    found = _REQUESTED.search(str(error))
    return int(found[1]) if found else 0
