"""All targets, by name, and the inputs that once broke one."""

from pathlib import Path

from tests.fuzz import bundle_targets, image_targets, request_targets
from tests.fuzz.target import Target

REGRESSIONS = Path(__file__).parent / "regressions"

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (*image_targets.TARGETS, *bundle_targets.TARGETS, *request_targets.TARGETS)
}


def regressions(target: Target) -> list[Path]:
    """The files with inputs that once broke it."""
    return sorted((REGRESSIONS / target.name).glob("*"))
