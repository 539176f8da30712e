"""LitServe with one worker process a core; images come as files of a form."""

import sys
from typing import Any

import litserve
from classifier import CORES, Classifier
from fastapi import Request


class Classify(litserve.LitAPI):
    """What each worker does."""

    def setup(self, _device: str) -> None:
        """Loads the model, once in each worker."""
        self._classifier = Classifier()

    def decode_request(self, request: Request) -> bytes:
        """From the form to the file."""
        return request["image"].file.read()

    def predict(self, jpeg: bytes) -> list[dict[str, Any]]:
        """Answers one request."""
        return self._classifier.classify(jpeg)

    def encode_response(self, classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What is sent as JSON."""
        return classes


if __name__ == "__main__":
    server = litserve.LitServer(Classify(), accelerator="cpu", workers_per_device=CORES)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
