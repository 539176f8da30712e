import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from retinue_server import log


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    before = root.handlers, root.level, uvicorn.level
    structure = structlog.get_config()
    yield
    root.handlers, uvicorn_level = before[0], before[2]
    root.setLevel(before[1])
    uvicorn.setLevel(uvicorn_level)
    structlog.configure(**structure)


def logged(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    log.flush()
    captured = capfd.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_json_logs_are_one_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    structlog.get_logger("a.module").info("model_loaded", model="cats", seconds=0.5)
    (event,) = logged(capfd)
    assert event.pop("timestamp", "").endswith("Z")  # type: ignore[attr-defined]
    assert event == {
        "event": "model_loaded",
        "level": "info",
        "logger": "a.module",
        "model": "cats",
        "seconds": 0.5,
    }


def test_libraries_log_the_same_way(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    logging.getLogger("a.library").warning("disk at %d %%", 99)
    (event,) = logged(capfd)
    assert (event["event"], event["level"], event["logger"]) == ("disk at 99 %", "warning", "a.library")
    assert "timestamp" in event


def test_less_severe_events_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("warning", "json")
    logger = structlog.get_logger("a.module")
    logger.info("unheard")
    logging.getLogger("a.library").info("unheard")
    logger.warning("heard")
    assert [event["event"] for event in logged(capfd)] == ["heard"]


def test_an_exception_is_one_field_of_its_event(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("a.module").exception("batch_failed", batch_size=3)
        logging.getLogger("a.library").exception("library_failed")
    for event, name in zip(logged(capfd), ("batch_failed", "library_failed"), strict=True):
        assert (event["event"], event["level"]) == (name, "error")
        assert "ValueError: boom" in str(event["exception"])


def test_the_console_is_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")
    structlog.get_logger("a.module").info("model_loaded", model="cats")
    log.flush()
    text = capfd.readouterr().err
    assert "model_loaded" in text
    assert "model=cats" in text
    assert not text.startswith("{")
    # Without colours, as it is no terminal.
    assert "\x1b" not in text


def test_where_there_is_no_terminal_auto_is_json(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "auto")
    structlog.get_logger("a.module").info("ready")
    assert logged(capfd)[0]["event"] == "ready"


def test_on_the_console_nothing_begins_a_line_or_moves_the_cursor(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")
    forged = "name\r\n2026-01-01T00:00:00Z [error    ] forged\x1b[2J\x9b2J\u2028\u202e"
    structlog.get_logger("a.module").info("model_loaded", model=forged, names=[forged], path=b"\x1b\n")
    logging.getLogger("a.library").warning("a name: %s", forged)
    try:
        raise ValueError(forged)
    except ValueError:
        structlog.get_logger("a.module").exception("batch_failed", model=forged)
    log.flush()
    text = capfd.readouterr().err
    assert set(text) & {"\r", "\x1b", "\x9b", "\u2028", "\u202e"} == set()
    assert [
        line for line in text.splitlines() if line.startswith("2026-01-01") and line.split()[3] == "forged"
    ] == []
    begun = [line for line in text.splitlines() if not line.startswith("    | ")]
    assert len(begun) == 3


def test_no_traceback_shows_what_variables_hold(capfd: pytest.CaptureFixture[str]) -> None:
    for log_format in ("console", "json"):
        log.configure("info", log_format)  # type: ignore[arg-type]
        token = "".join(["a", "-secret"])
        try:
            raise ValueError("boom")
        except ValueError:
            structlog.get_logger("a.module").exception("call_failed")
        log.flush()
        text = capfd.readouterr().err
        assert "ValueError: boom" in text
        assert token not in text


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_too_many_events_of_a_name_are_counted_instead() -> None:
    clock = FakeClock()
    throttle = log.Throttle(clock)

    def let_through(count: int, event: str) -> list[dict[str, object]]:
        records = [
            logging.LogRecord("a.module", logging.ERROR, "", 0, {"event": event}, (), None)
            for _ in range(count)
        ]
        return [record.msg for record in records if throttle.filter(record)]  # type: ignore[misc]

    assert len(let_through(900, "image_failed")) == 500
    # Others have their own room.
    assert let_through(1, "batch_failed") == [{"event": "batch_failed"}]
    clock.now = 0.05
    assert let_through(1, "image_failed") == [{"event": "image_failed", "left_out": 400}]
    assert let_through(1, "image_failed") == [{"event": "image_failed"}]
    # What nobody has used is not kept for ever.
    clock.now = 3600
    assert len(let_through(900, "image_failed")) == 500
    # Of calls an operator may want more.
    assert len(let_through(1100, "call")) == 1000


def test_what_is_said_comes_in_turn_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    log.say("It is ready.\nUse it.")
    log.flush()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("It is ready.\nUse it.\n", "")


def test_what_cannot_be_shown_costs_whoever_logs_it_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    logging.getLogger("a.library").warning("%d images", "many")
    structlog.get_logger("a.module").info("model_loaded")
    log.flush()
    assert "model_loaded" in capfd.readouterr().err


def test_the_log_has_a_bound(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    logger = structlog.get_logger("a.module")
    for _ in range(2000):
        logger.error("image_failed")
    # Some of what came later, too, if that took a while.
    assert 500 <= len(logged(capfd)) < 2000


def test_a_library_that_says_too_much_is_cut_short_too() -> None:
    clock = FakeClock()
    throttle = log.Throttle(clock)
    records = [
        logging.LogRecord("lib", logging.ERROR, "", 0, "bad request of %s", ("a",), None) for _ in range(501)
    ]
    assert sum(map(throttle.filter, records)) == 500
    clock.now = 1
    (last,) = [logging.LogRecord("lib", logging.ERROR, "", 0, "bad request of %s", ("b",), None)]
    assert throttle.filter(last)
    assert last.getMessage() == "bad request of b (left out before: 1)"
