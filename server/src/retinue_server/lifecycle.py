"""The life of models: they come, change and go while requests are answered, and none of those fails for it."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Literal, TypeVar

import structlog

from retinue_server.bundle.folder import ModelsFolder, States
from retinue_server.bundle.manifest import NAME_PATTERN
from retinue_server.bundle.repository import BundleFolder, BundleState
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.departures import Departures
from retinue_server.errors import (
    BundleError,
    InvalidRequestError,
    ModelControlError,
    ModelNotFoundError,
    StartupError,
    UnavailableError,
)
from retinue_server.loader import Loader, refuse

_log = structlog.get_logger(__name__)

# A change is taken up when two looks in a row have seen it: what is still being copied is not tried again and again,
# and a folder that is replaced is not gone in between.
_LOOK_SECONDS = 0.5
# As long as any call may hold a model that nobody finds any more.
_LONGEST_LEASE_SECONDS = 60.0
# What a message names of several versions that failed.
_FAILURES_IN_MESSAGES = 3

Control = Literal["none", "explicit", "watch"]
Key = tuple[str, int]
Value = TypeVar("Value")


class ModelState(StrEnum):
    """Where a version is in its life."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What there is to say of one version.

    Attributes:
        name: Its model's name.
        version: Its number.
        state: READY where requests find it.
        reason: Why it is not served, or is not served as it lies on the disk now; else empty.
    """

    name: str
    version: int
    state: ModelState
    reason: str


class Repository:
    """Owns the models that are served. Its methods are called on the event loop, and block it never.

    Loads and unloads run one at a time, in the order in which they are asked for, in a thread of their own. After each
    there is a new catalog, so that a request finds all models as they were before it or as they are after it.

    Args:
        folder: Where the bundles come from.
        loader: Loads and unloads them.
        control: Whether they come and go, and who says so.
        publish: Has requests find the models of a catalog from now on.
        forget: Drops what was counted of a model, by name and version.
        longest_lease_seconds: How long a model that was taken away waits for the calls that hold it.

    Attributes:
        catalog: What is served now.
    """

    def __init__(
        self,
        folder: ModelsFolder,
        loader: Loader,
        control: Control,
        *,
        publish: Callable[[Catalog], Awaitable[None]],
        forget: Callable[[str, int], None],
        longest_lease_seconds: float = _LONGEST_LEASE_SECONDS,
    ) -> None:
        self.catalog = Catalog([], {})
        self._folder = folder
        self._loader = loader
        self._control = control
        self._publish_catalog = publish
        self._forget = forget
        self._served: dict[Key, ServedModel] = {}
        self._failures: dict[Key, BundleError] = {}
        # How a bundle was when it was loaded or refused.
        self._tried: dict[Key, BundleState] = {}
        self._loading: Key | None = None
        self._departures = Departures(self._unload, self._forget_if_gone, longest_lease_seconds)
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "loader")

    async def start(self, load_models: str, cancelled: Callable[[], bool]) -> Catalog:
        """Loads what is to be there when requests are taken first; publishes nothing.

        Args:
            load_models: Where calls control the models: names separated by commas, `all`, or nothing.
            cancelled: Asked before each model; true ends the loading with what there is.

        Raises:
            StartupError: The folder cannot be read, a name is of no model there, or models are never to come later and
                none can be served.
        """
        bundles, self._tried = await self._in_thread(self._first, load_models)
        least = 1 if self._control == "none" else 0
        catalog = await self._in_thread(self._loader.load_all, bundles, cancelled, least=least)
        self._served = {(model.name, model.version): model for model in catalog.models}
        self._failures = dict(catalog.failures)
        self.catalog = catalog
        return catalog

    async def load(self, name: str) -> None:
        """Serves the versions of a model that the policy chooses of those on disk, as they lie there now.

        Those that are served already stay as they are, and a version that cannot be loaded takes none away that works.

        Raises:
            InvalidRequestError: That is no name.
            ModelNotFoundError: Nothing of that name is on disk.
            ModelControlError: Calls do not control the models, or a version cannot be loaded.
            UnavailableError: The server is stopping.
        """
        self._check_call(name)
        failures = await self._finished(self._follow(name, again=True, must_exist=True))
        if failures:
            shown = [
                f"version {version}: {error.message}"
                for version, error in sorted(failures.items(), reverse=True)[:_FAILURES_IN_MESSAGES]
            ]
            raise ModelControlError(
                f"model '{name}' cannot be loaded as a whole: {' '.join(shown)}",
                reason=failures[max(failures)].reason,
            )

    async def unload(self, name: str) -> None:
        """Takes all versions of a model away, and waits until nothing of them is left.

        Raises:
            InvalidRequestError: That is no name.
            ModelNotFoundError: Nothing of that name is served or on disk.
            ModelControlError: Calls do not control the models.
            UnavailableError: The server is stopping.
        """
        self._check_call(name)
        leaving = await self._finished(self._take_away(name))
        await asyncio.gather(*map(asyncio.shield, leaving))

    async def index(self) -> list[IndexEntry]:
        """Everything that is on disk, served, refused or on its way, by name and version."""
        found = await asyncio.to_thread(self._folder.all)
        leaving = {(model.name, model.version) for model in self._departures.models()}
        keys = {(bundle.name, bundle.version) for bundle in found} | {
            *self._served,
            *self._failures,
            *leaving,
        }
        return [self._entry(key, leaving) for key in sorted(keys)]

    async def _watch(self) -> None:
        before: States = {name: self._versions_tried(name) for name, _ in self._tried}
        trouble = ""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                now = await asyncio.to_thread(self._folder.states)
                for name in sorted({*now, *before, *(name for name, _ in self._tried)}):
                    state = now.get(name, {})
                    if state == before.get(name, {}) and state != self._versions_tried(name):
                        await self._finished(self._follow(name, again=False))
            except StartupError as error:
                # What is served is kept: a volume may come back.
                if error.message != trouble:
                    _log.error("models_unreadable", reason=error.message)
                trouble = error.message
            except Exception:
                # It must be followed on, whatever has happened to one change.
                _log.exception("watch_failed")
            else:
                before, trouble = now, ""

    def follow(self) -> None:
        """Begins to follow the folder, where that is what controls the models."""
        if self._control == "watch":
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Takes all models away without waiting for calls; what is being loaded is loaded first."""
        self._departures.hurry()
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._departures.all_gone()
        await self._in_thread(self._loader.unload, *self._served.values(), timeout_seconds=0)
        self._thread.shutdown()

    @property
    def _closed(self) -> bool:
        return self._departures.hurried

    def _first(self, load_models: str) -> tuple[list[BundleFolder], dict[Key, BundleState]]:
        if self._control == "explicit":
            bundles = self._folder.named(load_models)
        elif self._control == "watch":
            bundles = self._folder.chosen()
        else:
            bundles = self._folder.at_least_one()
        return bundles, {(bundle.name, bundle.version): bundle.state() for bundle in bundles}

    def _versions_tried(self, name: str) -> dict[int, BundleState]:
        return {version: state for (tried, version), state in self._tried.items() if tried == name}

    async def _follow(self, name: str, *, again: bool, must_exist: bool = False) -> dict[int, BundleError]:
        """Makes what is served of a model what is on the disk of it.

        Args:
            name: The model's.
            again: Whether to try those again that were refused and have not changed since.
            must_exist: Whether to refuse a name of which nothing is on disk, instead of taking it away.

        Returns:
            Why versions are not served as they lie there.

        Raises:
            ModelNotFoundError: Nothing is.
            StartupError: The folder cannot be read.
        """
        async with self._turn:
            bundles = await self._in_thread(self._folder.chosen, name)
            if must_exist and not bundles:
                raise _not_found(name)
            # The newest first: most requests want that.
            for bundle in reversed(bundles):
                if not self._closed:
                    await self._bring(bundle, again=again)
            there = {(bundle.name, bundle.version) for bundle in bundles}
            gone = {key for key in {*self._tried, *self._served} if key[0] == name} - there
            if gone:
                await self._drop(gone)
            return {version: error for (of, version), error in self._failures.items() if of == name}

    async def _bring(self, bundle: BundleFolder, *, again: bool) -> None:
        """Loads a version that is not served, or not as it lies there now."""
        key = bundle.name, bundle.version
        state = await self._in_thread(bundle.state)
        if self._tried.get(key) == state and not (again and key in self._failures):
            return
        replaced = self._served.get(key)
        self._loading = key
        try:
            loaded = await self._in_thread(self._try_to_load, bundle, replaced)
        finally:
            self._loading = None
        self._tried[key] = state
        if isinstance(loaded, BundleError):
            self._failures[key] = loaded
        else:
            self._failures.pop(key, None)
            self._served[key] = loaded
        await self._publish()
        if replaced is not None and replaced is not self._served[key]:
            self._departures.add(replaced)

    def _try_to_load(self, bundle: BundleFolder, replaced: ServedModel | None) -> ServedModel | BundleError:
        try:
            if replaced is not None and bundle.read() == replaced.manifest:
                return replaced
            return self._loader.load(bundle)
        except StartupError as error:
            return refuse(bundle, error)
        except Exception:
            # One bundle that breaks the loader must not end the life of all others.
            error_id = secrets.token_hex(8)
            _log.exception("load_failed", model=bundle.name, version=bundle.version, error_id=error_id)
            return BundleError(f"it could not be loaded; the server logged why as {error_id}.")

    async def _take_away(self, name: str) -> list[asyncio.Task[None]]:
        async with self._turn:
            keys = {key for key in {*self._served, *self._tried} if key[0] == name}
            leaving = self._departures.tasks(name)
            if not keys and not leaving and not await self._in_thread(self._folder.all, name):
                raise _not_found(name)
            return leaving + (await self._drop(keys) if keys else [])

    async def _drop(self, keys: Collection[Key]) -> list[asyncio.Task[None]]:
        """Has no request find these any more; returns what ends when nothing of them is left."""
        gone = [self._served.pop(key) for key in keys if key in self._served]
        for key in keys:
            self._failures.pop(key, None)
            self._tried.pop(key, None)
        await self._publish()
        return [self._departures.add(model) for model in gone]

    async def _publish(self) -> None:
        self.catalog = Catalog(self._served.values(), dict(self._failures))
        if not self._closed:
            await self._publish_catalog(self.catalog)

    async def _unload(self, model: ServedModel, timeout_seconds: float) -> None:
        await self._in_thread(self._loader.unload, model, timeout_seconds=timeout_seconds)
        # There is room now for what did not fit.
        for key, error in self._failures.items():
            if error.reason == "MEMORY_LIMIT":
                self._tried.pop(key, None)

    def _forget_if_gone(self, model: ServedModel) -> None:
        if (model.name, model.version) not in self._served:
            self._forget(model.name, model.version)

    def _entry(self, key: Key, leaving: Collection[Key]) -> IndexEntry:
        reason = self._failures[key].message if key in self._failures else ""
        if key in self._served:
            state = ModelState.READY
        elif key == self._loading:
            state, reason = ModelState.LOADING, ""
        elif key in leaving:
            state = ModelState.UNLOADING
        else:
            state, reason = ModelState.UNAVAILABLE, reason or "it is not loaded."
        return IndexEntry(*key, state, reason)

    def _check_call(self, name: str) -> None:
        if NAME_PATTERN.fullmatch(name) is None:
            raise InvalidRequestError(
                "the model's name must be letters, digits, '.', '_' and '-', and begin with a letter or digit; at most "
                "128 of them.",
                reason="MODEL_NAME_INVALID",
            )
        if self._control != "explicit":
            raise ModelControlError(
                f"this server runs with --model-control {self._control}, so calls load and unload nothing; start it "
                "with --model-control explicit."
            )
        if self._closed:
            raise UnavailableError("the server is shutting down; retry on another one.", reason="DRAINING")

    async def _finished(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Waits for something that goes on when its caller leaves."""
        return await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, Value]) -> asyncio.Task[Value]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _in_thread(self, work: Callable[..., Value], *arguments: Any, **options: Any) -> Value:
        """Runs what blocks, after what was given to the thread before."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, partial(work, *arguments, **options)
        )


def _not_found(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"the models folder holds no bundle of '{name}'; put NAME/VERSION/model.onnx and manifest.json there, or "
        "correct the name."
    )
