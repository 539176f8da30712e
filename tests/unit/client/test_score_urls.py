"""Images to score that are elsewhere: buckets, and lists from there."""

import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.client.source_files import entries, expect_to_go_on_anywhere, open_with, outcomes, tar_file

from retinue_client._score.errors import SourceError
from retinue_client._score.sources import remote_tree
from retinue_client._score.sources.opening import SourceFormat


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
