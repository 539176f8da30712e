"""Threads of runs that have the machine to themselves."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

_MOST_POOLS = 4
_WORTH_A_POOL = 16


class ThreadPools:
    """The few sessions whose runs take all cores, each with a pool of threads of its own.

    ONNX Runtime has either one pool for all sessions, in which no run can be kept to one thread, or one for each. So
    there are only as many at once as models are likely to be asked alone by turns. A model that comes takes the place
    of the least recently used; one that has lost its own gets another only when it is asked for more than a few times.

    Args:
        threads: Of each pool.
        most: How many there may be at once.
    """

    def __init__(self, threads: int, most: int = _MOST_POOLS) -> None:
        self.threads = threads
        self._most = most
        self._sessions: OrderedDict[Hashable, Any] = OrderedDict()
        # How often those that have lost theirs were asked for since.
        self._asked: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def session(self, model: Hashable, create: Callable[[], Any]) -> Any | None:
        """A model's session with a pool; None where others have all of them and it is not worth taking one away.

        Args:
            model: Whose.
            create: Makes it.
        """
        with self._lock:
            if model in self._sessions:
                self._sessions.move_to_end(model)
                return self._sessions[model]
            if len(self._sessions) >= self._most:
                if model in self._asked:
                    self._asked[model] += 1
                    if self._asked[model] < _WORTH_A_POOL:
                        return None
                loser, _ = self._sessions.popitem(last=False)
                self._asked[loser] = 0
            self._asked.pop(model, None)
            self._sessions[model] = session = create()
            return session

    def drop(self, model: Hashable) -> None:
        """Gives back a model's pool."""
        with self._lock:
            self._sessions.pop(model, None)
            self._asked.pop(model, None)
