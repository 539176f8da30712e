"""Whatever fails, whoever leaves: every accepted image is answered once, or withdrawn, and nothing is left behind."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.fault_schedules import run_schedules
from tests.fuzz.pipeline_schedule import PipelineSchedule
from tests.fuzz.schedule import Schedule

# A share of the 10,000 of `make fuzz`.
_SCHEDULES = 1_000


def test_no_answer_is_lost_or_doubled_in_a_thousand_fault_schedules() -> None:
    outcomes = run_schedules(range(_SCHEDULES))
    # Every way in which an image can end was there, often.
    assert outcomes["pipeline: answered"] > _SCHEDULES / 5, outcomes
    for what in (
        "answered",
        "withdrawn",
        "DEADLINE_EXPIRED",
        "ENGINE_FAILED",
        "GAVE_WAY",
        "MODEL_HUNG",
        "MODEL_UNREADY",
        "UNLOADING",
        "IMAGE_UNDECODABLE",
    ):
        assert outcomes[what] > _SCHEDULES / 5, outcomes


@settings(max_examples=50, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_no_answer_is_lost_or_doubled_in_a_schedule_that_is_looked_for(chance: random.Random) -> None:
    Schedule(chance).run()
    PipelineSchedule(chance).run()


def test_a_schedule_is_the_same_each_time() -> None:
    assert run_schedules(range(20)) == run_schedules(range(20))
