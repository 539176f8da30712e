"""A repository on a bench, for tests."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.unit.server.served import served_model

from retinue_server.bundle.folder import ModelsFolder
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.errors import BundleError, StartupError
from retinue_server.inventory import ModelState
from retinue_server.lifecycle import Repository

Key = tuple[str, int]


class FakeLoader:
    """Loads by name; what it is told to hold back is loaded when it is told so.

    Attributes:
        events: What it did, in order.
        errors: What is wrong with a version.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []
        self.errors: dict[Key, Exception] = {}
        self.held_back: dict[Key, threading.Event] = {}
        self.running = 0

    def load(self, bundle: BundleFolder) -> ServedModel:
        key = bundle.name, bundle.version
        self.running += 1
        assert self.running == 1
        self.events.append(("loading", *key))
        if key in self.held_back:
            assert self.held_back[key].wait(10)
        self.running -= 1
        if key in self.errors:
            raise self.errors[key]
        self.events.append(("loaded", *key))
        return served_model(*key)

    def load_all(
        self,
        bundles: list[BundleFolder],
        cancelled: Callable[[], bool],
        *,
        least: int,
        refused: dict[Key, BundleError],
    ) -> Catalog:
        models, failures = [], dict(refused)
        for bundle in bundles:
            if not cancelled():
                try:
                    models.append(self.load(bundle))
                except BundleError as error:
                    failures[bundle.name, bundle.version] = error
        if len(models) < least:
            raise StartupError("none.")
        return Catalog(models, failures)

    def unload(self, *models: ServedModel, timeout_seconds: float = 60) -> None:
        assert not self.running
        for model in models:
            self.events.append(("unloaded", model.name, model.version))


class Bench:
    """A repository with what is around it.

    Attributes:
        catalogs: All that were published, each as its models' names and versions.
        forgotten: The models whose metrics are gone.
    """

    def __init__(self, models: Path) -> None:
        self.models = models
        self.loader = FakeLoader()
        self.catalogs: list[list[Key]] = []
        self.forgotten: list[Key] = []
        self._opened: list[Repository] = []

    def repository(self, control: Any = "explicit", **options: Any) -> Repository:
        async def publish(catalog: Catalog) -> None:
            self.catalogs.append([(model.name, model.version) for model in catalog.models])

        repository = Repository(
            ModelsFolder(self.models),
            self.loader,  # type: ignore[arg-type]
            control,
            publish=publish,
            forget=lambda *key: self.forgotten.append(key),
            **options,
        )
        self._opened.append(repository)
        return repository

    def put(self, name: str, version: int, content: str = "") -> Path:
        folder = self.models / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_text(content)
        return folder

    def policy(self, name: str, content: object) -> None:
        """Writes a model's serving.json by rename, or takes it away."""
        path = self.models / name / "serving.json"
        if content is None:
            path.unlink()
            return
        written = self.models.parent / "serving.json.coming"
        written.write_text(content if isinstance(content, str) else json.dumps(content))
        written.rename(path)

    def hold_back(self, name: str, version: int) -> threading.Event:
        return self.loader.held_back.setdefault((name, version), threading.Event())

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        for repository in self._opened:
            if not repository._is_closed():
                await repository.close()


@asynccontextmanager
async def running_bench(models: Path) -> AsyncIterator[Bench]:
    """A bench with an empty folder of models; at the end nothing of it runs any more."""
    bench = Bench(models)
    models.mkdir()
    yield bench
    for event in bench.loader.held_back.values():
        event.set()
    await bench.close()


def served(repository: Repository) -> list[Key]:
    """Name and version of what is served, in the catalog's order."""
    return [(model.name, model.version) for model in repository.catalog.models]


async def states(repository: Repository) -> dict[Key, ModelState]:
    """What the index says of all models."""
    return {(entry.name, entry.version): entry.state for entry in await repository.index()}
