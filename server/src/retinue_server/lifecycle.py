"""The life of models: they come, change and go while requests are answered, and none of those fails for it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Literal

import structlog

from retinue_server.background import Background
from retinue_server.bundle import serving
from retinue_server.bundle.folder import ModelOnDisk, ModelsFolder
from retinue_server.bundle.manifest import NAME_PATTERN
from retinue_server.bundle.repository import BundleFolder
from retinue_server.bundle.serving import EVERY_VERSION, ServingPolicy
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.departures import LONGEST_LEASE_SECONDS, Departures
from retinue_server.errors import (
    BundleError,
    InvalidRequestError,
    ModelControlError,
    ModelNotFoundError,
    StartupError,
    UnavailableError,
)
from retinue_server.inventory import IndexEntry, Inventory, Key, chosen, incomplete
from retinue_server.loader import Loader
from retinue_server.steps import resolved
from retinue_server.watch import watch

_log = structlog.get_logger(__name__)

Control = Literal["none", "explicit", "watch"]


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
        longest_lease_seconds: float = LONGEST_LEASE_SECONDS,
    ) -> None:
        self.catalog = Catalog([], {})
        self._folder = folder
        self._loader = loader
        self._control = control
        self._publish_catalog = publish
        self._forget = forget
        self._departures = Departures(self._unload, self._forget_if_gone, longest_lease_seconds)
        self._background = Background("loader")
        self._in_thread = self._background.in_thread
        self._finished = self._background.finished
        self._inventory = Inventory(loader, self._in_thread)
        # How models lay on the disk when they were followed last.
        self._seen: dict[str, ModelOnDisk] = {}
        self._turn = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def start(self, load_models: str, cancelled: Callable[[], bool]) -> Catalog:
        """Loads what is to be there when requests are taken first; publishes nothing.

        Args:
            load_models: Where calls control the models: names separated by commas, `all`, or nothing.
            cancelled: Asked before each model; true ends the loading with what there is.

        Raises:
            StartupError: The folder cannot be read, a name is of no model there, or models are never to come later and
                none can be served.
        """
        bundles = await self._in_thread(self._first, load_models)
        self._seen = await self._in_thread(self._folder.states, bundles)
        inventory = self._inventory
        wanted: list[BundleFolder] = []
        refused: dict[Key, BundleError] = {}
        for name in self._seen:
            there = [bundle for bundle in bundles if bundle.name == name]
            policy, refusal = await self._policy(name, there, None)
            inventory.note_refusal(name, refusal)
            if refusal is not None:
                refused.update({(name, bundle.version): refusal for bundle in there})
            else:
                inventory.policies[name] = policy
                wanted += chosen(policy, there)
        may_be_none = self._control != "none" or len(wanted) + len(refused) < len(bundles)
        load_all = partial(self._loader.load_all, least=0 if may_be_none else 1, refused=refused)
        catalog = await self._in_thread(load_all, wanted, cancelled)
        tried = {(one.name, one.version): self._seen[one.name].versions[one.version] for one in wanted}
        inventory.fill(catalog, tried)
        for name, policy in inventory.policies.items():
            there = [bundle for bundle in bundles if bundle.name == name]
            await inventory.bring(policy, there, cancelled)
        if self._control == "none" and not inventory.served and not cancelled():
            reasons = dict.fromkeys(error.message for error in inventory.failures.values())
            raise StartupError(f"none of the bundles can be served: {' '.join(reasons)}")
        if self._control != "explicit":
            for name, error in (await self._in_thread(self._folder.unreadable)).items():
                self._note_unreadable(name, error)
        self.catalog = resolved(inventory.catalog(), self.catalog)
        for name in self._seen:
            self._tell_of_missing(name)
        return self.catalog

    async def load(self, name: str, policy: ServingPolicy | None = None) -> None:
        """Serves the versions of a model that its policy chooses of those on disk, as they lie there now.

        Those that are served already stay as they are, and a version that cannot be loaded takes none away that works.

        Args:
            name: The model's.
            policy: How its versions are served until it is loaded again; None for as its serving.json says.

        Raises:
            InvalidRequestError: That is no name.
            ModelNotFoundError: Nothing of that name is on disk.
            ModelControlError: Calls do not control the models, the policy does not hold, or a version cannot be loaded.
            UnavailableError: The server is stopping.
        """
        self._check_call(name)
        try:
            failures, refusal = await self._finished(
                self._follow(name, again=True, must_exist=True, given=policy)
            )
        except StartupError as error:
            _log.error("models_unreadable", reason=error.message)
            # Where it lies is not the caller's to know.
            raise ModelControlError(
                f"the folder of '{name}' cannot be read; let the server's user read it.",
                reason="MODELS_UNREADABLE",
            ) from error
        if failures or refusal:
            raise incomplete(name, failures, refusal)

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
        try:
            found = await asyncio.to_thread(self._folder.all)
        except StartupError as error:
            _log.error("models_unreadable", reason=error.message)
            found = []
        leaving = {(model.name, model.version) for model in self._departures.models()}
        inventory = self._inventory
        keys = {(bundle.name, bundle.version) for bundle in found}
        keys.update(inventory.served, inventory.failures, leaving)
        return [inventory.entry(key, leaving, self.catalog) for key in sorted(keys)]

    def follow(self) -> None:
        """Begins to follow the folder, where that is what controls the models."""
        if self._control == "watch":
            self._folder.follow()
            self._watching = asyncio.get_running_loop().create_task(
                watch(
                    lambda: self._folder.states(known=list(self._seen)),
                    self._seen,
                    lambda name: self._finished(self._follow(name, again=False)),
                    self._folder.look_seconds,
                )
            )

    async def close(self) -> None:
        """Takes all models away without waiting for calls; what is being loaded is loaded first."""
        self._departures.hurry()
        await asyncio.to_thread(self._folder.close)
        if self._watching is not None:
            self._watching.cancel()
        await self._background.all_finished()
        await self._departures.all_gone()
        served = self._inventory.served.values()
        await self._in_thread(partial(self._loader.unload, *served, timeout_seconds=0))
        self._background.close()

    def _is_closed(self) -> bool:
        return self._departures.hurried

    def _first(self, load_models: str) -> list[BundleFolder]:
        if self._control == "explicit":
            return self._folder.named(load_models)
        return self._folder.brought() if self._control == "watch" else self._folder.at_least_one()

    async def _policy(
        self, name: str, bundles: Collection[BundleFolder], given: ServingPolicy | None
    ) -> tuple[ServingPolicy, BundleError | None]:
        """How a model's versions are to be served, and why that does not hold or chooses none of some bundles."""
        policy = given
        if policy is None:
            try:
                policy = await self._in_thread(self._folder.policy, name)
            except BundleError as error:
                return EVERY_VERSION, error
        there = {bundle.version for bundle in bundles}
        return policy, serving.chooses_none(policy, there) if there else None

    async def _follow(
        self, name: str, *, again: bool, must_exist: bool = False, given: ServingPolicy | None = None
    ) -> tuple[dict[int, BundleError], BundleError | None]:
        """Makes what is served of a model what is on the disk of it.

        Args:
            name: The model's.
            again: Whether to try those again that were refused and have not changed since.
            must_exist: Whether to refuse a name of which nothing is on disk, instead of taking it away.
            given: How its versions are to be served, instead of as is on disk.

        Returns:
            Why versions are not served as they lie there, and why the policy is not what was wanted.

        Raises:
            ModelNotFoundError: Nothing is.
            StartupError: The folder cannot be read.
        """
        async with self._turn:
            inventory = self._inventory
            try:
                bundles = await self._in_thread(self._folder.brought, name)
                if not bundles and inventory.keys(name):
                    await self._in_thread(self._folder.check_no_file, name)
            except BundleError as error:
                self._note_unreadable(name, error)
                await self._publish([])
                if must_exist:
                    raise
                return inventory.failures_of(name), None
            if must_exist and not bundles:
                raise _not_found(name)
            seen = await self._in_thread(self._folder.states, bundles)
            self._seen.pop(name, None)
            self._seen.update(seen)
            await self._adopt(name, bundles, given, again=again)
            failures = {
                version: error for (of, version), error in self.catalog.failures.items() if of == name
            }
            return failures, inventory.policy_failures.get(name)

    def _note_unreadable(self, name: str, error: BundleError) -> None:
        """Keeps what is served of a model whose folder cannot be read, until that changes."""
        self._seen[name] = ModelOnDisk(None, {}, error.message)
        self._inventory.note_unreadable(name, error)

    async def _adopt(
        self, name: str, bundles: list[BundleFolder], given: ServingPolicy | None, *, again: bool
    ) -> None:
        """Serves the versions that a policy chooses, or those of the policy before where it cannot be met."""
        inventory = self._inventory
        former = inventory.policies.get(name)
        if not bundles:
            inventory.forget(name)
            if gone := inventory.keys(name):
                await self._drop(gone)
            return
        was_unreadable = inventory.forget_unreadable(name)
        inventory.forget_untried(name)
        wanted, refusal = await self._policy(name, bundles if former is None else (), given)
        # A new policy holds when all is there that it needs: no request finds a version by one not meant for it.
        is_new = refusal is None and wanted != (EVERY_VERSION if former is None else former)
        replaced: list[ServedModel] = []
        if is_new and former is not None:
            replaced, refusal = await self._prepare(name, bundles, wanted, again=again)
        elif is_new:
            # What works of it is better than nothing.
            replaced = await inventory.bring(wanted, bundles, self._is_closed, again=again)
        changed = inventory.note_refusal(name, refusal) or (is_new and refusal is None) or bool(replaced)
        policy = wanted if refusal is None else former
        keep = bundles
        if policy is None:
            assert refusal is not None
            inventory.refuse(bundles, refusal)
        else:
            if refusal is not None:
                # What was loaded for the other policy only is not for requests of this one to find.
                unwanted = inventory.others(name, chosen(policy, bundles, inventory.failures_of(name)))
                replaced += inventory.take(unwanted)
                changed = changed or bool(unwanted)
            if refusal is not None or not is_new:
                await inventory.bring(policy, bundles, self._is_closed, again=again, publish=self._publish)
            keep = chosen(policy, bundles, inventory.failures_of(name))
            inventory.policies[name] = policy
        gone = inventory.others(name, keep)
        if changed or gone or was_unreadable:
            await self._drop(gone, *replaced)
            if is_new and refusal is None:
                _log.info("serving_policy_changed", model=name, **inventory.audit(name, self.catalog))
            self._tell_of_missing(name)

    async def _prepare(
        self, name: str, bundles: list[BundleFolder], policy: ServingPolicy, *, again: bool
    ) -> tuple[list[ServedModel], BundleError | None]:
        """Loads what a policy needs, for no request yet.

        Returns:
            What it takes the place of, and why the former policy is to stay.
        """
        inventory = self._inventory
        there = {bundle.version for bundle in bundles}
        replaced: list[ServedModel] = []
        refusal = serving.unmet(policy, there, {}, there)
        if refusal is None:
            replaced = await inventory.bring(policy, bundles, self._is_closed, again=again)
            refusal = serving.unmet(policy, there, inventory.failures_of(name), inventory.versions(name))
        if refusal is not None:
            refusal = BundleError(
                f"{refusal.message} What held before holds until that is mended.", reason=refusal.reason
            )
        return replaced, refusal

    def _tell_of_missing(self, name: str) -> None:
        for model, version in self.catalog.missing():
            if model == name:
                _log.warning("serving_version_missing", model=name, version=version)

    async def _take_away(self, name: str) -> list[asyncio.Task[None]]:
        async with self._turn:
            keys = self._inventory.keys(name)
            leaving = self._departures.tasks(name)
            if not keys and not leaving and not await self._in_thread(self._folder.all, name):
                raise _not_found(name)
            self._inventory.forget(name)
            return leaving + (await self._drop(keys) if keys else [])

    async def _drop(self, keys: Collection[Key], *replaced: ServedModel) -> list[asyncio.Task[None]]:
        """Has no request find these any more, nor what was replaced; returns what ends when nothing of them is left."""
        return await self._publish([*replaced, *self._inventory.take(keys)])

    async def _publish(self, gone: Collection[ServedModel]) -> list[asyncio.Task[None]]:
        """Has requests find what is served now; returns what ends when nothing of the rest is left."""
        self.catalog = resolved(self._inventory.catalog(), self.catalog)
        if not self._is_closed():
            await self._publish_catalog(self.catalog)
        return [self._departures.add(model) for model in gone]

    async def _unload(self, model: ServedModel, timeout_seconds: float) -> None:
        await self._in_thread(partial(self._loader.unload, model, timeout_seconds=timeout_seconds))
        for name in self._inventory.make_room(model):
            self._seen.pop(name, None)

    def _forget_if_gone(self, model: ServedModel) -> None:
        if (model.name, model.version) not in self._inventory.served:
            self._forget(model.name, model.version)

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
        if self._is_closed():
            raise UnavailableError("the server is shutting down; retry on another one.", reason="DRAINING")


def _not_found(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"the models folder holds no bundle of '{name}'; put NAME/VERSION/model.onnx and manifest.json there, or "
        "correct the name."
    )
