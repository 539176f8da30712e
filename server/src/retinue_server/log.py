"""Logs: events with fields, on standard error, as lines for people or as JSON, which no caller can fill or forge."""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from retinue_server.line_writer import LineWriter

_log = structlog.get_logger(__name__)

# Events of one name, of libraries those of one logger: at once, and in a second from then on. Further ones are counted.
# All models that a folder may have come and go in fewer.
_MOST_AT_ONCE = 500
_MOST_A_SECOND = 100
# Of these an operator has said how many there are to be.
_CALLS = "call"
_MOST_CALLS_A_SECOND = 1000
# Before each line of a traceback, so that none of what an exception says can begin a line.
_MARGIN = "    | "


def configure(level: str, log_format: Literal["auto", "console", "json"]) -> None:
    """Sets up logging for the process, the libraries' included.

    Args:
        level: Least severe events that are logged.
        log_format: "auto" is console on a terminal and json elsewhere.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[Processor] = (
        [
            _printable_values,
            # Not its own tracebacks, which show what variables hold: requests, and tokens.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback),
        ]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = _Handler(sys.stderr)
    handler.addFilter(Throttle())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Its lines on start and stop repeat ours, and its warnings are of what any caller can send as often as they like.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    _WRITER.start()


def say(text: str) -> None:
    """Prints on standard output, in turn with what is logged, and as far as anybody listens."""
    # Where that is closed there is none.
    if sys.stdout is not None:
        _put(sys.stdout, text)


def flush() -> None:
    """Waits until all that was logged is written, for as long as a reader may be expected to take."""
    _WRITER.flush()


def exit_at_once(code: int) -> NoReturn:
    """Ends the process with no more ado than to write what it has logged."""
    flush()
    os._exit(code)


class _Handler(logging.Handler):
    """Hands events over to be written, as lines, so that who logs waits for no reader."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Has an event written."""
        try:
            _put(self._stream, self.format(record))
        except Exception:
            # Who logs cannot help it.
            self.handleError(record)


class Throttle(logging.Filter):
    """Leaves events out of which there are too many, and says with the next one how many those were: `left_out`.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        # By logger and event, all of which are in code: how many may come, when that was so, and how many did not.
        self._rooms: dict[tuple[str, str], tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether an event has room; called by any thread."""
        fields: Any = record.msg
        event = str(fields.get("event", "")) if isinstance(fields, dict) else ""
        per_second, most = _MOST_A_SECOND, _MOST_AT_ONCE
        if event == _CALLS:
            per_second = most = _MOST_CALLS_A_SECOND
        with self._lock:
            now = self._clock()
            room, filled, left_out = self._rooms.get((record.name, event), (most, now, 0))
            room = min(room + (now - filled) * per_second, most)
            has_room = room >= 1
            self._rooms[record.name, event] = (room - 1, now, 0) if has_room else (room, now, left_out + 1)
        if has_room and left_out:
            if isinstance(fields, dict):
                fields["left_out"] = left_out
            else:
                record.msg = f"{fields} (left out before: {left_out})"
        return has_room


def _printable_values(logger: object, method: str, event: EventDict) -> EventDict:
    """Has texts in an event say what they are made of where they would move a terminal's cursor or end the line."""
    return {key: _printable(value) for key, value in event.items()}


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isprintable() else "".join(map(_escaped, value))
    # What is no text is shown as Python writes it, which escapes as well.
    return value


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _write_traceback(stream: TextIO, error: ExcInfo) -> None:
    text = "".join(traceback.format_exception(*error))
    stream.write("\n".join(_MARGIN + _printable(line) for line in text.rstrip("\n").split("\n")))


def _put(stream: TextIO, text: str) -> None:
    _WRITER.put(stream.fileno(), f"{text}\n".encode(stream.encoding, "backslashreplace"))


# At the level that everybody has.
_WRITER = LineWriter(on_left_out=lambda count: _log.error("log_lines_left_out", left_out=count))
