"""Fixtures that every kind of test shares: real servers, and photos."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests import colour_bundles
from tests.server_process import ROOT, ServerProcess, running_server
from tests.system_packages import unavailable


@pytest.fixture(scope="session", autouse=True)
def _short_tracebacks() -> None:
    """Those with all variables, which structlog makes by default, take a tenth of a second each."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])


@pytest.fixture(scope="session")
def bundled_models() -> Path:
    """The bundles of this repository."""
    return ROOT / "models"


@pytest.fixture(scope="session")
def server(bundled_models: Path) -> Iterator[ServerProcess]:
    """A real server on the bundles of this repository."""
    with running_server(bundled_models) as process:
        yield process


@pytest.fixture(scope="session")
def colour_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with one tiny bundle a task."""
    models = tmp_path_factory.mktemp("models")
    colour_bundles.classifier(models)
    colour_bundles.detector(models)
    colour_bundles.segmenter(models)
    return models


@pytest.fixture(scope="session", params=[0, 2], ids=["one process", "two front-ends"])
def colour_server(request: pytest.FixtureRequest, colour_models: Path) -> Iterator[ServerProcess]:
    """A real server on the tiny bundles: what it promises holds in one process and in several."""
    with running_server(colour_models, "--workers", str(request.param)) as process:
        yield process


@pytest.fixture(scope="session")
def fashion_mnist_data() -> None:
    """Fashion-MNIST is installed or was downloaded."""
    from retinue_export import fashion_mnist
    from retinue_export.errors import ExportError

    try:
        fashion_mnist.load("test")
    except ExportError as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def photos() -> dict[str, Path]:
    """Reference photos: the sample images of scikit-image and scikit-learn."""
    import skimage
    import sklearn.datasets

    samples = Path(skimage.__file__).parent / "data"
    images = Path(sklearn.datasets.__file__).parent / "images"
    return {
        "chelsea": samples / "chelsea.png",
        "coffee": samples / "coffee.png",
        "astronaut": samples / "astronaut.png",
        "rocket": samples / "rocket.jpg",
        "china": images / "china.jpg",
        "flower": images / "flower.jpg",
    }
