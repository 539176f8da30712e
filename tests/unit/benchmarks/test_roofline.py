"""How the roofline's best setting is looked for."""

from benchmarks import roofline
from benchmarks.ceiling import Measurement, Setting

ONE = Setting(processes=1, workers=1, threads=1, spinning=False, batch=1)


def climbed(rates: dict[int, float], longest_seconds: float = 10.0, batch_ms: float = 1.0) -> list[int]:
    """The batches that are tried where a batch size reaches so many images a second."""

    def measure(setting: Setting) -> Measurement:
        return Measurement(setting, rates.get(setting.batch, 1.0), 0.001, batch_ms * setting.batch)

    return [measured.setting.batch for measured in roofline.climb(ONE, measure, longest_seconds)]


def test_larger_batches_are_tried_as_long_as_they_are_worth_it() -> None:
    assert climbed({1: 100, 2: 110, 4: 120, 8: 119, 16: 90, 32: 80}) == [1, 2, 4, 8, 16, 32]


def test_one_slow_measurement_does_not_end_the_climb() -> None:
    assert climbed({1: 100, 2: 60, 4: 130, 8: 100, 16: 100, 32: 500}) == [1, 2, 4, 8, 16]


def test_batches_that_take_long_are_not_made_larger() -> None:
    assert climbed(dict.fromkeys((1, 2, 4, 8, 16, 32, 64), 100.0), longest_seconds=0.5, batch_ms=200) == [
        1,
        2,
        4,
    ]


def test_the_plans_use_all_cores_in_every_way_once() -> None:
    plans = roofline.plans(2)

    assert len(plans) == len(set(plans)) == 7
    assert Setting(1, 2, 1, False, 1) in plans
    assert Setting(2, 1, 1, False, 1) in plans
    assert Setting(1, 1, 2, True, 1) in plans
    assert len(roofline.plans(1)) == len(set(roofline.plans(1)))


def test_a_lone_image_has_the_machine_to_itself() -> None:
    assert ONE.lone
    assert not ONE.with_batch(2).lone
    assert not Setting(2, 1, 1, False, 1).lone


def test_a_setting_says_itself_in_words() -> None:
    assert str(ONE) == "1 process of 1 worker of 1 thread, batch 1"
    assert str(Setting(2, 3, 2, True, 4)) == "2 processes of 3 workers of 2 threads, spinning, batch 4"
