"""The folder of all models: which bundles lie in it, and how their versions are to be served."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from retinue.v1 import serving_pb2 as pb

from retinue_server.bundle import serving
from retinue_server.bundle.manifest import NAME_PATTERN
from retinue_server.bundle.repository import (
    UNREADABLE,
    BundleFolder,
    BundleState,
    FileState,
    Listing,
    TrustedKeys,
    find,
    listing,
    scan,
)
from retinue_server.errors import BundleError, StartupError


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """How one model lies on the disk.

    Attributes:
        serving: Its serving.json.
        versions: Its versions.
        unreadable: Why its folder cannot be read; else empty.
    """

    serving: FileState
    versions: Mapping[int, BundleState]
    unreadable: str = ""


class ModelsFolder:
    """A folder of models. Its methods block, and raise StartupError where it cannot be read.

    Where they are asked for one model whose own folder cannot be read, they raise BundleError, which is one, too.

    Args:
        path: Where it lies.
        keys: Whose signature the bundles need; None where they need none.

    Attributes:
        look_seconds: How often to look, where it is followed.
    """

    look_seconds = 0.5

    def __init__(self, path: Path, keys: TrustedKeys | None = None) -> None:
        self._path = path
        self._keys = keys

    def all(self, name: str | None = None) -> list[BundleFolder]:
        """Lists what there is, by name and then version, of one model or of all."""
        return find(self._path, name, self._keys)

    def unreadable(self) -> dict[str, BundleError]:
        """Why folders of models cannot be read, by name."""
        return listing(self._path).unreadable

    def holds(self, name: str) -> bool:
        """Whether a bundle of a name, which may be anything, lies here; raises nothing."""
        try:
            return NAME_PATTERN.fullmatch(name) is not None and bool(find(self._path, name))
        except StartupError:
            return False

    def brought(self, name: str | None = None) -> list[BundleFolder]:
        """Lists what there is of one model or of all, once it is here."""
        return self.all(name)

    def at_least_one(self) -> list[BundleFolder]:
        """Lists all that there is where no more will come.

        Raises:
            StartupError: There is nothing.
        """
        return scan(self._path, self._keys)

    def named(self, names: str) -> list[BundleFolder]:
        """Lists what there is of some models.

        Args:
            names: Separated by commas, `all`, or empty for none.

        Raises:
            StartupError: There is no bundle of one of them.
        """
        bundles = self.all()
        if names == "all":
            return bundles
        wanted = {name for name in names.split(",") if name}
        for name in sorted(wanted - {bundle.name for bundle in bundles}):
            raise StartupError(
                f"--load-models names '{name}', but the models folder '{self._path}' holds no bundle of that name: "
                "correct the name, or put the bundle there."
            )
        return [bundle for bundle in bundles if bundle.name in wanted]

    def follow(self) -> None:
        """Begins to bring what comes and goes elsewhere; a folder on a disk has all there is."""

    def close(self) -> None:
        """Ends that."""

    def policy(self, name: str) -> pb.ServingPolicy:
        """Reads how the versions of a model are to be served.

        Raises:
            BundleError: Its serving.json does not hold.
        """
        return serving.read(self._path / name)

    def check_no_file(self, name: str) -> None:
        """Refuses a file in the place of a model's folder: nobody takes a model away like that.

        Raises:
            BundleError: There is one.
        """
        path = self._path / name
        # Unlike Path.is_file, it tells of what cannot be looked at that it is none.
        if os.path.isfile(path):
            raise BundleError(
                f"'{path}' is a file where a folder was; put that back, or remove it.", reason=UNREADABLE
            )

    def states(
        self, bundles: list[BundleFolder] | None = None, known: Collection[str] = ()
    ) -> dict[str, ModelOnDisk]:
        """How models lie on the disk, by name.

        Args:
            bundles: Of which; None for all, those included that cannot be read.
            known: Those that there were.
        """
        found = listing(self._path) if bundles is None else Listing(bundles, {})
        for name in known:
            try:
                self.check_no_file(name)
            except BundleError as error:
                found.unreadable[name] = error
        versions: dict[str, dict[int, BundleState]] = {}
        for bundle in found.bundles:
            versions.setdefault(bundle.name, {})[bundle.version] = bundle.state()
        return {
            **{
                name: ModelOnDisk(serving.state(self._path / name), states)
                for name, states in versions.items()
            },
            **{name: ModelOnDisk(None, {}, error.message) for name, error in found.unreadable.items()},
        }
