"""What is served of the models on disk, and why the rest is not."""

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import structlog

from retinue_server.bundle import serving
from retinue_server.bundle.repository import UNREADABLE, BundleFolder, BundleState
from retinue_server.bundle.serving import EVERY_VERSION, ServingPolicy, TrafficShare, version_of
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.errors import BundleError, ModelControlError, StartupError
from retinue_server.loader import Loader, refuse

_log = structlog.get_logger(__name__)

Key = tuple[str, int]

# What a message names of several versions that failed.
_FAILURES_IN_MESSAGES = 3


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
        version: Its number; 0 where only the model's folder is known, which cannot be read.
        state: READY where requests find it and it takes them.
        reason: Why it is not served, or is not served as it lies on the disk now; else empty.
    """

    name: str
    version: int
    state: ModelState
    reason: str


class InThread(Protocol):
    """Runs what blocks in a thread."""

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        """Returns what `work` does with these arguments."""
        ...


class Inventory:
    """Keeps account of the versions of models. Used on the event loop, by one task at a time.

    Args:
        loader: Loads them.
        in_thread: Where it does.

    Attributes:
        served: What is served, by name and version.
        failures: Why versions are not, or not as they lie on the disk now.
        policies: How the versions of each model are served, by name.
        policy_failures: Why a model's serving.json does not hold, or is not what holds.
        loading: What is being loaded.
    """

    def __init__(self, loader: Loader, in_thread: InThread) -> None:
        self.served: dict[Key, ServedModel] = {}
        self.failures: dict[Key, BundleError] = {}
        self.policies: dict[str, ServingPolicy] = {}
        self.policy_failures: dict[str, BundleError] = {}
        self.loading: Key | None = None
        self._loader = loader
        self._in_thread = in_thread
        # How a bundle was when it was loaded or refused.
        self._tried: dict[Key, BundleState] = {}

    def fill(self, catalog: Catalog, tried: Mapping[Key, BundleState]) -> None:
        """Begins with what was loaded at the start, of bundles that were as `tried` says."""
        self.served = {(model.name, model.version): model for model in catalog.models}
        self.failures = dict(catalog.failures)
        self._tried = dict(tried)

    def catalog(self) -> Catalog:
        """What is served now."""
        return Catalog(self.served.values(), dict(self.failures), self.policies, self.policy_failures)

    def keys(self, name: str) -> set[Key]:
        """The versions of a model that are served or were refused."""
        return {key for key in (*self.served, *self.failures, *self._tried) if key[0] == name}

    def others(self, name: str, bundles: Collection[BundleFolder]) -> set[Key]:
        """The versions of a model that are served or were refused, but for those of some bundles."""
        return self.keys(name) - {(bundle.name, bundle.version) for bundle in bundles}

    def failures_of(self, name: str) -> dict[int, BundleError]:
        """Why versions of a model are not served as they lie on the disk, by version."""
        return {version: error for (of, version), error in self.failures.items() if of == name}

    def versions(self, name: str) -> set[int]:
        """The versions of a model that are served."""
        return {version for of, version in self.served if of == name}

    async def bring(
        self,
        policy: ServingPolicy,
        bundles: Collection[BundleFolder],
        stopped: Callable[[], bool],
        *,
        again: bool = False,
        publish: Callable[[list[ServedModel]], Awaitable[object]] | None = None,
    ) -> list[ServedModel]:
        """Loads what a policy chooses of a model's bundles and is not served, or not as it lies there now.

        Args:
            policy: Chooses them.
            bundles: All that the model has.
            stopped: Asked before each; true ends it.
            again: Whether to try those again that were refused and have not changed since.
            publish: Called with what was replaced as soon as a version is loaded or refused; None where requests are to
                find nothing of it yet.

        Returns:
            What was replaced and requests still find.
        """
        replaced: list[ServedModel] = []
        tried: set[int] = set()
        while bundles and not stopped():
            # Others are chosen where one cannot be loaded.
            failed = self.failures_of(next(iter(bundles)).name)
            left = [one for one in chosen(policy, bundles, failed) if one.version not in tried]
            if not left:
                break
            # The newest first: most requests want that.
            tried.add(left[-1].version)
            brought = await self._bring_one(left[-1], again=again)
            if brought is not None and publish is not None:
                await publish(brought)
            else:
                replaced += brought or ()
        return replaced

    async def _bring_one(self, bundle: BundleFolder, *, again: bool) -> list[ServedModel] | None:
        """Loads a version; returns what it takes the place of, or None where nothing was to be done."""
        key = bundle.name, bundle.version
        state = await self._in_thread(bundle.state)
        if self._tried.get(key) == state and not (again and key in self.failures):
            return None
        replaced = self.served.get(key)
        self.loading = key
        try:
            loaded = await self._in_thread(self._try_to_load, bundle, replaced)
        finally:
            self.loading = None
        self._tried[key] = state
        if isinstance(loaded, BundleError):
            self.failures[key] = loaded
            return []
        self.failures.pop(key, None)
        self.served[key] = loaded
        return [] if replaced is None or replaced is loaded else [replaced]

    def refuse(self, bundles: Collection[BundleFolder], error: BundleError) -> None:
        """Notes why versions are not even tried."""
        for bundle in bundles:
            self.failures[bundle.name, bundle.version] = error

    def note_unreadable(self, name: str, error: BundleError) -> None:
        """Logs and keeps that a model's folder cannot be read; what was refused of it before stays so.

        Version 0 stands for what of it is not known.
        """
        _log.error("model_unreadable", model=name, reason=error.message)
        told = BundleError("its folder cannot be read.", reason=error.reason)
        for key in self.keys(name) or {(name, 0)}:
            self.failures.setdefault(key, told)

    def forget_unreadable(self, name: str) -> bool:
        """Forgets that, since it can be read again; returns whether it could not."""
        keys = [key for key, error in self.failures.items() if key[0] == name and error.reason == UNREADABLE]
        for key in keys:
            del self.failures[key]
        return bool(keys)

    def forget_untried(self, name: str) -> None:
        """Forgets why versions of a model were not even tried."""
        for key in [key for key in self.failures if key[0] == name and key not in self._tried]:
            del self.failures[key]

    def take(self, keys: Collection[Key]) -> list[ServedModel]:
        """Forgets versions; returns those that were served."""
        for key in keys:
            self.failures.pop(key, None)
            self._tried.pop(key, None)
        return [self.served.pop(key) for key in keys if key in self.served]

    def forget(self, name: str) -> None:
        """Forgets what is said of a model as a whole."""
        self.policies.pop(name, None)
        self.policy_failures.pop(name, None)

    def note_refusal(self, name: str, refusal: BundleError | None) -> bool:
        """Logs and keeps why a model's serving policy is not what holds; returns whether that is news."""
        before = self.policy_failures.pop(name, None)
        if refusal is not None:
            self.policy_failures[name] = refusal
        if (before and before.message) == (refusal and refusal.message):
            return False
        if refusal is not None:
            _log.error("serving_policy_refused", model=name, reason=refusal.message)
        return True

    def audit(self, name: str, found: Catalog) -> dict[str, Any]:
        """What a model's serving policy comes to, for the log: its versions, labels, split and shadow."""
        policy = self.policies.get(name, EVERY_VERSION)
        told: dict[str, Any] = {"versions": found.versions(name)}
        if policy.labels:
            told["labels"] = dict(sorted(policy.labels.items()))
        if policy.split:
            told["split"] = [_share(policy, share) for share in policy.split]
        if policy.HasField("shadow"):
            told["shadow"] = _share(policy, policy.shadow)
        return told

    def entry(self, key: Key, leaving: Collection[Key], found: Catalog) -> IndexEntry:
        """What there is to say of a version.

        Args:
            key: Its model's name, and its number.
            leaving: Those that no request finds any more and that are not unloaded yet.
            found: What requests find.
        """
        error = found.failures.get(key) or self.policy_failures.get(key[0])
        reason = error.message if error is not None else ""
        if found.serves(*key):
            state, refusal = ModelState.READY, found.get(*key).batcher.refusal
            if refusal is not None:
                state, reason = ModelState.UNAVAILABLE, refusal.message
        elif key == self.loading:
            state, reason = ModelState.LOADING, ""
        elif key in leaving:
            state = ModelState.UNLOADING
        else:
            state, reason = ModelState.UNAVAILABLE, reason or "it is not loaded."
        return IndexEntry(*key, state, reason)

    def make_room(self, gone: ServedModel) -> set[str]:
        """Has what did not fit tried again when it is brought; returns the names of the models."""
        full = {key for key, error in self.failures.items() if error.reason == "MEMORY_LIMIT"}
        for key in full:
            self._tried.pop(key, None)
        # One whose own versions go since not all of them fit would try that for ever.
        waiting = {name for name, error in self.policy_failures.items() if error.reason == "MEMORY_LIMIT"}
        return {name for name, _ in full} | (waiting - {gone.name})

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


def _share(policy: ServingPolicy, share: TrafficShare) -> str:
    """As in `canary=4 10%`."""
    version = version_of(policy, share)
    return f"{share.label}={version} {share.percent}%" if share.label else f"{version} {share.percent}%"


def chosen(
    policy: ServingPolicy, bundles: Collection[BundleFolder], failed: Collection[int] = ()
) -> list[BundleFolder]:
    """The bundles of a model that a policy chooses, by version; `failed` as for `serving.chosen`."""
    versions = serving.chosen(policy, {bundle.version for bundle in bundles}, failed)
    return [bundle for bundle in bundles if bundle.version in versions]


def incomplete(
    name: str, failures: Mapping[int, BundleError], refusal: BundleError | None
) -> ModelControlError:
    """What a call is told that has loaded a model and not all of what was wanted.

    Args:
        name: The model's.
        failures: Why versions are not served as they lie there.
        refusal: Why the policy is not what was wanted; at least one of the two is there.
    """
    shown = [
        f"version {version}: {error.message}"
        for version, error in sorted(failures.items(), reverse=True)[:_FAILURES_IN_MESSAGES]
        if error is not refusal
    ]
    if refusal is not None:
        shown.insert(0, refusal.message)
    return ModelControlError(
        f"model '{name}' cannot be loaded as a whole: {' '.join(shown)}",
        reason=(refusal or failures[max(failures)]).reason,
    )
