"""The folder of all models, and which of the bundles in it are to be served."""

from collections.abc import Callable, Collection
from pathlib import Path

from retinue_server.bundle.repository import BundleFolder, BundleState, find, scan
from retinue_server.errors import StartupError

Policy = Callable[[Collection[int]], Collection[int]]
States = dict[str, dict[int, BundleState]]


def every_version(versions: Collection[int]) -> Collection[int]:
    """Chooses which of a model's versions are served: all of them."""
    return versions


class ModelsFolder:
    """A folder of models. Its methods block, and raise StartupError where it cannot be read.

    Args:
        path: Where it lies.
        policy: Chooses which of a model's versions are to be served.

    Attributes:
        look_seconds: How often to look, where it is followed. A change is taken up when two looks in a row have seen
            it: what is still being copied is not tried again and again, and what is replaced is not gone in between.
    """

    look_seconds = 0.5

    def __init__(self, path: Path, policy: Policy = every_version) -> None:
        self._path = path
        self._policy = policy

    def all(self, name: str | None = None) -> list[BundleFolder]:
        """Lists what there is, by name and then version, of one model or of all."""
        return find(self._path, name)

    def chosen(self, name: str | None = None) -> list[BundleFolder]:
        """Lists what of that is to be served."""
        return self._choose(self.all(name))

    def at_least_one(self) -> list[BundleFolder]:
        """Lists what is to be served where no more will come.

        Raises:
            StartupError: There is nothing.
        """
        return self._choose(scan(self._path))

    def named(self, names: str) -> list[BundleFolder]:
        """Lists what is to be served of some models.

        Args:
            names: Separated by commas, `all`, or empty for none.

        Raises:
            StartupError: There is no bundle of one of them.
        """
        bundles = self.chosen()
        if names == "all":
            return bundles
        wanted = {name for name in names.split(",") if name}
        for name in sorted(wanted - {bundle.name for bundle in bundles}):
            raise StartupError(
                f"--load-models names '{name}', but the models folder '{self._path}' holds no bundle of that name: "
                "correct the name, or put the bundle there."
            )
        return [bundle for bundle in bundles if bundle.name in wanted]

    def states(self) -> States:
        """How what is to be served lies on the disk, by name and version."""
        found: States = {}
        for bundle in self.chosen():
            found.setdefault(bundle.name, {})[bundle.version] = bundle.state()
        return found

    def follow(self) -> None:
        """Begins to bring what comes and goes elsewhere; a folder on a disk has all there is."""

    def close(self) -> None:
        """Ends that."""

    def _choose(self, bundles: list[BundleFolder]) -> list[BundleFolder]:
        versions: dict[str, list[int]] = {}
        for bundle in bundles:
            versions.setdefault(bundle.name, []).append(bundle.version)
        chosen = {name: self._policy(numbers) for name, numbers in versions.items()}
        return [bundle for bundle in bundles if bundle.version in chosen[bundle.name]]
