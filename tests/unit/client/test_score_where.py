import pytest

from retinue_client.cli._scorer import servers_of


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ["localhost:8001"]),
        (["a:1"], ["a:1"]),
        (["a:1,b:2"], ["a:1", "b:2"]),
        (["a:1", "b:2, a:1"], ["a:1", "b:2"]),
        ([","], ["localhost:8001"]),
    ],
)
def test_several_servers_are_named_together_or_one_by_one(given, expected):
    assert servers_of(given) == expected


def test_several_servers_may_stand_in_the_environment(score, server, folder, monkeypatch):
    monkeypatch.setenv("RETINUE_SERVER", f"localhost:1,{server.address}")
    assert score(folder).exit_code == 0
    assert any(hasattr(request, "images") for request in server.service.requests)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--models", "models"], "--models is for --local and --ray"),
        (["--local", "--ray", "auto"], "--local and --ray exclude each other"),
    ],
)
def test_options_that_do_not_go_together_are_refused(score, server, folder, arguments, complaint):
    result = score(folder, *arguments)
    assert (result.exit_code, complaint in result.stderr) == (2, True)
    assert not server.service.requests


def test_workers_cannot_read_standard_input(score):
    result = score("-", "--ray", "auto")
    assert (result.exit_code, "--ray cannot read standard input" in result.stderr) == (2, True)
