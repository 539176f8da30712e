import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.server_process import ROOT

from retinue_server.cli import main
from retinue_server.errors import StartupError
from retinue_server.tokens import Scope, TokenFile, entry, new_token

SECRET = "a-secret-that-must-not-be-shown"


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def written(folder: Path, *entries: dict[str, Any], **more: Any) -> Path:
    path = folder / "tokens.json"
    path.write_text(json.dumps({"tokens": list(entries), **more}))
    path.chmod(0o600)
    return path


def ann(secret: str = SECRET, **more: Any) -> dict[str, Any]:
    return {"name": "ann", "sha256": digest(secret), "scopes": ["infer"], **more}


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def test_a_token_is_found_by_its_hash_and_no_other_is(tmp_path: Path) -> None:
    tokens = TokenFile(written(tmp_path, ann(), ann("other", name="ben", scopes=["manage", "observe"])))
    found = tokens.find(SECRET)
    assert found is not None
    assert (found.name, found.scopes) == ("ann", {Scope.INFER})
    other = tokens.find("other")
    assert other is not None
    assert other.scopes == {Scope.MANAGE, Scope.OBSERVE}
    for unknown in ("", SECRET + "x", SECRET[:-1], digest(SECRET), "ü"):
        assert tokens.find(unknown) is None


def test_both_of_a_name_hold_while_one_follows_the_other(tmp_path: Path) -> None:
    path = written(tmp_path, ann("old"))
    clock = Clock()
    tokens = TokenFile(path, clock)
    assert tokens.find("new") is None
    written(tmp_path, ann("old"), ann("new"))
    assert tokens.find("old")
    assert tokens.find("new")
    written(tmp_path, ann("new"))
    assert tokens.find("old") is None
    assert tokens.find("new")


def test_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, ann())
    tokens = TokenFile(path)
    path.write_text("{")
    with capture_logs() as events:
        assert tokens.find(SECRET)
        path.unlink()
        assert tokens.find(SECRET)
    assert [event["event"] for event in events] == ["tokens_refused"]


def test_a_token_ends_when_it_expires(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 1_700_000_000.0
    tokens = TokenFile(written(tmp_path, ann(expires="2023-11-14T22:13:21Z")), clock)
    assert tokens.find(SECRET)
    clock.now += 1
    assert tokens.find(SECRET) is None


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ([ann(sha256="abc")], "tokens.0.sha256: "),
        ([ann(), ann("b", scopes=["everything"])], "tokens.1.scopes.0: "),
        ([ann(scopes=[])], "tokens.0.scopes: "),
        ([ann(name="a b")], "tokens.0.name: "),
        ([ann(requests_per_second=0)], "tokens.0.requests_per_second: "),
        ([ann(requests_per_second=True)], "tokens.0.requests_per_second: "),
        ([ann(max_concurrent_requests=1.5)], "tokens.0.max_concurrent_requests: "),
        ([ann(expires="2030-01-01T00:00:00")], "tokens.0.expires: "),
        ([ann(requests_per_secnod=1)], "tokens.0.requests_per_secnod: "),
        ([{"name": "ann", "scopes": ["infer"]}], "tokens.0.sha256: "),
        ([ann(), ann()], "two of the tokens have the same sha256"),
        ([ann(sha256=SECRET)], "tokens.0.sha256: "),
        ([ann(str(n)) for n in range(1001)], "tokens: "),
    ],
)
def test_an_entry_that_does_not_hold_is_named_and_not_shown(
    entries: list[dict[str, Any]], where: str, tmp_path: Path
) -> None:
    path = written(tmp_path, *entries)
    with pytest.raises(StartupError) as raised:
        TokenFile(path)
    assert f"--tokens '{path}': {where}" in raised.value.message
    assert SECRET not in raised.value.message
    assert raised.value.message.endswith(".")
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", SECRET.encode(), b"[" * 100_000, b"{}"])
@pytest.mark.parametrize("name", ["tokens.json", "tokens.toml"])
def test_a_file_that_is_none_is_refused_and_not_shown(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StartupError, match=r"--tokens '.*'") as raised:
        TokenFile(path)
    assert SECRET not in raised.value.message


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644])
def test_a_file_that_others_may_read_or_change_is_refused(mode: int, tmp_path: Path) -> None:
    path = written(tmp_path, ann())
    path.chmod(mode)
    with pytest.raises(StartupError, match="others may read or change"):
        TokenFile(path)


def test_a_made_entry_is_one_that_is_read(tmp_path: Path) -> None:
    secrets = [new_token(), new_token()]
    path = tmp_path / "tokens.toml"
    path.write_text(entry("ann", secrets[0], [Scope.INFER]) + "\n" + entry("ben", secrets[1], list(Scope)))
    path.chmod(0o600)
    found = [TokenFile(path).find(secret) for secret in secrets]
    assert [token and (token.name, len(token.scopes)) for token in found] == [("ann", 1), ("ben", 3)]
    assert all(len(secret) > 43 for secret in secrets)


def test_the_page_shows_an_entry_that_holds(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    path = tmp_path / "tokens.toml"
    path.write_text(page[page.index("[[tokens]]") : page.index("$ chmod")])
    path.chmod(0o600)
    secret = re.findall(r"^retinue_\S+$", page, re.MULTILINE)[0]
    found = TokenFile(path).find(secret)
    assert found is not None
    assert entry(found.name, secret, list(found.scopes)) in page


def test_the_command_prints_an_entry_and_the_token_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["retinue-server", "token", "ann", "infer", "observe"])
    main()
    told = capsys.readouterr()
    path = tmp_path / "tokens.toml"
    path.write_text(told.out)
    path.chmod(0o600)
    found = TokenFile(path).find(told.err.strip())
    assert found is not None
    assert (found.name, found.scopes) == ("ann", {Scope.INFER, Scope.OBSERVE})
    assert told.err.strip() not in told.out
    for wrong, why in ((["a b"], "a token's name has"), (["ann", "all"], "there is no scope 'all'")):
        monkeypatch.setattr("sys.argv", ["retinue-server", "token", *wrong])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code, why in capsys.readouterr().err) == (2, True)
