"""Random schedules of requests and faults for the batching core, and what must hold in each of them.

    python -m tests.fuzz.fault_schedules --count 10000

A schedule is made up by a seed: callers that submit, leave and set deadlines, networks that raise, answer too few, are
slow, hang or kill their thread, a watchdog and models that are healed, models that are closed, an engine that is
stopped. Threads are simulated, time is driven by hand, so a seed always does the same.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence

from tests.fuzz.pipeline_schedule import PipelineSchedule
from tests.fuzz.schedule import Schedule

# Of so many schedules one is of pipelines.
_PIPELINES = 8


def run_schedules(seeds: Sequence[int]) -> Counter[str]:
    """Runs the schedules of these seeds, and returns how many items came to which end.

    Raises:
        AssertionError: Of the first that fails; it says which.
    """
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        kind = PipelineSchedule if seed % _PIPELINES == 0 else Schedule
        schedule = kind(random.Random(seed))
        try:
            schedule.run()
        except BaseException as error:
            error.add_note(f"schedule {seed}")
            raise
        outcomes.update(schedule.outcomes)
    return outcomes


def main() -> int:
    """Runs as many as are asked for and prints what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="schedules")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    arguments = parser.parse_args()
    outcomes = run_schedules(range(arguments.first, arguments.first + arguments.count))
    print(f"{arguments.count} schedules, {sum(outcomes.values())} images, none lost, none answered twice:")
    for what, count in outcomes.most_common():
        print(f"  {count:>9,}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
