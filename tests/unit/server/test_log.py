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
    yield
    root.handlers, uvicorn_level = before[0], before[2]
    root.setLevel(before[1])
    uvicorn.setLevel(uvicorn_level)
    structlog.reset_defaults()


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_json_logs_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    structlog.get_logger("a.module").info("model_loaded", model="cats", seconds=0.5)
    (event,) = logged(capsys)
    assert event.pop("timestamp", "").endswith("Z")  # type: ignore[attr-defined]
    assert event == {
        "event": "model_loaded",
        "level": "info",
        "logger": "a.module",
        "model": "cats",
        "seconds": 0.5,
    }


def test_libraries_log_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    logging.getLogger("a.library").warning("disk at %d %%", 99)
    (event,) = logged(capsys)
    assert (event["event"], event["level"], event["logger"]) == ("disk at 99 %", "warning", "a.library")
    assert "timestamp" in event


def test_less_severe_events_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("warning", "json")
    logger = structlog.get_logger("a.module")
    logger.info("unheard")
    logging.getLogger("a.library").info("unheard")
    logger.warning("heard")
    assert [event["event"] for event in logged(capsys)] == ["heard"]


def test_an_exception_is_one_field_of_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("a.module").exception("batch_failed", batch_size=3)
        logging.getLogger("a.library").exception("library_failed")
    for event, name in zip(logged(capsys), ("batch_failed", "library_failed"), strict=True):
        assert (event["event"], event["level"]) == (name, "error")
        assert "ValueError: boom" in str(event["exception"])


def test_the_console_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")
    structlog.get_logger("a.module").info("model_loaded", model="cats")
    text = capsys.readouterr().err
    assert "model_loaded" in text
    assert "model=cats" in text
    assert not text.startswith("{")
    # Without colours, as it is no terminal.
    assert "\x1b" not in text


def test_where_there_is_no_terminal_auto_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "auto")
    structlog.get_logger("a.module").info("ready")
    assert logged(capsys)[0]["event"] == "ready"
