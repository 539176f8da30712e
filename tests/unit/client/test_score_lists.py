"""Images to score that a list names: in CSV, in JSONL, or a path a line."""

import csv
import os

import fsspec
import pytest
from tests.unit.client.source_files import entries, expect_to_go_on_anywhere, keys, make, open_with, outcomes

from retinue_client._score.errors import SourceError


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
