"""The bytes of calls that are in memory at once, and when there are too many."""

from retinue_server.errors import OverloadedError

_RETRY_SECONDS = 0.1


class ByteBudget:
    """Bounds the bytes that all calls hold together. Each holds its share through a `Holding`.

    Args:
        max_bytes: A call that wants more than is left is refused, unless no other holds anything.

    Attributes:
        max_bytes: As given.
        held_bytes: What all calls hold now.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def resize(self, before: int, after: int) -> None:
        """Lets a call hold so many bytes instead of those it held before.

        Raises:
            OverloadedError: It wants more than is left.
        """
        others = self.held_bytes - before
        if after > before and others and others + after > self.max_bytes:
            raise OverloadedError(
                f"other calls hold {others} bytes of requests and replies, and the {after} bytes of this one would "
                f"exceed {self.max_bytes}; retry later, send fewer images at once, or ask for smaller masks.",
                retry_after_seconds=_RETRY_SECONDS,
                reason="TOO_MANY_BYTES_IN_FLIGHT",
            )
        self.held_bytes = others + after


class Holding:
    """What one call holds of a budget: its request, what is made of that on the way, and its reply.

    The reply is held as soon as its size is known. The grpc library keeps it and the request until the call has ended,
    which is when the caller has read the reply or left.
    """

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._request_bytes = 0
        self._between_bytes = 0
        self._reply_bytes = 0

    @property
    def request_bytes(self) -> int:
        """What is held for the request."""
        return self._request_bytes

    @property
    def reply_bytes(self) -> int:
        """What is held for the reply."""
        return self._reply_bytes

    def hold_request(self, size: int) -> None:
        """Counts the request.

        Raises:
            OverloadedError: There is no room for it.
        """
        self._resize(size, self._between_bytes, self._reply_bytes)

    def hold_between(self, size: int) -> None:
        """Counts what goes from one model to the next.

        Raises:
            OverloadedError: There is no room for them.
        """
        self._resize(self._request_bytes, size, self._reply_bytes)

    def hold_reply(self, size: int) -> None:
        """Counts the reply: first as large as it is expected to be, then as large as it is.

        Raises:
            OverloadedError: There is no room for it.
        """
        self._resize(self._request_bytes, self._between_bytes, size)

    def release(self) -> None:
        """Gives everything back."""
        self._resize(0, 0, 0)

    def _resize(self, request_bytes: int, between_bytes: int, reply_bytes: int) -> None:
        held = self._request_bytes + self._between_bytes + self._reply_bytes
        self._budget.resize(held, request_bytes + between_bytes + reply_bytes)
        self._request_bytes, self._between_bytes, self._reply_bytes = (
            request_bytes,
            between_bytes,
            reply_bytes,
        )
