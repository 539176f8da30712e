"""Where images to score come from: standard input, and a source that is another one than it was."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.client.source_files import entries, keys, make, open_with, outcomes, tar_file

from retinue_client._score.errors import SourceError
from retinue_client._score.sources import opening
from retinue_client._score.sources.opening import SourceFormat


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
