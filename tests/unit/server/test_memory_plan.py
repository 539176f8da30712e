import pytest

from retinue_server import memory_plan
from retinue_server.runtime.memory import MemoryLimit, MemoryUse
from retinue_server.settings import MIB, Settings


def test_without_a_limit_of_memory_settings_stay_as_they_are() -> None:
    settings = Settings()
    assert memory_plan.within(settings, 0) is settings


def test_what_requests_take_leaves_the_models_three_quarters() -> None:
    for workers in (0, 4):
        fitting = memory_plan.within(Settings(workers=workers), 2048 * MIB)
        assert memory_plan.room_bytes(fitting) <= 512 * MIB
        assert memory_plan.room_bytes(fitting) > 500 * MIB
        # One front-end has a share, and may take a lone request of any size.
        assert fitting.max_request_bytes * (workers or 1) <= fitting.max_bytes_in_flight
        assert fitting.max_reply_bytes * (workers or 1) <= fitting.max_bytes_in_flight


def test_what_is_set_stays_and_what_fits_stays() -> None:
    settings = Settings(max_bytes_in_flight=10**9, max_request_bytes=10**8)
    fitting = memory_plan.within(settings, 1024 * MIB)
    assert (fitting.max_bytes_in_flight, fitting.max_request_bytes) == (10**9, 10**8)
    assert fitting.max_decoded_bytes_in_flight == 128 * MIB
    assert memory_plan.within(Settings(), 2**40) == Settings()


def test_what_models_without_a_manifest_may_work_in_is_no_reason_to_refuse_requests() -> None:
    limit = MemoryLimit(own_bytes=100 * MIB, requests_bytes=400 * MIB)
    assert memory_plan.ceiling_bytes(limit) == pytest.approx(450 * MIB)
    limit.take(MemoryUse(shared_bytes=1000 * MIB))
    assert memory_plan.ceiling_bytes(limit) == pytest.approx(1350 * MIB)


def test_a_process_is_never_to_have_more_than_nearly_all_of_its_limit() -> None:
    limit = MemoryLimit(1000 * MIB, own_bytes=100 * MIB, requests_bytes=250 * MIB)
    assert memory_plan.ceiling_bytes(limit) == pytest.approx(750 * MIB)
    limit.take(MemoryUse(shared_bytes=5000 * MIB))
    assert memory_plan.ceiling_bytes(limit) == pytest.approx(900 * MIB)
