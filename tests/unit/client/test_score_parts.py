import itertools
import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from retinue_client import ImageError
from retinue_client._score.files import Entry, in_requests, printable, walk
from retinue_client._score.latency import Latencies
from retinue_client._score.pace import Pace, Ticket
from retinue_client._score.rows import row_of, schema_of
from retinue_client._score.table import Table


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def paths(folder, all_files=False, leave_out=frozenset()):
    return [entry.path for entry in walk(folder, all_files=all_files, leave_out=leave_out)]


class TestFiles:
    def test_images_of_all_subfolders_come_sorted_by_path(self, tmp_path):
        names = [
            "b.jpg",
            "a/z.PNG",
            "a/b/c.webp",
            "a.jpg",
            "a-b.gif",
            "z/1.tiff",
            "a/b.bmp",
            "notes.txt",
            "noname",
        ]
        make(tmp_path, *names)
        found = paths(tmp_path)
        images = [name for name in names if name not in ("notes.txt", "noname")]
        assert found == [path.as_posix() for path in sorted(map(Path, images))]

    def test_all_files_are_taken_whatever_their_names_where_asked_for(self, tmp_path):
        make(tmp_path, "b.jpg", "noname", "a/notes.txt")
        assert paths(tmp_path, all_files=True) == ["a/notes.txt", "b.jpg", "noname"]
        assert paths(tmp_path, all_files=True, leave_out=frozenset({tmp_path / "noname"})) == [
            "a/notes.txt",
            "b.jpg",
        ]

    def test_entries_know_their_size(self, tmp_path):
        make(tmp_path, "a.jpg")
        assert list(walk(tmp_path, all_files=False, leave_out=frozenset())) == [Entry("a.jpg", 5)]

    def test_links_to_files_are_followed_and_links_to_folders_are_not(self, tmp_path):
        make(tmp_path, "in/a.jpg")
        (tmp_path / "in/link.jpg").symlink_to(tmp_path / "in/a.jpg")
        (tmp_path / "in/loop").symlink_to(tmp_path)
        assert paths(tmp_path / "in") == ["a.jpg", "link.jpg"]

    def test_what_is_no_regular_file_comes_with_an_error(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
        found = {entry.path: entry.error for entry in walk(tmp_path, all_files=False, leave_out=frozenset())}
        assert found["pipe.jpg"].reason == "FILE_NOT_REGULAR"
        assert found["broken.jpg"].reason == "FILE_NOT_FOUND"

    def test_a_folder_that_cannot_be_listed_comes_with_an_error(self, tmp_path, monkeypatch):
        make(tmp_path, "a.jpg", "secret/b.jpg", "z.jpg")
        listed = os.scandir

        def scandir(path):
            if Path(path).name == "secret":
                raise PermissionError(13, "Permission denied")
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)
        found = list(walk(tmp_path, all_files=False, leave_out=frozenset()))
        assert [entry.path for entry in found] == ["a.jpg", "secret/", "z.jpg"]
        assert found[1].error.reason == "FOLDER_UNREADABLE"

    def test_a_deep_folder_does_not_exhaust_the_stack(self, tmp_path):
        deep = tmp_path
        for _ in range(400):
            deep = deep / "d"
        deep.mkdir(parents=True)
        make(deep, "a.jpg")
        assert paths(tmp_path) == ["d/" * 400 + "a.jpg"]

    def test_requests_are_bounded_in_images_and_bytes_and_keep_the_order(self):
        entries = [
            Entry(str(index), size) for index, size in enumerate([10, 10, 10, 90, 200, 10, 10, 10, 10])
        ]
        runs = list(in_requests(iter(entries), max_images=lambda: 3, max_bytes=100))
        assert [[entry.size_bytes for entry in run] for run in runs] == [
            [10, 10, 10],
            [90],
            [200],
            [10, 10, 10],
            [10],
        ]
        assert list(itertools.chain(*runs)) == entries

    def test_names_that_are_no_text_become_text(self):
        assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
        assert printable("café 写真.jpg") == "café 写真.jpg"


class TestPace:
    now = 0.0

    def pace(self, start=16, maximum=1000):
        return Pace(start=start, maximum=maximum, clock=lambda: self.now)

    def test_it_lets_so_many_images_through_and_further_ones_when_some_have_ended(self):
        pace = self.pace()
        first = pace.begin(10)
        assert pace.seconds_until_free(6) == 0
        assert pace.seconds_until_free(7) is None
        pace.begin(6)
        assert pace.seconds_until_free(1) is None
        pace.end(first)
        assert (pace.under_way, pace.seconds_until_free(10)) == (6, 0)

    def test_a_request_of_more_than_the_limit_goes_alone(self):
        pace = self.pace()
        assert pace.seconds_until_free(50) == 0
        pace.begin(1)
        assert pace.seconds_until_free(50) is None

    def test_it_doubles_with_every_round_until_the_first_refusal_and_then_grows_by_a_few_a_round(self):
        pace = self.pace()
        for _ in range(4):
            pace.answered(Ticket(4, 0), 0.0)
        assert pace.limit == 32
        pace.refused(pace.begin(4), 0.0)
        assert pace.limit == 16
        for _ in range(4):
            pace.answered(Ticket(4, 1), 0.0)
        assert 22 <= pace.limit <= 24

    def test_it_grows_no_more_where_images_wait_long_enough_and_shrinks_where_they_wait_long(self):
        pace = self.pace()
        for _ in range(10):
            pace.answered(Ticket(4, 0), 0.3)
        assert pace.limit == 16
        for _ in range(4):
            pace.answered(Ticket(4, 0), 1.5)
        assert 5 <= pace.limit <= 9
        for _ in range(1000):
            pace.answered(Ticket(1, 0), 1.5)
        assert pace.limit == 2

    def test_it_never_exceeds_its_maximum_nor_falls_below_two(self):
        pace = self.pace(maximum=20)
        for _ in range(50):
            pace.answered(Ticket(4, 0), 0.0)
        assert pace.limit == 20
        for _ in range(50):
            ticket = pace.begin(1)
            pace.refused(ticket, 0.0)
            pace.end(ticket)
        assert pace.limit == 2
        assert self.pace(maximum=1).limit == 1

    def test_refusals_of_one_overload_slow_it_down_once(self):
        pace = self.pace()
        tickets = [pace.begin(2) for _ in range(8)]
        for ticket in tickets:
            pace.refused(ticket, 0.0)
        assert pace.limit == 8

    def test_it_waits_as_long_as_the_server_wants_to_be_left_alone(self):
        pace = self.pace()
        ticket = pace.begin(1)
        pace.refused(ticket, 2.0)
        pace.end(ticket)
        assert pace.seconds_until_free(1) == pytest.approx(2.0)
        self.now += 1.5
        assert pace.seconds_until_free(1) == pytest.approx(0.5)
        self.now += 1.5
        assert pace.seconds_until_free(1) == 0


class TestLatencies:
    def test_percentiles_are_right_to_two_percent(self):
        rng = random.Random(1)
        values = [rng.lognormvariate(-3, 1) for _ in range(5000)]
        latencies = Latencies()
        for value in values:
            latencies.add(value)
        values.sort()
        for share in (0.01, 0.5, 0.9, 0.99, 1.0):
            exact = values[max(0, round(share * len(values)) - 1)]
            assert latencies.percentile(share) == pytest.approx(exact, rel=0.03)

    def test_counts_weigh_and_extremes_have_a_place(self):
        latencies = Latencies()
        assert latencies.percentile(0.5) is None
        latencies.add(0.001, count=99)
        latencies.add(1e9)
        latencies.add(0.0)
        assert latencies.percentile(0.5) == pytest.approx(0.001, rel=0.03)


class TestTable:
    SCHEMA = schema_of("classify", {"retinue.task": "classify"})

    def rows(self, count):
        return [row_of(f"{index:06}.jpg", ImageError("No.", reason="BAD"), None) for index in range(count)]

    def test_it_has_its_name_only_when_it_is_whole(self, tmp_path):
        out = tmp_path / "r.parquet"
        table = Table(out, self.SCHEMA)
        table.append(self.rows(10))
        table.flush()
        assert not out.exists()
        assert table.partial_path.exists()
        table.commit()
        assert not table.partial_path.exists()
        assert pq.read_table(out).num_rows == 10

    def test_rows_are_written_in_groups_so_that_memory_does_not_grow(self, tmp_path):
        table = Table(tmp_path / "r.parquet", self.SCHEMA)
        most = 0
        for _ in range(40):
            if table.append(self.rows(500)):
                table.flush()
            most = max(most, len(table._rows))
        table.commit()
        assert most < 5000
        assert pq.ParquetFile(tmp_path / "r.parquet").num_row_groups >= 4

    def test_heavy_rows_are_written_early(self, tmp_path):
        schema = schema_of("segment", {})
        table = Table(tmp_path / "r.parquet", schema)
        mask = {"class_id": 1, "label": "x", "counts": "0" * 1_000_000}
        assert not table.append([{"path": "a", "masks": [mask]}])
        assert table.append([{"path": f"b{index}", "masks": [mask]} for index in range(40)])
        table.discard()
        assert list(tmp_path.iterdir()) == []

    def test_the_rows_so_far_can_be_read_from_an_abandoned_table(self, tmp_path):
        table = Table(tmp_path / "r.parquet", self.SCHEMA)
        table.append(self.rows(3))
        table.leave()
        assert pq.read_table(table.partial_path).num_rows == 3
