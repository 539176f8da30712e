"""Where images to score come from: all of them, in an order that is always the same, from any of them on."""

import csv
import gzip
import io
import itertools
import json
import os
import struct
import tarfile
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retinue_client import ImageError
from retinue_client._score.errors import SourceError
from retinue_client._score.sources import opening, remote_tree, tree
from retinue_client._score.sources.columns import Columns
from retinue_client._score.sources.entry import Entry, in_requests, printable
from retinue_client._score.sources.opening import SourceFormat, SourceOptions, open_source


def make(folder, *names, content=b"12345"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def open_with(text, form=None, *, column=None, key=None, urls=False, all_files=False, leave_out=None):
    options = SourceOptions(form, Columns(column, key, urls), all_files=all_files, leave_out=leave_out)
    return open_source(str(text), options)


def entries(text, form=None, **options):
    return list(open_with(text, form, **options).entries(None))


def keys(*arguments, **options):
    return [entry.key for entry in entries(*arguments, **options)]


def outcomes(found):
    """Of each entry its key, and its bytes or the reason why it has none."""
    told = []
    for entry in found:
        try:
            told.append((entry.key, entry.read()))
        except ImageError as error:
            told.append((entry.key, error.reason))
    return told


def expect_to_go_on_anywhere(text, form=None, **options):
    """After each entry come those that came after it, also once its cursor was written down."""
    everything = entries(text, form, **options)
    for place, entry in enumerate(everything):
        cursor = json.loads(json.dumps(entry.cursor))
        rest = open_with(text, form, **options).entries(cursor)
        assert outcomes(rest) == outcomes(everything[place + 1 :])
    return outcomes(everything)


class TestFolders:
    NAMES = (
        "b.jpg",
        "a/z.PNG",
        "a/b/c.webp",
        "a.jpg",
        "a-b.gif",
        "z/1.tiff",
        "a/b.bmp",
        "notes.txt",
        "noname",
    )

    def test_images_of_all_subfolders_come_sorted_by_path(self, tmp_path):
        make(tmp_path, *self.NAMES)
        images = [name for name in self.NAMES if name not in ("notes.txt", "noname")]
        assert keys(tmp_path) == [path.as_posix() for path in sorted(map(Path, images))]
        assert open_with(tmp_path).count() == 7
        assert open_with(tmp_path).count(lambda: True) is None

    def test_it_goes_on_after_any_file(self, tmp_path):
        make(tmp_path, *self.NAMES)
        os.mkfifo(tmp_path / "a" / "pipe.jpg")
        found = expect_to_go_on_anywhere(tmp_path)
        assert ("a/pipe.jpg", "FILE_NOT_REGULAR") in found

    def test_all_files_are_taken_whatever_their_names_where_asked_for(self, tmp_path):
        make(tmp_path, "b.jpg", "noname", "a/notes.txt")
        assert keys(tmp_path, all_files=True) == ["a/notes.txt", "b.jpg", "noname"]

    def test_the_results_own_folder_is_left_out(self, tmp_path):
        make(tmp_path, "b.jpg", "results/part-0.jpg")
        assert keys(tmp_path, leave_out=tmp_path / "results") == ["b.jpg"]
        assert keys(tmp_path / "*" / "*.jpg", leave_out=tmp_path / "results") == []

    def test_entries_know_their_size(self, tmp_path):
        make(tmp_path, "a.jpg")
        assert entries(tmp_path)[0].size_bytes == 5

    def test_links_to_files_are_followed_and_links_to_folders_are_not(self, tmp_path):
        make(tmp_path, "in/a.jpg")
        (tmp_path / "in/link.jpg").symlink_to(tmp_path / "in/a.jpg")
        (tmp_path / "in/loop").symlink_to(tmp_path)
        assert keys(tmp_path / "in") == ["a.jpg", "link.jpg"]

    def test_what_is_no_regular_file_comes_with_an_error(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
        assert outcomes(entries(tmp_path)) == [
            ("broken.jpg", "FILE_NOT_FOUND"),
            ("pipe.jpg", "FILE_NOT_REGULAR"),
        ]

    def test_a_folder_that_cannot_be_listed_comes_with_an_error(self, tmp_path, monkeypatch):
        make(tmp_path, "a.jpg", "secret/b.jpg", "z.jpg")
        listed = os.scandir

        def scandir(path):
            if Path(path).name == "secret":
                raise PermissionError(13, "Permission denied")
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)
        found = expect_to_go_on_anywhere(tmp_path)
        assert [name for name, _ in found] == ["a.jpg", "secret/", "z.jpg"]
        assert found[1][1] == "FOLDER_UNREADABLE"

    def test_a_deep_folder_does_not_exhaust_the_stack(self, tmp_path):
        deep = tmp_path
        for _ in range(400):
            deep = deep / "d"
        deep.mkdir(parents=True)
        make(deep, "a.jpg")
        assert keys(tmp_path) == ["d/" * 400 + "a.jpg"]

    def test_a_folder_of_more_names_than_fit_in_memory_is_sorted_all_the_same(self, tmp_path, monkeypatch):
        names = [
            f"{number * 7919 % 1000:03}{'é' if number % 3 else chr(0xDCE9)}.jpg" for number in range(100)
        ]
        make(tmp_path, *names, "050/x.jpg")
        at_once = keys(tmp_path)
        monkeypatch.setattr(tree, "_NAMES_IN_MEMORY", 7)
        assert keys(tmp_path) == at_once
        assert len(at_once) == 101

    def test_requests_are_bounded_in_images_and_bytes_and_keep_the_order(self):
        made = [
            Entry(str(index), index, size, b"")
            for index, size in enumerate([10, 10, 10, 90, 200, 10, 10, 10, 10])
        ]
        runs = list(in_requests(iter(made), max_images=lambda: 3, max_bytes=100))
        assert [[entry.size_bytes for entry in run] for run in runs] == [
            [10, 10, 10],
            [90],
            [200],
            [10, 10, 10],
            [10],
        ]
        assert list(itertools.chain(*runs)) == made

    def test_names_that_are_no_text_become_text_and_can_be_gone_on_after(self, tmp_path):
        assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
        assert printable("café 写真.jpg") == "café 写真.jpg"
        make(tmp_path, os.fsdecode(b"caf\xe9.jpg"), "z.jpg")
        expect_to_go_on_anywhere(tmp_path)


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("*.jpg", ["a.jpg", "b.jpg"]),
            ("**/*.jpg", ["a.jpg", "b.jpg", "x/c.jpg", "x/y/d.jpg"]),
            ("x/**/*.jpg", ["c.jpg", "y/d.jpg"]),
            ("**", ["a.jpg", "b.jpg", "e.png", "x/c.jpg", "x/y/d.jpg"]),
            ("*/*.jpg", ["x/c.jpg"]),
            ("?.{jpg,png}", ["a.jpg", "b.jpg", "e.png"]),
            ("[!a].jpg", ["b.jpg"]),
            ("[a-b].jpg", ["a.jpg", "b.jpg"]),
            ("{b,a}.jpg", ["b.jpg", "a.jpg"]),
            ("*.nothing", []),
            (".*.jpg", [".hidden.jpg"]),
        ],
    )
    def test_wildcards_and_braces_mean_what_they_mean_in_a_shell(self, tmp_path, pattern, found):
        make(tmp_path, "a.jpg", "b.jpg", "e.png", "x/c.jpg", "x/y/d.jpg", ".hidden.jpg", ".git/h.jpg")
        assert keys(tmp_path / pattern) == found
        expect_to_go_on_anywhere(tmp_path / pattern)

    def test_numbers_in_braces_are_counted_with_their_zeros(self, tmp_path):
        make(tmp_path, "s-008.jpg", "s-009.jpg", "s-010.jpg")
        assert outcomes(entries(tmp_path / "s-{008..011}.jpg")) == [
            ("s-008.jpg", b"12345"),
            ("s-009.jpg", b"12345"),
            ("s-010.jpg", b"12345"),
            ("s-011.jpg", "FILE_NOT_FOUND"),
        ]
        assert keys(tmp_path / "s-0{10..9}.jpg") == ["s-010.jpg", "s-09.jpg"]

    def test_a_name_that_is_there_is_no_pattern(self, tmp_path):
        make(tmp_path, "[1].jpg", "{1..2}.jpg", "1.jpg")
        assert keys(tmp_path / "[1].jpg") == ["[1].jpg"]
        assert keys(tmp_path / "{1..2}.jpg") == ["{1..2}.jpg"]

    @pytest.mark.parametrize("pattern", ["{0..99999999}.jpg", "{1..1000}{1..1000}{1..1000}.jpg"])
    def test_a_pattern_that_stands_for_too_much_is_refused_before_it_takes_memory(self, tmp_path, pattern):
        with pytest.raises(SourceError, match="more than 1,000,000 names"):
            open_with(tmp_path / pattern)

    @pytest.mark.parametrize("name", ["missing", "missing/*.jpg", "missing/s-{1..2}.tar", "x.unknown"])
    def test_what_is_not_there_or_of_no_kind_is_refused_at_once(self, tmp_path, name):
        make(tmp_path, "x.unknown")
        with pytest.raises(SourceError):
            open_with(tmp_path / name)

    def test_a_pattern_of_any_name_takes_what_is_named_like_an_image(self, tmp_path):
        make(tmp_path, "a.jpg", "notes.txt", "b.PNG", "c")
        assert keys(tmp_path / "*") == ["a.jpg", "b.PNG"]
        assert keys(tmp_path / "*", all_files=True) == ["a.jpg", "b.PNG", "c", "notes.txt"]


def member(name, kind=tarfile.REGTYPE, size=0, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar_file(path, *members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            if isinstance(name, tarfile.TarInfo):
                tar.addfile(name, io.BytesIO(content))
            else:
                tar.addfile(member(name, size=len(content)), io.BytesIO(content))


class TestTarFiles:
    @pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")])
    def test_members_that_are_images_are_read_from_all_shards_in_order(self, tmp_path, suffix, mode):
        for number in (10, 9):
            tar_file(
                tmp_path / f"s-{number:03}.{suffix}",
                (member("a", tarfile.DIRTYPE), b""),
                ("a/2.jpg", b"two"),
                ("a/1.png", b"one"),
                ("a/1.json", b"{}"),
                mode=mode,
            )
        expected = [
            ("s-009.X/a/2.jpg", b"two"),
            ("s-009.X/a/1.png", b"one"),
            ("s-010.X/a/2.jpg", b"two"),
            ("s-010.X/a/1.png", b"one"),
        ]
        expected = [(name.replace("X", suffix), content) for name, content in expected]
        assert expect_to_go_on_anywhere(tmp_path / f"s-{{009..010}}.{suffix}") == expected
        assert expect_to_go_on_anywhere(tmp_path / f"s-*.{suffix}") == expected
        assert expect_to_go_on_anywhere(tmp_path, SourceFormat.TAR) == expected

    def test_links_devices_and_giants_are_errors_and_what_follows_is_read(self, tmp_path):
        tar_file(
            tmp_path / "x.tar",
            (member("link.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
            (member("hard.jpg", tarfile.LNKTYPE, linkname="../../secret"), b""),
            (member("null.jpg", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
            (member("pipe.jpg", tarfile.FIFOTYPE), b""),
            ("../../outside.jpg", b"no file is made of it"),
            ("last.jpg", b"last"),
        )
        assert expect_to_go_on_anywhere(tmp_path / "x.tar") == [
            ("x.tar/link.jpg", "FILE_NOT_REGULAR"),
            ("x.tar/hard.jpg", "FILE_NOT_REGULAR"),
            ("x.tar/null.jpg", "FILE_NOT_REGULAR"),
            ("x.tar/pipe.jpg", "FILE_NOT_REGULAR"),
            ("x.tar/../../outside.jpg", b"no file is made of it"),
            ("x.tar/last.jpg", b"last"),
        ]

    def test_a_member_that_claims_terabytes_takes_no_memory_and_ends_its_shard_alone(self, tmp_path):
        claims = member("huge.jpg", size=1 << 43).tobuf(tarfile.GNU_FORMAT)
        (tmp_path / "s-1.tar").write_bytes(claims + b"x" * 5120)
        tar_file(tmp_path / "s-2.tar", ("a.jpg", b"a"))
        assert expect_to_go_on_anywhere(tmp_path / "s-*.tar") == [
            ("s-1.tar/huge.jpg", "FILE_TOO_LARGE"),
            ("s-1.tar", "SOURCE_UNREADABLE"),
            ("s-2.tar/a.jpg", b"a"),
        ]

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_a_header_that_claims_gigabytes_is_not_read(self, tmp_path, kind):
        header = member("x", kind, size=1 << 33).tobuf(tarfile.GNU_FORMAT)
        with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
            file.write(header + bytes(4 << 20))
        ((name, reason),) = outcomes(entries(tmp_path / "x.tar.gz"))
        assert (name, reason) == ("x.tar.gz", "SOURCE_UNREADABLE")

    @pytest.mark.parametrize("cut", [1, 700, 1024, 1500, 2000])
    def test_a_shard_that_was_cut_off_gives_what_it_has_and_says_so(self, tmp_path, cut):
        tar_file(tmp_path / "whole.tar", ("a.jpg", b"a" * 600), ("b.jpg", b"b" * 600))
        data = (tmp_path / "whole.tar").read_bytes()
        (tmp_path / "x.tar").write_bytes(data[:cut])
        found = expect_to_go_on_anywhere(tmp_path / "x.tar")
        assert found[-1] == ("x.tar", "SOURCE_UNREADABLE")
        assert found[:-1] == ([("x.tar/a.jpg", b"a" * 600)] if cut > 1200 else [])

    def test_a_shard_that_was_cut_between_members_says_so(self, tmp_path):
        tar_file(tmp_path / "whole.tar", ("a.jpg", b"a"), ("b.jpg", b"b"))
        data = (tmp_path / "whole.tar").read_bytes()
        (tmp_path / "x.tar").write_bytes(data[:1024])
        found = expect_to_go_on_anywhere(tmp_path / "x.tar")
        assert found == [("x.tar/a.jpg", b"a"), ("x.tar", "SOURCE_UNREADABLE")]
        # One block of zeros is enough of a mark.
        (tmp_path / "x.tar").write_bytes(data[: 2048 + 512])
        assert outcomes(entries(tmp_path / "x.tar")) == [("x.tar/a.jpg", b"a"), ("x.tar/b.jpg", b"b")]

    def test_a_header_that_was_overwritten_is_said_and_not_taken_for_the_end(self, tmp_path):
        tar_file(tmp_path / "x.tar", ("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c"))
        data = bytearray((tmp_path / "x.tar").read_bytes())
        data[1024:1100] = b"?" * 76
        (tmp_path / "x.tar").write_bytes(data)
        assert outcomes(entries(tmp_path / "x.tar")) == [
            ("x.tar/a.jpg", b"a"),
            ("x.tar", "SOURCE_UNREADABLE"),
        ]

    def test_a_chain_of_headers_does_not_exhaust_the_stack(self, tmp_path):
        header = member("x", tarfile.GNUTYPE_LONGNAME, size=5).tobuf(tarfile.GNU_FORMAT)
        (tmp_path / "x.tar").write_bytes((header + b"name\0".ljust(512, b"\0")) * 3000)
        assert outcomes(entries(tmp_path / "x.tar")) == [("x.tar", "SOURCE_UNREADABLE")]


class TestLists:
    def test_paths_of_a_csv_are_relative_to_it_and_bad_rows_are_errors(self, tmp_path):
        make(tmp_path, "in/a.jpg", "b.jpg")
        with (tmp_path / "in" / "list.csv").open("w", newline="") as file:
            rows = [("id", "path"), ("1", "a.jpg"), ("2", "../b.jpg"), ("3", ""), ("4",), ("5", "no.jpg")]
            csv.writer(file).writerows([*rows, ("6", str(tmp_path / "b.jpg")), ("7", "x" * 200_000)])
        found = expect_to_go_on_anywhere(tmp_path / "in" / "list.csv")
        assert found == [
            ("a.jpg", b"12345"),
            ("../b.jpg", b"12345"),
            ("list.csv#3", "VALUE_MISSING"),
            ("list.csv#4", "VALUE_MISSING"),
            ("no.jpg", "FILE_NOT_FOUND"),
            (str(tmp_path / "b.jpg"), b"12345"),
            ("list.csv#7", "ROW_INVALID"),
        ]
        assert keys(tmp_path / "in" / "list.csv", key="id")[:6] == ["1", "2", "3", "4", "5", "6"]

    def test_a_csv_that_windows_wrote_has_the_same_columns(self, tmp_path):
        make(tmp_path, "a.jpg")
        (tmp_path / "list.csv").write_bytes("\ufeffpath,é\r\na.jpg,x\r\n".encode())
        assert outcomes(entries(tmp_path / "list.csv")) == [("a.jpg", b"12345")]

    @pytest.mark.parametrize("first", ["a.jpg", "photos/1", "https://host/1"])
    def test_a_csv_without_a_header_does_not_lose_its_first_image(self, tmp_path, first):
        (tmp_path / "x.csv").write_text(f"{first}\nb.jpg\n")
        with pytest.raises(SourceError, match=r"x\.csv has no header.*--source-format paths"):
            entries(tmp_path / "x.csv")

    def test_lines_of_jsonl_that_hold_no_path_are_errors(self, tmp_path):
        make(tmp_path, "a.jpg", "b.jpg")
        lines = [
            *(
                '{"image": "a.jpg", "n": 1}',
                "",
                '{"image": null}',
                '{"image": 7}',
                '{"n": 2}',
                "[1]",
                "{broken",
            ),
            *("[" * 100_000, "x" * (2 << 20), '{"image": {"path": "b.jpg"}}', '{"image": "\\u0000.jpg"}'),
        ]
        (tmp_path / "list.jsonl").write_text("\n".join(lines))
        assert expect_to_go_on_anywhere(tmp_path / "list.jsonl") == [
            ("a.jpg", b"12345"),
            ("list.jsonl#3", "VALUE_MISSING"),
            ("list.jsonl#4", "VALUE_INVALID"),
            ("list.jsonl#5", "VALUE_MISSING"),
            ("list.jsonl#6", "ROW_INVALID"),
            ("list.jsonl#7", "ROW_INVALID"),
            ("list.jsonl#8", "ROW_INVALID"),
            ("list.jsonl#9", "LINE_TOO_LONG"),
            ("b.jpg", b"12345"),
            ("\0.jpg", "FILE_UNREADABLE"),
        ]

    def test_half_a_character_in_a_path_is_its_rows_error(self, tmp_path):
        make(tmp_path, "a.jpg")
        (tmp_path / "x.jsonl").write_text(
            '{"path": "\\ud83d.jpg", "id": "\\udc80"}\n{"path": "a.jpg", "id": "\\ud83d"}\n'
        )
        assert expect_to_go_on_anywhere(tmp_path / "x.jsonl") == [
            ("\\ud83d.jpg", "FILE_UNREADABLE"),
            ("a.jpg", b"12345"),
        ]
        assert keys(tmp_path / "x.jsonl", key="id") == ["\\x80", "\\ud83d"]

    def test_a_list_of_paths_has_one_a_line(self, tmp_path):
        make(tmp_path, "a.jpg", os.fsdecode(b"caf\xe9.jpg"), " b.jpg")
        (tmp_path / "list.txt").write_bytes(
            b"a.jpg\r\n\ncaf\xe9.jpg\n b.jpg\n" + b"x" * (3 << 20) + b"\na.jpg"
        )
        assert expect_to_go_on_anywhere(tmp_path / "list.txt") == [
            ("a.jpg", b"12345"),
            ("caf\\xe9.jpg", b"12345"),
            (" b.jpg", b"12345"),
            ("list.txt#5", "LINE_TOO_LONG"),
            ("a.jpg", b"12345"),
        ]
        assert open_with(tmp_path / "list.txt").count() == 5
        assert open_with(tmp_path / "list.txt").count(lambda: True) is None

    def test_urls_are_followed_only_where_that_was_asked_for(self, tmp_path):
        with fsspec.open("memory://list/a.jpg", "wb") as file:
            file.write(b"from elsewhere")
        (tmp_path / "list.txt").write_text("memory://list/a.jpg\nmemory://list/b.jpg\nnonsense://x/y.jpg\n")
        assert {reason for _, reason in outcomes(entries(tmp_path / "list.txt"))} == {"URL_NOT_ALLOWED"}
        assert outcomes(entries(tmp_path / "list.txt", urls=True)) == [
            ("memory://list/a.jpg", b"from elsewhere"),
            ("memory://list/b.jpg", "FILE_NOT_FOUND"),
            ("nonsense://x/y.jpg", "FILE_UNREADABLE"),
        ]

    def test_a_protocol_that_cannot_even_connect_is_its_rows_error(self, tmp_path):
        class Refusing(fsspec.AbstractFileSystem):
            def __init__(self, **_options):
                raise EOFError("the server has hung up")

        fsspec.register_implementation("refusing", Refusing, clobber=True)
        (tmp_path / "list.txt").write_text("refusing://host/a.jpg\n")
        found = outcomes(entries(tmp_path / "list.txt", urls=True))
        assert found == [("refusing://host/a.jpg", "FILE_UNREADABLE")]

    def test_which_column_is_meant_is_said_or_known_or_asked_for(self, tmp_path):
        make(tmp_path, "a.jpg")
        (tmp_path / "x.csv").write_text("one,two\na.jpg,b\n")
        assert keys(f"{tmp_path}/x.csv::one") == keys(tmp_path / "x.csv", column="one") == ["a.jpg"]
        for wrong in ({}, {"column": "three"}, {"column": "one", "key": "three"}):
            with pytest.raises(SourceError, match="one, two"):
                entries(tmp_path / "x.csv", **wrong)
        with pytest.raises(SourceError, match="different columns"):
            open_with(f"{tmp_path}/x.csv::one", column="two")


class TestParquet:
    def write(self, file, rows_per_group=3, **columns):
        pq.write_table(pa.table(columns), file, row_group_size=rows_per_group)

    def test_a_column_of_images_is_read_from_any_row_on(self, tmp_path):
        images = [b"0", b"1", None, b"3", b"", b"5", b"6", b"7"]
        self.write(tmp_path / "x.parquet", image=images, name=[f"n{number}" for number in range(8)])
        found = expect_to_go_on_anywhere(tmp_path / "x.parquet")
        assert found[:4] == [
            ("x.parquet#1", b"0"),
            ("x.parquet#2", b"1"),
            ("x.parquet#3", "VALUE_MISSING"),
            ("x.parquet#4", b"3"),
        ]
        assert keys(f"{tmp_path}/x.parquet::image", key="name") == [f"n{number}" for number in range(8)]
        assert open_with(tmp_path / "x.parquet").count() == 8

    def test_a_column_of_paths_and_one_of_both_are_read_too(self, tmp_path):
        make(tmp_path, "a.jpg")
        self.write(
            tmp_path / "x.parquet",
            path=["a.jpg", None, "no.jpg"],
            image=[{"bytes": b"in", "path": "a.jpg"}, {"bytes": None, "path": "a.jpg"}, None],
            number=[1, 2, 3],
        )
        assert [reason for _, reason in expect_to_go_on_anywhere(tmp_path / "x.parquet")] == [
            b"12345",
            "VALUE_MISSING",
            "FILE_NOT_FOUND",
        ]
        assert [told for _, told in outcomes(entries(f"{tmp_path}/x.parquet::image"))] == [
            b"in",
            b"12345",
            "VALUE_MISSING",
        ]
        assert {told for _, told in outcomes(entries(f"{tmp_path}/x.parquet::number"))} == {"VALUE_INVALID"}

    def test_text_that_is_no_utf8_is_its_rows_error(self, tmp_path):
        make(tmp_path, "a.jpg")
        text = pa.array([b"a.jpg", b"\xff.jpg", b"a.jpg"]).view(pa.string())
        self.write(tmp_path / "x.parquet", path=text, name=pa.array([b"1", b"2", b"\xff"]).view(pa.string()))
        assert expect_to_go_on_anywhere(tmp_path / "x.parquet") == [
            ("a.jpg", b"12345"),
            ("x.parquet#2", "VALUE_INVALID"),
            ("a.jpg", b"12345"),
        ]
        assert keys(tmp_path / "x.parquet", key="name") == ["1", "x.parquet#2", "x.parquet#3"]

    def test_a_data_set_of_several_files_goes_on_past_a_damaged_one(self, tmp_path):
        for name in ("part-0", "part-2"):
            self.write(tmp_path / f"{name}.parquet", image=[name.encode()] * 5)
        (tmp_path / "part-1.parquet").write_bytes(b"PAR1 nothing PAR1")
        (tmp_path / "_metadata.parquet").write_bytes(b"not of the data")
        pq.write_table(pa.table({"other": [1], "another": [2]}), tmp_path / "part-3.parquet")
        found = expect_to_go_on_anywhere(tmp_path, SourceFormat.PARQUET)
        assert found == [
            *((f"part-0.parquet#{row}", b"part-0") for row in range(1, 6)),
            ("part-1.parquet", "SOURCE_UNREADABLE"),
            *((f"part-2.parquet#{row}", b"part-2") for row in range(1, 6)),
            ("part-3.parquet", "SOURCE_UNREADABLE"),
        ]

    def test_rows_before_the_damage_are_read_and_none_after_it_twice(self, tmp_path):
        path = tmp_path / "x.parquet"
        self.write(path, image=[bytes([row]) * 2000 for row in range(40)], rows_per_group=16)
        data = bytearray(path.read_bytes())
        offset = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
        data[offset : offset + 40] = struct.pack("<5q", *[-1] * 5)
        path.write_bytes(data)
        found = expect_to_go_on_anywhere(path)
        assert len(found) == 33
        assert found[-1] == ("x.parquet", "SOURCE_UNREADABLE")


class TestStandardInput:
    @pytest.fixture
    def give(self, monkeypatch):
        def given(data):
            monkeypatch.setattr(opening.sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

        return given

    def test_it_is_a_list_of_paths(self, tmp_path, monkeypatch, give):
        monkeypatch.chdir(tmp_path)
        make(tmp_path, "a.jpg", "b\n.jpg")
        give(b"a.jpg\nno.jpg\n\n")
        assert outcomes(entries("-")) == [("a.jpg", b"12345"), ("no.jpg", "FILE_NOT_FOUND")]
        give(b"a.jpg\0b\n.jpg\0")
        assert keys("-", SourceFormat.PATHS0) == ["a.jpg", "b\n.jpg"]

    def test_it_may_be_a_tar_file_or_a_table(self, tmp_path, monkeypatch, give):
        monkeypatch.chdir(tmp_path)
        make(tmp_path, "a.jpg")
        tar_file(tmp_path / "x.tar.gz", ("a/1.jpg", b"one"), mode="w:gz")
        give((tmp_path / "x.tar.gz").read_bytes())
        assert outcomes(entries("-", SourceFormat.TAR)) == [("a/1.jpg", b"one")]
        give(b"path,id\na.jpg,7\n")
        assert keys("-", SourceFormat.CSV, key="id") == ["7"]
        with pytest.raises(SourceError):
            open_with("-", SourceFormat.PARQUET)

    def test_given_again_it_goes_on_after_what_is_done(self, tmp_path, monkeypatch, give):
        monkeypatch.chdir(tmp_path)
        make(tmp_path, "a.jpg", "b.jpg", "c.jpg")
        give(b"a.jpg\nb.jpg\nc.jpg\n")
        first = next(open_with("-").entries(None))
        give(b"a.jpg\nb.jpg\nc.jpg\n")
        assert [entry.key for entry in open_with("-").entries(first.cursor)] == ["b.jpg", "c.jpg"]


class TestChanges:
    @pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.jsonl", "x.parquet", "x.tar", "-"])
    @pytest.mark.parametrize("then", ["zabc", "b", ""])
    def test_a_source_that_has_another_entry_where_a_job_goes_on_is_refused(
        self, tmp_path, monkeypatch, name, then
    ):
        def written(names):
            paths = [f"{one}.jpg" for one in names]
            (tmp_path / "x.txt").write_text("".join(f"{path}\n" for path in paths))
            (tmp_path / "x.csv").write_text("".join(f"{path}\n" for path in ["path", *paths]))
            lines = [json.dumps({"path": path}) + "\n" for path in paths]
            (tmp_path / "x.jsonl").write_text("".join(lines) or '{"path": null}')
            table = pa.table({"path": pa.array(paths, pa.string())})
            pq.write_table(table, tmp_path / "x.parquet", row_group_size=1)
            tar_file(tmp_path / "x.tar", *((path, b"x") for path in paths))
            stdin = io.TextIOWrapper(io.BytesIO((tmp_path / "x.txt").read_bytes()))
            monkeypatch.setattr(opening.sys, "stdin", stdin)
            return open_with("-" if name == "-" else tmp_path / name)

        cursor = json.loads(json.dumps(list(written("abc").entries(None))[1].cursor))
        assert [entry.key[-5:] for entry in written("abcd").entries(cursor)] == ["c.jpg", "d.jpg"]
        with pytest.raises(SourceError, match="has changed"):
            list(written(then).entries(cursor))


class TestUrls:
    @pytest.fixture
    def bucket(self):
        files = fsspec.filesystem("memory")
        files.pipe({"/bucket/a.jpg": b"a", "/bucket/x/b.jpg": b"b", "/bucket/x/c.txt": b"c"})
        yield files
        files.rm("/bucket", recursive=True)

    def test_folders_patterns_and_files_are_read(self, bucket):
        assert expect_to_go_on_anywhere("memory://bucket") == [("a.jpg", b"a"), ("x/b.jpg", b"b")]
        assert outcomes(entries("memory://bucket/*/*.jpg")) == [("x/b.jpg", b"b")]
        assert outcomes(entries("memory://bucket/x/{b,d}.jpg")) == [
            ("b.jpg", b"b"),
            ("d.jpg", "FILE_NOT_FOUND"),
        ]
        assert outcomes(entries("memory://bucket/a.jpg")) == [("a.jpg", b"a")]

    def test_tar_files_and_lists_are_read(self, bucket, tmp_path):
        tar_file(tmp_path / "x.tar", ("1.jpg", b"one"))
        bucket.pipe("/bucket/s-1.tar", (tmp_path / "x.tar").read_bytes())
        assert outcomes(entries("memory://bucket/s-{1..1}.tar")) == [("s-1.tar/1.jpg", b"one")]
        pq.write_table(pa.table({"image": [b"in"]}), tmp_path / "x.parquet")
        bucket.pipe("/bucket/x.parquet", (tmp_path / "x.parquet").read_bytes())
        assert outcomes(entries("memory://bucket/x.parquet::image")) == [("x.parquet#1", b"in")]

    def test_a_list_from_elsewhere_is_not_read_twice_to_be_counted(self, bucket):
        bucket.pipe({"/bucket/x/list.txt": b"b.jpg", "/bucket/x/list.csv": b"path\nb.jpg"})
        assert open_with("memory://bucket/x/list.txt").count() is None
        assert open_with("memory://bucket/x/list.csv").count() is None
        assert open_with("memory://bucket/").count() == 2

    def test_a_source_is_not_called_by_its_signature(self, bucket):
        bucket.pipe("/bucket/list.txt?word", b"a.jpg")
        assert open_with("memory://bucket/list.txt?word", SourceFormat.PATHS).name.startswith(
            "memory://bucket/list.txt (and "
        )

    def test_a_list_from_elsewhere_names_nothing_of_this_machine(self, bucket):
        bucket.pipe("/bucket/x/list.txt", b"b.jpg\n../a.jpg\n/etc/passwd\nfile:///etc/passwd\n")
        assert outcomes(entries("memory://bucket/x/list.txt")) == [
            ("b.jpg", b"b"),
            ("../a.jpg", "PATH_OUTSIDE"),
            ("/etc/passwd", "PATH_OUTSIDE"),
            ("file:///etc/passwd", "URL_NOT_ALLOWED"),
        ]

    @pytest.mark.parametrize(
        "path", ["%2e%2e/a.jpg", "x/%2E./../a.jpg", "..%2fa.jpg", "..\\a.jpg", "%2fetc/passwd"]
    )
    def test_escapes_lead_no_further_than_what_they_stand_for(self, bucket, path):
        bucket.pipe("/bucket/x/list.txt", path.encode())
        assert outcomes(entries("memory://bucket/x/list.txt")) == [(path, "PATH_OUTSIDE")]

    def test_a_file_that_does_not_come_in_time_is_an_error(self, bucket, tmp_path, monkeypatch):
        stalled = threading.Event()
        monkeypatch.setattr(remote_tree, "READ_SECONDS", 0.01)
        monkeypatch.setattr(type(bucket), "open", lambda *_arguments, **_options: stalled.wait(60))
        (tmp_path / "list.txt").write_text("memory://bucket/a.jpg\n")
        try:
            found = [
                *entries("memory://bucket", all_files=True)[:1],
                *entries(tmp_path / "list.txt", urls=True),
            ]
            assert [reason for _, reason in outcomes(found)] == ["FILE_UNREADABLE"] * 2
        finally:
            stalled.set()

    @pytest.mark.parametrize("url", ["memory://bucket/no.jpg", "nonsense://bucket/x"])
    def test_what_is_not_there_or_not_spoken_is_refused_at_once(self, bucket, url):
        with pytest.raises(SourceError):
            open_with(url)
