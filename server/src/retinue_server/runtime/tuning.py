"""Profiles of models: measured once on a machine, then remembered."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import structlog

from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.profile import Profile, fastest_seconds, measure, seconds_together
from retinue_server.runtime.providers import Provider, available_cores
from retinue_server.runtime.session import Machine

_log = structlog.get_logger(__name__)

Tune = Literal["off", "fast", "full"]

_BUDGET_SECONDS = {"fast": 0.1, "full": 2.0}
_ROUNDS = {"fast": 3, "full": 30}
# All cores for one image must be worth that much of its time: else a second caller only gets in the way.
_WORTH_ALL_CORES = 0.9
# A plan other than the usual one must be so much better.
_WORTH_ANOTHER_PLAN = 0.97
_PLAN_ROUNDS = 3
_PLAN_SECONDS = 0.3

# More than any machine has: a file that says so was not written by this server.
_MOST_ARENA_BYTES = 2**48

Run = Callable[[npt.NDArray[np.uint8]], object]


class Tuner:
    """Finds out how to run models.

    Args:
        tune: "fast" measures what was not measured before, "full" measures everything anew and longer, "off" measures
            no speed: a model without a profile then runs image by image.
        machine: What runs the models.
        kept: Where profiles are kept.
        goal_seconds: Within which nearly all images are to be answered; bounds the batches.
    """

    def __init__(
        self, tune: Tune, machine: Machine, kept: ModelCache, *, goal_seconds: float = math.inf
    ) -> None:
        self._tune = tune
        self._kept = kept
        self._goal_seconds = goal_seconds
        self._instances = machine.threads.instances
        self._on_gpu = machine.provider.on_gpu
        # Besides the model and the processor, a profile depends on these.
        provider, threads = machine.provider, machine.threads
        setting = f"{provider.name}-{provider.devices[0]}-{threads.instances}x{threads.per_instance}"
        self._setting = f"{setting}-of-{available_cores()}{_gpu_facts(provider)}"
        self._name = f"profile-{self._setting}.json"

    def profile(
        self,
        sha256: str,
        image_shape: tuple[int, int, int],
        run: Run,
        run_alone: Run | None,
        on_refusal: Callable[[int, Exception], None],
    ) -> Profile:
        """A model's profile, remembered or measured.

        Args:
            sha256: Of the model's file.
            image_shape: H, W, C of its images.
            run: Runs it on uint8 [N,H,W,C].
            run_alone: Does so with all cores, where it can.
            on_refusal: As for `measure`.

        Raises:
            Exception: The network cannot run one image.
        """
        profile = None if self._tune == "full" else self._remembered(sha256)
        if profile is None:
            profile = self._measured(image_shape, run, run_alone, on_refusal)
            if self._tune != "off":
                self._remember(sha256, self._name, asdict(profile))
        return profile.within(self._goal_seconds)

    def arena_bytes(self, sha256: str, profile: Profile, measure: Callable[[], int]) -> int:
        """What a model's arenas hold at most, remembered or measured.

        Args:
            sha256: Of the model's file.
            profile: How it is run.
            measure: Finds it out.

        Raises:
            Exception: From `measure`.
        """
        plan = f"{profile.max_batch_size}x{profile.instances}-{profile.alone_on_all_cores:d}{profile.all_cores:d}"
        name = f"arena-{self._setting}-{plan}.json"
        told = None if self._tune == "full" else self._read(sha256, name)
        if type(told) is int and 0 <= told < _MOST_ARENA_BYTES:
            return told
        size_bytes = measure()
        self._remember(sha256, name, size_bytes)
        return size_bytes

    def _measured(
        self,
        image_shape: tuple[int, int, int],
        run: Run,
        run_alone: Run | None,
        on_refusal: Callable[[int, Exception], None],
    ) -> Profile:
        image = np.random.default_rng(0).integers(0, 256, (1, *image_shape), dtype=np.uint8)
        if self._tune == "off":
            seconds = fastest_seconds(run, image, rounds=1)
            return Profile((1,), (seconds,), lone_seconds=seconds)
        tried = partial(
            measure,
            image_shape=image_shape,
            on_gpu=self._on_gpu,
            budget_seconds=_BUDGET_SECONDS[self._tune],
            on_refusal=on_refusal,
        )
        profile = tried(run)
        if self._tune == "full" and not self._on_gpu:
            profile = self._best_under_load(
                profile, image_shape, run, tried(run_alone) if run_alone else None
            )
        if run_alone is not None:
            seconds = fastest_seconds(run_alone, image, _ROUNDS[self._tune])
            profile = replace(
                profile,
                lone_seconds=min(seconds, profile.lone_seconds),
                alone_on_all_cores=seconds < _WORTH_ALL_CORES * profile.lone_seconds,
            )
        return profile

    def _best_under_load(
        self, profile: Profile, image_shape: tuple[int, int, int], run: Run, on_all_cores: Profile | None
    ) -> Profile:
        """How many batches at once, of one core each or one of all cores, give the most images a second together.

        Many at once share the memory's bandwidth: a large network may be better off with fewer.
        """
        size = profile.max_batch_size
        images = np.random.default_rng(0).integers(0, 256, (size, *image_shape), dtype=np.uint8)
        counts = [self._instances]
        while counts[-1] > 1:
            counts.append(counts[-1] // 2)
        rates = dict.fromkeys(counts, 0.0)
        # In turns, and the best of each: other work on the machine only ever makes a run slower.
        for _ in range(_PLAN_ROUNDS):
            for instances in counts:
                seconds = seconds_together(lambda: run(images), instances, _PLAN_SECONDS)
                rates[instances] = max(rates[instances], instances * size / seconds)
        best = max(rates, key=lambda instances: rates[instances])
        usual = rates[self._instances]
        if on_all_cores is not None and on_all_cores.images_per_second * _WORTH_ANOTHER_PLAN > max(
            usual, rates[best]
        ):
            return replace(on_all_cores, lone_seconds=profile.lone_seconds, instances=1, all_cores=True)
        return replace(profile, instances=best) if rates[best] * _WORTH_ANOTHER_PLAN > usual else profile

    def _remembered(self, sha256: str) -> Profile | None:
        told = self._read(sha256, self._name)
        if told is None:
            return None
        try:
            return Profile.parse(told)
        except ValueError as error:
            _log.warning("profile_unreadable", name=self._name, reason=str(error))
            return None

    def _read(self, sha256: str, name: str) -> Any:
        path = self._kept.find(sha256, name)
        if path is None:
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            _log.warning("profile_unreadable", path=str(path), reason=str(error))
            return None

    def _remember(self, sha256: str, name: str, what: object) -> None:
        def write(path: Path) -> None:
            path.write_text(json.dumps(what), encoding="utf-8")

        try:
            self._kept.drop(sha256, name)
            self._kept.keep(sha256, name, write)
        except OSError as error:
            _log.warning("profile_not_kept", reason=str(error))


def _gpu_facts(provider: Provider) -> str:
    """What a profile depends on besides on a GPU, as a few characters: which there are, and what is set."""
    if not provider.on_gpu:
        return ""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [path.read_text(encoding="utf-8", errors="replace").splitlines()[:1] for path in gpus]
    return "-" + hashlib.sha256(repr((models, provider.chain)).encode()).hexdigest()[:8]
