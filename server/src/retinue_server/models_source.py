"""Where models come from: a folder, or a copy of what lies elsewhere."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from retinue_server.bundle.folder import ModelsFolder
from retinue_server.bundle.mirror import Mirror
from retinue_server.bundle.mirrored import MirroredFolder
from retinue_server.bundle.remote import RemoteModels, is_remote
from retinue_server.errors import StartupError
from retinue_server.metrics import Metrics
from retinue_server.runtime.cache import why_unusable
from retinue_server.settings import Settings
from retinue_server.signers import SignerFile


def folder(settings: Settings, metrics: Metrics, *, cancelled: Callable[[], bool]) -> ModelsFolder:
    """Where the models lie, or where copies of them do.

    Args:
        settings: Say where.
        metrics: Where it is told how the copies stand.
        cancelled: Whether to copy no more.

    Raises:
        StartupError: There is nowhere to copy them to.
    """
    signers = SignerFile.of(settings)
    keys = signers.current if signers else None
    if not is_remote(settings.models):
        return ModelsFolder(Path(settings.models), keys)
    mirrors = settings.expanded_cache_folder / "mirror"
    if why := why_unusable(mirrors):
        raise StartupError(
            f"--models is an address, of which a copy is kept in '{mirrors}', and that cannot be used: {why}; "
            "name another folder with --cache-folder."
        )
    remote = RemoteModels(settings.models, settings.parsed_models_options)
    # With other options the same address may be another place.
    told = f"{settings.models}\n{settings.models_options}"
    copies = mirrors / hashlib.sha256(told.encode()).hexdigest()[:32]
    mirror = Mirror(remote, copies, limit_bytes=settings.mirror_limit, cancelled=cancelled)
    metrics.publish_mirror(mirror.state)
    return MirroredFolder(mirror, ModelsFolder(mirror.models, keys), settings.model_control, keys)


def could_be_loaded(settings: Settings, models: ModelsFolder) -> Callable[[str], bool]:
    """Whether a call can load a model. To look takes microseconds, and is for those who name what is not served."""
    return models.holds if settings.model_control == "explicit" else lambda name: False
