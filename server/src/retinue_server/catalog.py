"""The models that are served, and finding the one a request means."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from retinue.v1 import manifest_pb2 as pb
from retinue.v1 import serving_pb2

from retinue_server.batching.queue import Queue
from retinue_server.bundle.serving import EVERY_VERSION
from retinue_server.errors import BundleError, InvalidRequestError, ModelNotFoundError, WrongTaskError
from retinue_server.interface import Interface
from retinue_server.results import Task
from retinue_server.routing import Draw, Metadata, Route, no_metadata
from retinue_server.runtime.memory import MemoryUse
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.session import Threads
from retinue_server.workers.slots import Layout

TASKS = {
    pb.TASK_CLASSIFY: Task.CLASSIFY,
    pb.TASK_DETECT: Task.DETECT,
    pb.TASK_SEGMENT: Task.SEGMENT,
    pb.TASK_TENSOR: Task.TENSOR,
}

# A name may have 128 characters, and gRPC takes 8 KiB of trailers, which hold a message twice.
_NAMES_IN_MESSAGES = 10


class Leases:
    """Counts the calls that hold a model: one that has found its model keeps it until it is answered.

    Used by the event loop's thread only, and so without a lock.
    """

    __slots__ = ("_count", "_returned")

    def __init__(self) -> None:
        self._count = 0
        self._returned: asyncio.Event | None = None

    def __len__(self) -> int:
        """Calls that hold it."""
        return self._count

    def take(self) -> None:
        """Counts one more call."""
        self._count += 1

    def give_back(self) -> None:
        """Counts one call less."""
        self._count -= 1
        if not self._count and self._returned is not None:
            self._returned.set()

    async def all_returned(self) -> None:
        """Waits until no call holds the model; to be asked when no new one can find it any more."""
        if self._count:
            if self._returned is None:
                self._returned = asyncio.Event()
            await self._returned.wait()


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model that takes requests.

    Attributes:
        name: Its name.
        version: Its version.
        task: What it answers.
        manifest: What its bundle says.
        class_ids: The classes of each label: several may have one name, as "crane" has two in ImageNet.
        interface: What it takes and gives as tensors.
        batcher: Where its images queue.
        threads: How many batches run at once.
        profile: What it costs here.
        memory: What it takes at most.
        layout: Where its images come in slots from front-ends, what these hold.
        leases: The calls that hold it.
    """

    name: str
    version: int
    task: Task
    manifest: pb.ModelManifest
    class_ids: dict[str, frozenset[int]]
    interface: Interface
    batcher: Queue
    threads: Threads
    profile: Profile
    memory: MemoryUse
    layout: Layout | None = None
    leases: Leases = field(default_factory=Leases)

    @property
    def ready(self) -> bool:
        """Whether requests for it are taken."""
        return self.batcher.refusal is None


class Catalog:
    """Finds models by name, version or label, and task.

    A version is its number, its label, or 0 where a request names none.

    Args:
        models: Those that are served.
        failures: Why bundles that were found are not served, by (name, version).
        policies: How the versions of models are served, by name; of those that are left out, all are.
        policy_failures: Why a model's serving.json is not what `policies` has, by name.
        draw: Shares requests out where nothing else does.

    Attributes:
        models: All of them, by name and then descending version.
        failures: As above.
        policy_failures: Likewise.
        could_be_loaded: Whether there is a model of a name that is not served, to load by a call.
    """

    def __init__(
        self,
        models: Iterable[ServedModel],
        failures: dict[tuple[str, int], BundleError],
        policies: Mapping[str, serving_pb2.ServingPolicy] | None = None,
        policy_failures: Mapping[str, BundleError] | None = None,
        draw: Draw = random.random,
    ) -> None:
        self.models = sorted(models, key=lambda model: (model.name, -model.version))
        self.failures = failures
        self.policy_failures = dict(policy_failures or {})
        self.could_be_loaded: Callable[[str], bool] = lambda name: False
        self._policies = dict(policies or {})
        self._draw = draw
        self._by_version = {(model.name, model.version): model for model in self.models}
        # Later entries win, and versions descend.
        self._newest = {model.name: model for model in reversed(self.models)}
        versions: dict[str, list[int]] = {}
        for model in self.models:
            versions.setdefault(model.name, []).append(model.version)
        self._routes = {
            name: Route(name, self._policies.get(name, EVERY_VERSION), served)
            for name, served in versions.items()
        }

    def with_models(
        self, models: Iterable[ServedModel], failures: dict[tuple[str, int], BundleError]
    ) -> "Catalog":
        """A catalog of other models, served by the same policies."""
        return Catalog(models, failures, self._policies, self.policy_failures, self._draw)

    def get(self, name: str, version: int | str = 0) -> ServedModel:
        """Finds a model to tell of; without a version it is that of the largest share, or the newest.

        Raises:
            ModelNotFoundError: It is not served.
        """
        route = self._routes.get(name)
        number = self._number(route, version)
        if route is None or (name, number or route.main) not in self._by_version:
            raise ModelNotFoundError(self._why_missing(name, version))
        return self._by_version[name, number or route.main]

    def pick(self, name: str, version: int | str = 0, metadata: Metadata = no_metadata) -> ServedModel:
        """Finds the model that answers a request; without a version, its share of them says which.

        Args:
            name: Its name.
            version: Its version.
            metadata: The request's.

        Raises:
            ModelNotFoundError: It is not served.
        """
        if not version and (route := self._routes.get(name)) is not None:
            version = route.pick(metadata, self._draw)
        return self.get(name, version)

    def shadow(self, model: ServedModel) -> ServedModel | None:
        """The model that a copy of a request goes to which `model` has answered, where one is to be made now."""
        route = self._routes.get(model.name)
        version = route.shadow(model.version, self._draw) if route is not None else None
        return self._by_version[model.name, version] if version is not None else None

    @property
    def works(self) -> bool:
        """Whether a model is ready, or there is none that could be."""
        return not self.models or any(model.ready for model in self.models)

    def serves(self, name: str, version: int | str = 0) -> bool:
        """Whether `get` finds it."""
        route = self._routes.get(name)
        return route is not None and (name, self._number(route, version) or route.main) in self._by_version

    def versions(self, name: str) -> list[int]:
        """The versions of a model that are served, ascending."""
        return sorted(model.version for model in self.models if model.name == name)

    def policy(self, name: str) -> serving_pb2.ServingPolicy:
        """How the versions of a model that is served are."""
        return self._routes[name].policy

    def missing(self) -> list[tuple[str, int]]:
        """Versions that the policies of served models name and that are not served, with the models' names."""
        return [
            (name, version)
            for name, route in sorted(self._routes.items())
            for version in sorted(route.missing)
        ]

    def for_task(
        self, task: Task, name: str, version: int | str = 0, metadata: Metadata = no_metadata
    ) -> ServedModel:
        """Finds the model that a request for `task` means, as `pick`; an empty name means the task's only model.

        Raises:
            InvalidRequestError: The name is empty and the task has several models, or none.
            ModelNotFoundError: No such model or version.
            WrongTaskError: The model answers another task.
        """
        if not name:
            names = self._names(task)
            if len(names) != 1:
                raise InvalidRequestError(
                    f"name a model: the server has {_listed(names)} for {task}.", reason="MODEL_NOT_NAMED"
                )
            name = names[0]
        model = self.pick(name, version, metadata)
        if model.task is not task:
            raise WrongTaskError(
                f"model '{name}' serves {model.task}, not {task}; models for {task}: {_listed(self._names(task))}."
            )
        return model

    def _names(self, task: Task) -> list[str]:
        return [name for name, model in sorted(self._newest.items()) if model.task is task]

    def _number(self, route: Route | None, version: int | str) -> int:
        """A version's number; 0 where none is named, and -1, which no version has, for a label of none."""
        if isinstance(version, int):
            return version
        found = route.of_label(version) if route is not None else None
        return -1 if found is None else found

    def _why_missing(self, name: str, version: int | str) -> str:
        route = self._routes.get(name)
        if isinstance(version, str) and route is not None:
            return self._why_no_label(name, version, route)
        for (failed, failed_version), error in self.failures.items():
            if failed == name and (version in (0, failed_version) or isinstance(version, str)):
                which = f" version {failed_version}" if failed_version else ""
                return f"model '{name}'{which} was found but cannot be served: {error.message}"
        versions = [str(model.version) for model in self.models if model.name == name]
        if versions:
            return f"model '{name}' has no version {version}; versions served: {_listed(versions)}."
        if self.could_be_loaded(name):
            return f"model '{name}' is in the models folder but not loaded; load it with `retinue models load {name}`."
        # The name is the caller's: cut what is long, so that an answer is never larger than its question deserves.
        shown = name if len(name) <= 128 else f"{name[:125]}..."
        return f"there is no model '{shown}'; models served: {_listed(sorted(self._newest))}."

    def _why_no_label(self, name: str, label: str, route: Route) -> str:
        number = route.of_label(label)
        versions = _listed([str(version) for version in reversed(self.versions(name))])
        if number is None:
            return (
                f"model '{name}' has no label '{label[:64]}'; labels: {_listed(sorted(route.policy.labels))}; versions "
                f"served: {versions}."
            )
        error = self.failures.get((name, number))
        why = f"cannot be served: {error.message}" if error else "is not served."
        return (
            f"label '{label}' of model '{name}' is version {number}, which {why} Versions served: {versions}."
        )


def ids_by_label(labels: Iterable[str]) -> dict[str, frozenset[int]]:
    """The class ids of each label, which several classes may share."""
    ids: dict[str, frozenset[int]] = {}
    for class_id, label in enumerate(labels):
        ids[label] = ids.get(label, frozenset()) | {class_id}
    return ids


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMES_IN_MESSAGES else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMES_IN_MESSAGES]) + more or "none"
