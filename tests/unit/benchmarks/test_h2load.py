"""What is made of h2load's log and of two readings of the clocks."""

import pytest
from benchmarks import h2load
from benchmarks.h2load import Answer, LoadError, Reading

from retinue_server.runtime.providers import available_cores

FIRST = Reading(at=100.0, server_cpu_seconds=5.0, client_cpu_seconds=1.0, progress=None)
LAST = Reading(at=110.0, server_cpu_seconds=20.0, client_cpu_seconds=1.5, progress=None)


def test_a_line_of_the_log_says_when_an_answer_ended_and_how_long_it_took() -> None:
    (answer,) = h2load.parse(["1795779715154815\t200\t31210\tperhaps more"])

    assert answer.status == "200"
    assert answer.seconds == pytest.approx(0.03121)
    assert answer.ended == pytest.approx(1795779715.186025, abs=1e-5)


def test_only_what_ended_between_the_readings_counts() -> None:
    answers = [Answer(ended, 0.1, "200") for ended in (99.0, 99.9, 100.0, 105.0, 109.9, 110.0, 111.0)]

    load = h2load.summary(answers, FIRST, LAST)

    assert load.requests == 3
    assert load.progress_per_second == pytest.approx(0.3)


def test_what_the_caller_counts_wins_over_requests() -> None:
    first = Reading(100.0, 0.0, 0.0, progress=1000.0)
    last = Reading(110.0, 0.0, 0.0, progress=3500.0)

    load = h2load.summary([Answer(105.0, 0.1, "200")], first, last)

    assert load.progress_per_second == pytest.approx(250)


def test_cpu_time_is_that_between_the_readings() -> None:
    load = h2load.summary([Answer(105.0, 0.1, "200")], FIRST, LAST)

    assert load.server_cores == pytest.approx(1.5)
    assert load.client_share == pytest.approx(0.05 / available_cores())


def test_latencies_are_percentiles_of_what_counts() -> None:
    answers = [Answer(101.0 + number / 100, number / 1000, "200") for number in range(1, 101)]

    load = h2load.summary([Answer(90.0, 9.0, "200"), *answers], FIRST, LAST)

    assert load.p50_ms == pytest.approx(50.5)
    assert load.p99_ms == pytest.approx(100)


@pytest.mark.parametrize("status", ["503", "-1"])
def test_one_failed_request_spoils_the_measurement(status: str) -> None:
    answers = [Answer(99.0, 0.1, status), Answer(105.0, 0.1, "200")]

    with pytest.raises(LoadError, match=f"1 of 2 requests failed, the first with status {status}"):
        h2load.summary(answers, FIRST, LAST)


def test_a_grpc_call_is_framed_and_says_what_it_is() -> None:
    call = h2load.grpc("127.0.0.1:80", "/a.Service/Method", b"x" * 300)

    assert call.url == "http://127.0.0.1:80/a.Service/Method"
    assert call.body == b"\0\0\0\x01\x2c" + b"x" * 300
    assert call.headers == ("content-type: application/grpc", "te: trailers")


def test_without_h2load_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(LoadError, match="scripts/install-system-packages installs it"):
        h2load.drive(h2load.grpc("127.0.0.1:1", "/a.Service/Method", b""), h2load.Tree(1), 1, 0.1)
