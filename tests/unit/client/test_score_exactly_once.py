"""A job that dies at any step and is started again: every row once, in order, in the very same files."""

import asyncio
import fcntl
import gc
import io
import itertools
import os
import threading
import tracemalloc
from contextlib import suppress

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retinue_client import ImageError
from retinue_client._classification import Classification, ClassScore
from retinue_client._detections import Detections
from retinue_client._score.account import Account
from retinue_client._score.destination import Destination
from retinue_client._score.disk import ASIDE, Disk
from retinue_client._score.errors import DestinationError, JournalError
from retinue_client._score.job import Job
from retinue_client._score.limit import ErrorLimit
from retinue_client._score.outputs.forms import Form, output_of
from retinue_client._score.parts import Parts
from retinue_client._score.sources.entry import Entry
from retinue_client._segmentation import ClassArea, Segmentation
from retinue_client._timing import Timing

TIMING = Timing(*[0] * 5, 1)
TASKS = {Form.PARQUET: "classify", Form.JSONL: "classify", Form.COCO: "detect", Form.MASKS: "segment"}
MODEL = {"name": "m", "version": 1, "sha256": ""}


class Info:
    """As much of a model's description as outputs read."""

    name, version, labels = "m", 1, ("zero", "one")


class Died(BaseException):
    """What SIGKILL is to a process."""


class MortalDisk(Disk):
    """Dies at a step of those that it takes, before or after it is done, or with half of it done."""

    def __init__(self, root, dies_at):
        super().__init__(root)
        self.steps = itertools.count()
        self.dies_at = dies_at

    def _step(self, half=None):
        if next(self.steps) == self.dies_at:
            if half is not None:
                half()
            raise Died

    def create(self, name):
        self._step()
        return super().create(name)

    def sync(self, file):
        self._step(half=file.close)
        super().sync(file)
        self._step()

    def sync_all(self, names):
        self._step()
        super().sync_all(names)
        self._step()

    def keep(self, name):
        self._step()
        super().keep(name)
        self._step()

    def append(self, name, line):
        self._step(half=lambda: super(MortalDisk, self).append(name, line[: len(line) // 2]))
        super().append(name, line)
        self._step()

    def cut(self, name, size_bytes):
        self._step()
        super().cut(name, size_bytes)

    def remove(self, name):
        self._step()
        super().remove(name)


class Numbers:
    """Images that are their own numbers; every seventh cannot be read."""

    name = "numbers"

    def __init__(self, count):
        self.count_of = count

    def entries(self, after):
        for number in range(0 if after is None else after + 1, self.count_of):
            content = ImageError("No.", reason="FILE_NOT_FOUND") if number % 7 == 3 else b"%d" % number
            yield Entry(f"../{number:05}/é.jpg", number, 10, content)

    def count(self):
        return self.count_of


def result_of(task, number):
    if task == "classify":
        return Classification((ClassScore(number % 2, "one", number / 1e6),), "m", 1, TIMING)
    if task == "detect":
        boxes = np.array([[0, 0, number % 50, 7.5]], np.float32)
        scores, ids = np.array([0.5], np.float32), np.array([1], np.int32)
        return Detections(boxes, scores, ids, ("one",), 64, 48, "m", 1, TIMING)
    levels = Image.new("L", (6, 4), number % 3)
    levels.save(buffer := io.BytesIO(), "PNG")
    areas = (ClassArea(number % 3, "x", 24),)
    return Segmentation(6, 4, areas, "png", "original", buffer.getvalue(), (), "m", 1, TIMING)


class Echo:
    """Answers out of order, in requests of changing sizes."""

    def __init__(self, task):
        self.task = task
        self.asked = 0

    @property
    def images_per_call(self):
        return 1 + self.asked % 5 if self.asked < 50 else 64

    calls_at_once = 4

    async def answers(self, images):
        self.asked += 1
        for _ in range(self.asked * 7 % 5):
            await asyncio.sleep(0)
        return [result_of(self.task, int(image)) for image in images]


def run_once(disk, form, count=11, rows_a_part=4, overwrite=False, limit=None):
    """One run of a job, as the command has it."""
    task, account = TASKS[form], Account()
    job = {"task": task, "count": count}
    with Destination(
        disk, job, overwrite=overwrite, on_part=lambda part: account.resume(part.state)
    ) as destination:
        if destination.is_finished:
            return account
        journal = destination.begin(MODEL)
        output = output_of(form, task, {"retinue.task": task})
        parts = Parts(disk, output, journal, rows_a_part, account.close_part)
        work = Job(Echo(task), task, account, parts, limit or ErrorLimit(), lambda rows: None)
        after = None if journal.last is None else journal.last.cursor
        asyncio.run(work.run(Numbers(count), after))
        output.finish(disk, journal.files(), Info)
        journal.finish()
    return account


def run_to_its_death(disk, form):
    """As a killed process, it tidies nothing up; the lock alone goes with it."""
    closed = Destination.close
    Destination.close = lambda destination: destination._lock.close()
    try:
        run_once(disk, form)
    except Died:
        return True
    finally:
        Destination.close = closed
    return False


def files_of(root):
    """All results, without the journal, in which there are times."""
    paths = sorted(
        path for path in root.rglob("*") if path.is_file() and path.name not in ("_journal.jsonl", "_lock")
    )
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("form", Form)
def test_killed_at_any_step_a_job_goes_on_to_the_same_files_as_without(tmp_path, form):
    whole = tmp_path / "whole"
    account = run_once(Disk(whole), form)
    expected = files_of(whole)
    for step in itertools.count():
        root = tmp_path / f"{step}"
        if not run_to_its_death(MortalDisk(root, step), form):
            break
        again = run_once(Disk(root), form)
        assert files_of(root) == expected, step
        assert again.total().images == account.total().images == 11
        assert again.total().classes == account.total().classes
        assert again.total().reasons == account.total().reasons
    assert step > 20


def test_killed_again_and_again_it_still_ends(tmp_path):
    expected = run_once(Disk(tmp_path / "whole"), Form.PARQUET) and files_of(tmp_path / "whole")
    root = tmp_path / "mortal"
    deaths = 0
    # Each life is of more steps than it takes to make one part.
    while run_to_its_death(MortalDisk(root, 12 + deaths % 5), Form.PARQUET):
        deaths += 1
    assert deaths >= 2
    assert files_of(root) == expected


def test_a_full_disk_ends_the_run_and_the_next_goes_on(tmp_path):
    class FullDisk(MortalDisk):
        def _step(self, half=None):
            if next(self.steps) == self.dies_at:
                raise OSError(28, "No space left on device")

    expected = run_once(Disk(tmp_path / "whole"), Form.MASKS) and files_of(tmp_path / "whole")
    for step in itertools.count():
        root = tmp_path / f"{step}"
        disk = FullDisk(root, step)
        with suppress(OSError):
            run_once(disk, Form.MASKS)
            break
        run_once(Disk(root), Form.MASKS)
        assert files_of(root) == expected, step


def test_finished_twice_it_does_nothing(tmp_path):
    run_once(Disk(tmp_path / "r"), Form.COCO)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*") if path.name != "_lock"}
    account = run_once(Disk(tmp_path / "r"), Form.COCO)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert account.earlier_images == 11


def test_two_jobs_do_not_write_into_one_folder(tmp_path):
    with Destination(Disk(tmp_path / "r"), {}, overwrite=False, on_part=print) as destination:
        destination.begin(MODEL)
        for overwrite in (False, True):
            with pytest.raises(DestinationError, match=rf"Another job .* \(process {os.getpid()}\)"):
                Destination(Disk(tmp_path / "r"), {}, overwrite=overwrite, on_part=print)


def test_a_lock_that_another_job_removes_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    root, flock, removed = tmp_path / "r", fcntl.flock, []

    def removed_meanwhile(file, operation):
        flock(file, operation)
        if not removed:
            removed.append(file)
            (root / "_lock").unlink()
            root.rmdir()

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with Destination(Disk(root), {}, overwrite=False, on_part=print) as destination:
        destination.begin(MODEL)
        with pytest.raises(DestinationError, match="Another job"):
            Destination(Disk(root), {}, overwrite=False, on_part=print)


def test_what_somebody_puts_beside_results_is_left_alone(tmp_path):
    root = tmp_path / "r"
    run_to_its_death(MortalDisk(root, 20), Form.PARQUET)
    mine = ["README.md", "part-2024.csv", "part-000009.csv"]
    for name in mine:
        (root / name).write_text("mine")
    run_once(Disk(root), Form.PARQUET)
    run_once(Disk(root), Form.PARQUET, count=5, overwrite=True)
    run_once(Disk(root), Form.PARQUET, count=0, overwrite=True)
    assert sorted(path.name for path in root.iterdir() if path.name != "_lock") == sorted(mine)
    disk = Disk(tmp_path / "new")
    with Destination(disk, {}, overwrite=False, on_part=print):
        (disk.root / "README.md").write_text("mine")
    assert [path.name for path in disk.root.iterdir()] == ["README.md"]


@pytest.mark.parametrize("step", ["write", "keep"])
def test_an_interrupted_job_keeps_its_folder_until_nothing_writes_there_any_more(tmp_path, step, monkeypatch):
    began, go_on, told = threading.Event(), threading.Event(), []

    do, drop = getattr(Parts, step), Parts.drop

    def slow(parts, *arguments):
        began.set()
        assert go_on.wait(timeout=60)
        do(parts, *arguments)
        told.append("written")

    monkeypatch.setattr(Parts, step, slow)
    monkeypatch.setattr(Parts, "drop", lambda parts: (told.append("dropped"), drop(parts)))
    disk, account = Disk(tmp_path / "r"), Account()

    async def interrupted(destination):
        journal = destination.begin(MODEL)
        parts = Parts(disk, output_of(Form.PARQUET, "classify", {}), journal, 4, account.close_part)
        job = Job(Echo("classify"), "classify", account, parts, ErrorLimit(), lambda rows: None)
        running = asyncio.create_task(job.run(Numbers(3), None))
        await asyncio.to_thread(began.wait, 60)
        running.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not running.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    with Destination(disk, {}, overwrite=False, on_part=print) as destination:
        asyncio.run(interrupted(destination))
    assert told == ["written", "dropped"]


def test_nothing_stays_behind_where_no_part_came_about(tmp_path):
    run_once(Disk(tmp_path / "r"), Form.PARQUET, count=0)
    assert list(tmp_path.iterdir()) == []


def test_results_that_somebody_has_changed_are_not_added_to(tmp_path):
    run_to_its_death(MortalDisk(tmp_path / "r", 20), Form.PARQUET)
    (tmp_path / "r" / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(JournalError, match=r"part-000000.parquet has 0 bytes"):
        run_once(Disk(tmp_path / "r"), Form.PARQUET)
    (tmp_path / "r" / "part-000000.parquet").unlink()
    with pytest.raises(JournalError, match=r"part-000000.parquet is missing"):
        run_once(Disk(tmp_path / "r"), Form.PARQUET)
    run_once(Disk(tmp_path / "r"), Form.PARQUET, overwrite=True)
    assert pq.read_table(tmp_path / "r").num_rows == 11


@pytest.mark.parametrize("line", [b"\0" * 20 + b'":7}\n', b'{"part":1,"fi\n', b"\xff\n"])
def test_a_last_line_that_did_not_get_whole_to_the_disk_is_cut_off(tmp_path, line):
    expected = run_once(Disk(tmp_path / "whole"), Form.PARQUET) and files_of(tmp_path / "whole")
    run_to_its_death(MortalDisk(tmp_path / "r", 20), Form.PARQUET)
    journal = tmp_path / "r" / "_journal.jsonl"
    journal.write_bytes(journal.read_bytes() + line)
    run_once(Disk(tmp_path / "r"), Form.PARQUET)
    assert files_of(tmp_path / "r") == expected


@pytest.mark.parametrize("line", [b"nonsense\n{}\n", b"{}\n", b"[]\n", b'{"part":7}\n', b"\xff\n[]\n"])
def test_a_damaged_journal_is_said_to_be(tmp_path, line):
    run_to_its_death(MortalDisk(tmp_path / "r", 20), Form.PARQUET)
    journal = tmp_path / "r" / "_journal.jsonl"
    journal.write_bytes(journal.read_bytes() + line)
    with pytest.raises(JournalError, match=r"Line \d of .* is damaged"):
        run_once(Disk(tmp_path / "r"), Form.PARQUET)


def test_results_without_a_journal_are_kept_unless_told_otherwise(tmp_path):
    run_once(Disk(tmp_path / "r"), Form.PARQUET)
    (tmp_path / "r" / "_journal.jsonl").unlink()
    with pytest.raises(DestinationError, match="without a journal"):
        run_once(Disk(tmp_path / "r"), Form.PARQUET)
    assert pq.read_table(tmp_path / "r").num_rows == 11


def test_what_was_written_aside_does_not_stay(tmp_path):
    run_to_its_death(MortalDisk(tmp_path / "r", 20), Form.PARQUET)
    run_once(Disk(tmp_path / "r"), Form.PARQUET)
    assert not (tmp_path / "r" / ASIDE).exists()


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    peaks = []
    for count in (2_000, 2_000, 20_000):
        gc.collect()
        tracemalloc.start()
        run_once(Disk(tmp_path / "r"), Form.PARQUET, count, rows_a_part=500, overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The first run fills caches. A row that stayed would be at least 100 bytes, of 18,000 of them.
    assert peaks[2] < peaks[1] + 1_000_000
