"""What a scoring job does where it finds something already: it goes on, is finished, or refuses."""

import grpc
import pyarrow.parquet as pq
import pytest
from tests.unit.client.score_output import part, rows

from retinue_client._score.remote import RemoteScorer


def test_what_is_there_and_no_result_is_neither_added_to_nor_overwritten(score, folder, tmp_path):
    out = tmp_path / "results.parquet"
    out.write_bytes(b"precious")
    for overwrite in ((), ("--overwrite",)):
        result = score(folder, *overwrite)
        assert (result.exit_code, "is a file; results are a folder" in result.stderr) == (2, True)
    assert out.read_bytes() == b"precious"
    out.unlink()
    out.mkdir()
    (out / "thesis.tex").write_bytes(b"precious")
    for overwrite in ((), ("--overwrite",)):
        result = score(folder, *overwrite)
        assert (result.exit_code, "holds other things (thesis.tex)" in result.stderr) == (2, True)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_finished_job_is_not_done_again_unless_told_to(score, server, folder, tmp_path):
    assert score(folder).exit_code == 0
    asked, written = len(server.service.requests), part(tmp_path).stat().st_mtime_ns
    server.stop()
    result = score(folder)
    assert (result.exit_code, result.stdout) == (
        0,
        f"{tmp_path / 'results.parquet'} is finished: 100 rows. --overwrite scores anew.\n",
    )
    assert part(tmp_path).stat().st_mtime_ns == written
    assert len(server.service.requests) == asked
    server.start_again()
    assert score(folder, "--overwrite").exit_code == 0
    assert part(tmp_path).stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["--top-k", "3"], "options was {'model': 'a-classifier'}"),
        (["--rows-per-part", "7"], "rows_per_part was 10000 and is 7"),
        (["--format", "jsonl"], "format was 'parquet' and is 'jsonl'"),
        (["--all-files"], "all_files was None and is True"),
    ],
)
def test_another_job_does_not_mix_with_the_results_of_one(score, folder, tmp_path, arguments, difference):
    assert score(folder).exit_code == 0
    result = score(folder, *arguments)
    assert (result.exit_code, difference in result.stderr) == (2, True)
    assert len(rows(tmp_path)) == 100
    assert score(folder, *arguments, "--overwrite").exit_code == 0


def test_what_answers_is_closed_also_where_there_is_nothing_to_do(score, folder, tmp_path, monkeypatch):
    closed = []
    close = RemoteScorer.close

    async def noted(scorer):
        closed.append(scorer)
        await close(scorer)

    monkeypatch.setattr(RemoteScorer, "close", noted)
    assert [score(folder).exit_code, score(folder).exit_code, score(folder, "--top-k", "3").exit_code] == [
        0,
        0,
        2,
    ]
    assert len({id(scorer) for scorer in closed}) == 3


def test_another_version_of_the_model_does_not_go_on_with_a_job(score, server, folder, tmp_path):
    def stay_away(_request, context):
        if len(server.service.requests) > 4:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Enough.")

    server.service.on_request = stay_away
    assert score(folder, "--rows-per-part", "1").exit_code == 2
    server.service.on_request = None
    model = server.service.models[0]
    model_then = type(model).FromString(model.SerializeToString())
    server.service.models[0] = type(model).FromString(model.SerializeToString())
    server.service.models[0].version = 4
    result = score(folder, "--rows-per-part", "1")
    assert (result.exit_code, "version was 3 and is 4" in result.stderr) == (2, True)
    server.service.models[0] = model_then
    assert score(folder, "--rows-per-part", "1").exit_code == 0
    assert len(rows(tmp_path)) == 100


def test_results_inside_the_folder_are_not_scored_themselves(score, folder):
    out = folder / "out.parquet"
    assert score(folder, "--all-files", out=out).exit_code == 0
    assert score(folder, "--all-files", "--overwrite", out=out).exit_code == 0
    assert len(pq.read_table(out)) == 100
