"""What answers the images of a job: a server, several, or an engine in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from retinue_client._errors import ImageError
from retinue_client._models import ModelInfo, Task
from retinue_client._score.rows import Result


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What is asked, and how hard.

    Attributes:
        task: The question.
        options: The question's options, as the client takes them.
        max_in_flight: The most images asked about at once, of each server.
        patience_seconds: How long to go on trying while no request at all is answered.
    """

    task: Task
    options: dict[str, Any]
    max_in_flight: int = 1024
    patience_seconds: float = 120.0


class Scorer(Protocol):
    """Answers images, many at once, whatever it takes. Its methods belong to one event loop.

    It takes down each answer, and how long that took, in the job's `Account`, which it is made with.
    """

    @property
    def images_per_call(self) -> int:
        """How many images are best handed to `answers` at once; it may change with what is learnt."""
        ...

    @property
    def calls_at_once(self) -> int:
        """How many calls of `answers` it can make use of at once; further ones wait their turn in it."""
        ...

    async def find_model(self) -> ModelInfo:
        """The model that answers.

        Raises:
            InvalidRequestError: None is named and there is not exactly one, or it answers another question.
            RetinueError: It cannot be asked, or there is no such model.
        """
        ...

    async def answers(self, images: Sequence[bytes]) -> list[Result | ImageError]:
        """What became of each image, in order: a result, or why there is none.

        Raises:
            RetinueError: The question as such is refused, or nothing answers any more.
        """
        ...

    async def close(self) -> None:
        """Ends what it has opened. Closing twice is fine."""
        ...
