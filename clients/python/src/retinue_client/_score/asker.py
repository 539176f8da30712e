"""What a job asks its question: a server, or the engine in this process, which look the same from here."""

from collections.abc import Sequence
from typing import Any, Protocol

from retinue_client._async_client import AsyncClient
from retinue_client._errors import ImageError
from retinue_client._models import ModelInfo, Task
from retinue_client._score.rows import Result


class Asker(Protocol):
    """Asks one question, of many images at once. What it raises is for others to make something of."""

    @property
    def address(self) -> str:
        """What is asked, for messages."""
        ...

    async def list_models(self, task: Task, *, timeout_seconds: float | None = None) -> list[ModelInfo]:
        """The models of a task.

        Raises:
            RetinueError: It cannot be asked.
        """
        ...

    async def get_model(
        self, name: str, version: int | str | None = None, *, timeout_seconds: float | None = None
    ) -> ModelInfo:
        """One model.

        Raises:
            RetinueError: There is none of that name, or it cannot be asked.
        """
        ...

    async def ask(self, images: Sequence[bytes]) -> list[Result | ImageError]:
        """The answers about these images, in one request.

        Raises:
            RetinueError: There are none.
        """
        ...

    async def close(self) -> None:
        """Ends what it has opened."""
        ...


class ServerAsker:
    """Asks a server; see `Asker`.

    Args:
        client: Of the server, which retries nothing itself; it is closed with this.
        task: The question.
        options: The question's options, as the client takes them.
    """

    def __init__(self, client: AsyncClient, task: Task, options: dict[str, Any]) -> None:
        self._client = client
        self._method: Any = getattr(client, task)
        self._options = options
        self.address = client.address
        self.list_models = client.list_models
        self.get_model = client.get_model
        self.close = client.close

    async def ask(self, images: Sequence[bytes]) -> list[Result | ImageError]:
        """The answers about these images."""
        answers: list[Result | ImageError] = await self._method(images, **self._options)
        return answers
