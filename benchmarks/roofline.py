"""The most that this machine can do of each workload: the best of all settings of processes, threads and batches.

Every other figure stands beside it. It is measured anew in the same minute as what it is compared with; only which
setting is best is looked for once.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from benchmarks import ceiling, workloads
from benchmarks.ceiling import Measurement, Setting
from benchmarks.workloads import Workload
from retinue_server.runtime.providers import available_cores

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_WORTH_CLIMBING = 0.93
"""Larger batches are tried until two in a row miss this share of the fastest so far."""
_FINALISTS = 3


@dataclass(frozen=True)
class Roofline:
    """The most that can be done of one workload.

    Attributes:
        workload: Which.
        tried: Every setting, measured shortly.
        best: The setting of most images a second.
        lone: The setting in which an image alone is answered soonest.
    """

    workload: Workload
    tried: list[Measurement]
    best: Setting
    lone: Setting

    def measure(self, seconds: float) -> Measurement:
        """Images a second and CPU time an image, in the best setting."""
        return _measure(self.workload, self.best, seconds)

    def lone_ms(self, seconds: float) -> float:
        """Median time of decoding, resizing and running one image that has the machine to itself."""
        return _measure(self.workload, self.lone, seconds).batch_ms


@cache
def of(workload: Workload, *, quick: bool) -> Roofline:
    """Looks for the best settings."""
    short_seconds, long_seconds = (0.2, 0.4) if quick else (0.5, 2.0)
    tried = [
        measured
        for plan in plans(available_cores())
        for measured in climb(plan, lambda setting: _measure(workload, setting, short_seconds), short_seconds)
    ]
    fastest = sorted(tried, key=lambda measured: measured.images_per_second, reverse=True)
    finalists = [_measure(workload, one.setting, long_seconds) for one in fastest[:_FINALISTS]]
    alone = [one.setting for one in tried if one.setting.lone]
    lone = [_measure(workload, setting, long_seconds) for setting in alone]
    return Roofline(
        workload,
        tried,
        best=max(finalists, key=lambda measured: measured.images_per_second).setting,
        lone=min(lone, key=lambda measured: measured.batch_ms).setting,
    )


def plans(cores: int) -> list[Setting]:
    """What is worth trying at each batch size.

    A worker a core, and one more, which has the core while another waits for the interpreter; a process a core, which
    share no interpreter; all cores on one batch, with threads that sleep or spin; and on two batches.
    """
    shapes = [
        (1, cores, 1, False),
        (1, cores + 1, 1, False),
        (cores, 1, 1, False),
        (1, 1, 1, False),
        (1, 1, cores, False),
        (1, 1, cores, True),
        (1, 2, cores, False),
    ]
    return [Setting(*shape, batch=1) for shape in dict.fromkeys(shapes)]


def climb(
    plan: Setting, measure: Callable[[Setting], Measurement], longest_seconds: float
) -> list[Measurement]:
    """Measures a plan with larger and larger batches, until they make it slower or take longer than is worth it."""
    measured: list[Measurement] = []
    for batch in _BATCHES:
        measured.append(measure(plan.with_batch(batch)))
        worth_climbing = _WORTH_CLIMBING * max(one.images_per_second for one in measured)
        if all(one.images_per_second < worth_climbing for one in measured[-2:]):
            break
        if measured[-1].batch_ms > 1000 * longest_seconds:
            break
    return measured


def _measure(workload: Workload, setting: Setting, seconds: float) -> Measurement:
    return ceiling.measure(workload.bundle, workload.image, setting, seconds)


def run(*, quick: bool) -> dict[str, Any]:
    """Finds and measures the roofline of every workload."""
    seconds = 0.5 if quick else 4.0
    rows = []
    for workload in workloads.all_of_them():
        found = of(workload, quick=quick)
        measured = found.measure(seconds)
        rows.append(
            {
                "workload": workload.title,
                "best": asdict(measured),
                "setting": str(found.best),
                "lone_ms": found.lone_ms(seconds),
                "lone_setting": str(found.lone),
                "tried": [asdict(one) for one in found.tried],
            }
        )
    return {"workloads": rows}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| workload | images/s | CPU ms/image | fastest with | one image alone, ms | soonest with |",
        "|---|---:|---:|---|---:|---|",
    ]
    lines += [
        f"| {row['workload']} | {row['best']['images_per_second']:,.0f} "
        f"| {1000 * row['best']['cpu_seconds_per_image']:.2f} | {row['setting']} "
        f"| {row['lone_ms']:.2f} | {row['lone_setting']} |"
        for row in result["workloads"]
    ]
    return "\n".join(lines)
