"""BentoML with one worker process a core; the image is the request's whole body."""

from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from classifier import Classifier


@bentoml.service(workers="cpu_count", metrics={"enabled": False})
class Classify:
    """The service; one in each process."""

    def __init__(self) -> None:
        self._classifier = Classifier()

    @bentoml.api
    def classify(self, image: Annotated[Path, ContentType("image/jpeg")], /) -> list[dict[str, Any]]:
        """Answers one request."""
        return self._classifier.classify(image.read_bytes())
