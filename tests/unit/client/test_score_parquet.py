"""Images to score in Parquet files, or named there."""

import struct

import pyarrow as pa
import pyarrow.parquet as pq
from tests.unit.client.source_files import entries, expect_to_go_on_anywhere, keys, make, open_with, outcomes

from retinue_client._score.sources.opening import SourceFormat


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
