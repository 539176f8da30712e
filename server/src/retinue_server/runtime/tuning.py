"""Profiles of models: measured once on a machine, then remembered."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import structlog

from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.profile import Profile, fastest_seconds, measure
from retinue_server.runtime.providers import available_cores
from retinue_server.runtime.session import Machine

_log = structlog.get_logger(__name__)

Tune = Literal["off", "fast", "full"]

_BUDGET_SECONDS = {"fast": 0.1, "full": 2.0}
_ROUNDS = {"fast": 3, "full": 30}
# All cores for one image must be worth that much of its time: else a second caller only gets in the way.
_WORTH_ALL_CORES = 0.9

Run = Callable[[npt.NDArray[np.uint8]], object]


class Tuner:
    """Finds out how to run models.

    Args:
        tune: "fast" measures what was not measured before, "full" measures everything anew and longer, "off" measures
            nothing: a model without a profile then runs image by image.
        machine: What runs the models.
        kept: Where profiles are kept.
    """

    def __init__(self, tune: Tune, machine: Machine, kept: ModelCache) -> None:
        self._tune = tune
        self._kept = kept
        self._on_gpu = machine.provider.on_gpu
        # Besides the model and the processor, a profile depends on these.
        provider, threads = machine.provider, machine.threads
        setting = f"{provider.name}-{provider.device}-{threads.instances}x{threads.per_instance}"
        self._name = f"profile-{setting}-of-{available_cores()}.json"

    def profile(
        self,
        sha256: str,
        image_shape: tuple[int, int, int],
        run: Run,
        run_alone: Run | None,
        on_refusal: Callable[[int, Exception], None],
    ) -> Profile:
        """A model's profile, remembered or measured. On a GPU every size of it has run when this returns.

        Args:
            sha256: Of the model's file.
            image_shape: H, W, C of its images.
            run: Runs it on uint8 [N,H,W,C].
            run_alone: Runs it on one image with all cores, where it can.
            on_refusal: As for `measure`.

        Raises:
            Exception: The network cannot run one image.
        """
        known = None if self._tune == "full" else self._remembered(sha256)
        if known is not None:
            # A GPU's libraries choose their kernels in the first run of a size, for which no caller should wait.
            for size in known.batch_sizes if self._on_gpu else ():
                run(np.zeros((size, *image_shape), np.uint8))
            return known
        image = np.random.default_rng(0).integers(0, 256, (1, *image_shape), dtype=np.uint8)
        if self._tune == "off":
            return Profile((1,), images_per_second=1 / fastest_seconds(run, image, rounds=1))
        profile = measure(
            run,
            image_shape,
            on_gpu=self._on_gpu,
            budget_seconds=_BUDGET_SECONDS[self._tune],
            on_refusal=on_refusal,
        )
        if run_alone is not None:
            seconds = fastest_seconds(run_alone, image, _ROUNDS[self._tune])
            profile = replace(
                profile,
                lone_seconds=min(seconds, profile.lone_seconds),
                alone_on_all_cores=seconds < _WORTH_ALL_CORES * profile.lone_seconds,
            )
        self._remember(sha256, profile)
        return profile

    def _remembered(self, sha256: str) -> Profile | None:
        path = self._kept.find(sha256, self._name)
        if path is None:
            return None
        try:
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return Profile(**{**told, "batch_sizes": tuple(told["batch_sizes"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("profile_unreadable", path=str(path), reason=str(error))
            return None

    def _remember(self, sha256: str, profile: Profile) -> None:
        def write(path: Path) -> None:
            path.write_text(json.dumps(asdict(profile)), encoding="utf-8")

        try:
            self._kept.drop(sha256, self._name)
            self._kept.keep(sha256, self._name, write)
        except OSError as error:
            _log.warning("profile_not_kept", reason=str(error))
