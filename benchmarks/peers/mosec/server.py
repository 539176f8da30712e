"""mosec with one worker process a core, which takes a request's bytes and does all of its work."""

from typing import Any

from classifier import CORES, Classifier
from mosec import Server, Worker


class Classify(Worker):
    """What each process does."""

    def __init__(self) -> None:
        super().__init__()
        self._classifier = Classifier()

    def deserialize(self, data: bytes) -> bytes:
        """Takes the request's body as it is."""
        return data

    def forward(self, data: bytes) -> list[dict[str, Any]]:
        """Answers one request."""
        return self._classifier.classify(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classify, num=CORES)
    server.run()
