"""The folder of all models where they lie elsewhere: each question first brings what it is about."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from retinue.v1 import serving_pb2 as pb

from retinue_server.bundle.folder import ModelsFolder
from retinue_server.bundle.mirror import BESIDE, Mirror
from retinue_server.bundle.repository import BundleFolder, TrustedKeys
from retinue_server.bundle.serving import SERVING_FILE
from retinue_server.errors import BundleError, MirrorError, ModelControlError, StartupError, UnavailableError


class MirroredFolder(ModelsFolder):
    """A mirror as a folder of models. Where it cannot be brought up to date, what it has is served.

    At the start all is copied or, where calls load, what is to be loaded then. A load by call copies that model first.
    What is asked besides is answered without a copy: by what is here or, where calls load, by a listing.

    Args:
        mirror: What copies.
        local: The folder that it keeps.
        control: Who says that models come and go.
        keys: Whose signature the bundles need; None where they need none.
    """

    # What comes to the copy comes whole, and later than it came there.
    look_seconds = 0.25

    def __init__(
        self,
        mirror: Mirror,
        local: ModelsFolder,
        control: Literal["none", "explicit", "watch"],
        keys: TrustedKeys | None = None,
    ) -> None:
        super().__init__(mirror.models, keys)
        self._mirror = mirror
        self._local = local
        self._by_calls = control == "explicit"

    def all(self, name: str | None = None) -> list[BundleFolder]:
        """Lists what there is, also of what is not copied yet."""
        if not self._by_calls:
            return self._local.all(name)
        try:
            keys = self._mirror.keys(name)
        except MirrorError:
            # It is in the log and in a metric.
            return self._local.all(name)
        models = self._mirror.models
        return [BundleFolder(of, version, models / of / str(version), self._keys) for of, version in keys]

    def brought(self, name: str | None = None) -> list[BundleFolder]:
        """Copies and lists what is to be served.

        Raises:
            UnavailableError: Nothing of that name is here, and what there is elsewhere cannot be listed.
            ModelControlError: Nothing of that name can be copied.
            StartupError: Nothing is here at all, and what there is elsewhere cannot be listed.
        """
        if name is None:
            self._reach(self._mirror.update)
            return self._local.all()
        if not self._by_calls:
            return self._local.all(name)
        try:
            self._mirror.update(name)
        except MirrorError as error:
            if not self._local.all(name):
                # Why is in the log: addresses are not the caller's to know.
                raise UnavailableError(
                    f"where the models lie cannot be reached now, and '{name}' has not been copied yet; retry later.",
                    reason=error.reason,
                ) from error
        bundles = self._local.all(name)
        if not bundles and (why := self._why_refused(name)):
            raise ModelControlError(f"model '{name}' cannot be copied: {why}", reason="MODEL_NOT_COPIED")
        return bundles

    def at_least_one(self) -> list[BundleFolder]:
        """Copies all; lists what is to be served of it.

        Raises:
            StartupError: There is nothing.
        """
        bundles = self.brought()
        if not bundles and not self._mirror.stopping:
            raise StartupError(
                f"nothing at '{self._mirror.shown}' can be served: expected NAME/VERSION/model.onnx and manifest.json, "
                f"VERSION being 1, 2, ... {self._why_refused()}".rstrip()
            )
        return bundles

    def named(self, names: str) -> list[BundleFolder]:
        """Copies and lists what is to be served of some models.

        Raises:
            StartupError: There is no bundle of one of them, or what there is elsewhere cannot be listed.
        """
        wanted = [name for name in names.split(",") if name and names != "all"]
        if names == "all":
            self._reach(self._mirror.update)
        elif not wanted:
            # So that a wrong address is known now.
            self._reach(self._mirror.keys)
        for name in wanted:
            self._reach(partial(self._mirror.update, name), name)
        return self._local.named(names)

    def policy(self, name: str) -> pb.ServingPolicy:
        """Reads how the versions of a model are to be served.

        Raises:
            BundleError: Its serving.json does not hold, or there is one elsewhere and none could be copied: without it,
                more might be served than was meant.
        """
        why = self._mirror.state().refused.get((name, BESIDE))
        if why and not (self._mirror.models / name / SERVING_FILE).exists():
            raise BundleError(f"{SERVING_FILE} cannot be copied: {why}", reason="SERVING_POLICY_NOT_COPIED")
        return super().policy(name)

    def follow(self) -> None:
        """Begins to copy what comes, and to remove what goes."""
        self._mirror.follow()

    def close(self) -> None:
        """Ends that, and what is being copied."""
        self._mirror.close()

    def _reach(self, ask: Callable[[], object], name: str | None = None) -> None:
        """Asks the mirror; where what it copies cannot be listed, what is here has to do.

        Raises:
            MirrorError: There is nothing.
        """
        try:
            ask()
        except MirrorError:
            if not self._local.all(name):
                raise
            self._mirror.tell_of_trouble()

    def _why_refused(self, name: str | None = None) -> str:
        refused = self._mirror.state().refused
        return next((why for (of, _), why in sorted(refused.items()) if name in {None, of}), "")
