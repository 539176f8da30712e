"""Who may make which call, and how many of them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from retinue_server.errors import OverloadedError, PermissionDeniedError, UnauthenticatedError
from retinue_server.tokens import Scope, Token, TokenFile

_INFER, _MANAGE, _OBSERVE = Scope.INFER, Scope.MANAGE, Scope.OBSERVE
_EITHER = (_INFER, _OBSERVE)
_HEADER = "authorization"
_SCHEME = "bearer"
_RETRY_SECONDS = 0.1

# Each method with the scopes of which one is enough.
SCOPES: dict[str, tuple[Scope, ...]] = {
    "Classify": (_INFER,),
    "Detect": (_INFER,),
    "Segment": (_INFER,),
    "ModelInfer": (_INFER,),
    "ModelStreamInfer": (_INFER,),
    "GetModel": _EITHER,
    "ListModels": _EITHER,
    "ModelConfig": _EITHER,
    "ModelMetadata": _EITHER,
    "ModelReady": _EITHER,
    "ServerLive": _EITHER,
    "ServerMetadata": _EITHER,
    "ServerReady": _EITHER,
    "ModelStatistics": (_OBSERVE,),
    "LogSettings": (_OBSERVE,),
    "TraceSetting": (_OBSERVE,),
    "ServerReflectionInfo": (_OBSERVE,),
    "/": (_OBSERVE,),
    "/metrics": (_OBSERVE,),
    "RepositoryIndex": (_OBSERVE, _MANAGE),
    "CudaSharedMemoryStatus": (_OBSERVE, _MANAGE),
    "SystemSharedMemoryStatus": (_OBSERVE, _MANAGE),
    "RepositoryModelLoad": (_MANAGE,),
    "RepositoryModelUnload": (_MANAGE,),
    "CudaSharedMemoryRegister": (_MANAGE,),
    "CudaSharedMemoryUnregister": (_MANAGE,),
    "SystemSharedMemoryRegister": (_MANAGE,),
    "SystemSharedMemoryUnregister": (_MANAGE,),
}


@dataclass(slots=True)
class _Use:
    """What of its limits a name has left.

    Attributes:
        level: Requests that it may make at once.
        filled: When that was so.
        running: Requests that are being answered.
    """

    level: float
    filled: float
    running: int = 0


class Access:
    """Holds callers against the tokens of a server.

    Args:
        tokens: Them; None lets everybody do everything.
        among: How many processes share the limits of a token, of which this is one; 0 has others hold them.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, tokens: TokenFile | None, among: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tokens = tokens
        self._among = among
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @property
    def guarded(self) -> bool:
        """Whether callers need a token."""
        return self._tokens is not None

    def identify(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Token | None:
        """The token of a call; None where none is needed.

        Args:
            method: The name of the RPC, or the path of a page; of others any token will do.
            metadata: What came beside the call, names in lower case.

        Raises:
            UnauthenticatedError: There is none, or none that is known; that says no more, lest it help to guess.
            PermissionDeniedError: It is for something else.
        """
        if self._tokens is None:
            return None
        # Of several, one before this server may have checked another than this server would.
        given = [value for name, value in metadata if name == _HEADER]
        value = given[0] if len(given) == 1 and isinstance(given[0], str) else ""
        scheme, _, secret = value.partition(" ")
        token = self._tokens.find(secret.strip()) if scheme.lower() == _SCHEME else None
        if token is None:
            raise UnauthenticatedError(
                "the call needs a token that this server knows, in the header 'authorization: Bearer TOKEN'."
            )
        needed = SCOPES.get(method, tuple(Scope))
        if token.scopes.isdisjoint(needed):
            scopes = " or ".join(f"'{scope}'" for scope in needed)
            raise PermissionDeniedError(
                f"the token of '{token.name}' has not the scope {scopes}, which {method} needs.",
                reason="SCOPE_MISSING",
            )
        return token

    def enter(self, token: Token | None) -> None:
        """Counts a call that begins, until `leave`.

        Raises:
            OverloadedError: There are too many with its name.
        """
        if token is None or not self._among:
            return
        use = self._uses.setdefault(token.name, _Use(float("inf"), self._clock()))
        most = token.max_concurrent_requests
        if most is not None and use.running >= -(-most // self._among):
            raise OverloadedError(
                f"as many calls as the token of '{token.name}' may make at once are being answered; retry later.",
                retry_after_seconds=_RETRY_SECONDS,
                reason="TOKEN_TOO_MANY_CALLS",
            )
        if token.requests_per_second is not None:
            self._draw(use, token.name, token.requests_per_second / self._among)
        use.running += 1

    def leave(self, token: Token | None) -> None:
        """A call that had entered has its reply."""
        if token is not None and self._among:
            self._uses[token.name].running -= 1

    def _draw(self, use: _Use, name: str, per_second: float) -> None:
        """Takes one from a bucket that holds what a second brings, at least one."""
        now = self._clock()
        level = min(use.level + (now - use.filled) * per_second, max(per_second, 1.0))
        use.filled = now
        use.level = level
        if level < 1:
            raise OverloadedError(
                f"the token of '{name}' has made as many calls as it may in this time; retry later.",
                retry_after_seconds=(1 - level) / per_second,
                reason="TOKEN_TOO_FAST",
            )
        use.level = level - 1
