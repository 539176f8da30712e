import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from retinue_server.errors import StartupError
from retinue_server.followed import Followed, bounded_bytes


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def followed(path: Path, clock: Clock) -> tuple[Followed[str], list[str]]:
    reads: list[str] = []

    def read() -> str:
        text = path.read_text() if path.exists() else "BAD"
        reads.append(text)
        if text.startswith("BAD"):
            raise StartupError(f"{text} cannot be used.")
        return text

    return Followed("notes", [path], read, clock), reads


def test_what_has_not_changed_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_text("one")
    held, reads = followed(path, Clock())
    assert [held.current(), held.current()] == ["one", "one"]
    assert reads == ["one"]


def test_a_change_is_taken_up_and_logged(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_text("one")
    held, _ = followed(path, Clock())
    path.write_text("three")
    with capture_logs() as events:
        assert held.current() == "three"
    assert [event["event"] for event in events] == ["notes_read"]


def test_what_cannot_be_used_leaves_the_former_and_is_tried_again_after_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "note", Clock()
    path.write_text("one")
    held, reads = followed(path, clock)
    path.write_text("BAD1")
    with capture_logs() as events:
        for _ in range(5):
            assert held.current() == "one"
        clock.now += 1.5
        assert held.current() == "one"
        path.unlink()
        clock.now += 1.5
        assert held.current() == "one"
    assert reads == ["one", "BAD1", "BAD1", "BAD"]
    assert [event["reason"] for event in events] == ["BAD1 cannot be used.", "BAD cannot be used."]
    path.write_text("two")
    clock.now += 1.5
    assert held.current() == "two"


def test_what_changes_while_it_is_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_text("one")

    def read() -> str:
        text = path.read_text()
        path.write_text(text + "more")
        return text

    with pytest.raises(StartupError, match="changed while being read"):
        Followed("notes", [path], read)


def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "note"
    os.mkfifo(path)
    with pytest.raises(StartupError, match="no regular file"):
        bounded_bytes("--notes", path, 10)


def test_a_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(StartupError, match=r"no regular file|cannot read"):
            bounded_bytes("--notes", path, 10)
