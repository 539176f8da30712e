from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.test_tokens import SECRET, ann, written

from retinue_server.errors import Code, OverloadedError, PermissionDeniedError, UnauthenticatedError
from retinue_server.rpc.access import SCOPES, Access
from retinue_server.rpc.methods import SERVICES
from retinue_server.rpc.status import to_status
from retinue_server.tokens import Scope, TokenFile


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def bearer(secret: str = SECRET) -> list[tuple[str, str | bytes]]:
    return [("user-id", "ann"), ("authorization", f"Bearer {secret}")]


def access(folder: Path, *entries: dict[str, Any], among: int = 1, clock: Clock | None = None) -> Access:
    return Access(TokenFile(written(folder, *entries)), among, clock or Clock())


def test_every_method_has_its_scopes() -> None:
    methods = {method.name for service in SERVICES for method in service.methods}
    assert methods == SCOPES.keys() - {"/", "/metrics", "ServerReflectionInfo"}


def test_without_tokens_everybody_may_do_everything() -> None:
    everybody = Access(None)
    assert everybody.identify("RepositoryModelLoad", []) is None
    everybody.enter(None)
    everybody.leave(None)


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("method", SCOPES)
def test_a_token_is_for_what_its_scopes_say(method: str, scope: Scope, tmp_path: Path) -> None:
    gate = access(tmp_path, ann(scopes=[scope]))
    if scope in SCOPES[method]:
        token = gate.identify(method, bearer())
        assert token is not None
        assert token.name == "ann"
        return
    with pytest.raises(PermissionDeniedError, match=f"'ann' has not the scope .*{method} needs") as raised:
        gate.identify(method, bearer())
    assert raised.value.reason == "SCOPE_MISSING"
    assert SECRET not in raised.value.message


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        bearer("unknown"),
        bearer(""),
        [("authorization", SECRET)],
        [("authorization", f"Basic {SECRET}")],
        [("authorization", f"Bearer {SECRET}")] * 2,
        [("authorization-bin", SECRET.encode())],
    ],
    ids=["nothing", "unknown", "empty", "no scheme", "another scheme", "two", "bytes"],
)
def test_all_who_are_not_known_are_told_the_same(metadata: Any, tmp_path: Path) -> None:
    with pytest.raises(UnauthenticatedError) as raised:
        access(tmp_path, ann()).identify("Classify", metadata)
    expected = "the call needs a token that this server knows, in the header 'authorization: Bearer TOKEN'."
    assert (raised.value.message, raised.value.reason) == (expected, "UNAUTHENTICATED")


def test_a_scheme_is_read_in_any_case(tmp_path: Path) -> None:
    assert access(tmp_path, ann()).identify("Classify", [("authorization", f"bearer {SECRET}")])


def refused(gate: Access, token: Any) -> OverloadedError:
    with pytest.raises(OverloadedError) as raised:
        gate.enter(token)
    return raised.value


def test_calls_at_once_are_bounded_by_name(tmp_path: Path) -> None:
    gate = access(
        tmp_path,
        ann(max_concurrent_requests=2),
        ann("next", max_concurrent_requests=2),
        ann("other", name="ben", max_concurrent_requests=1),
    )
    first, second, ben = (gate.identify("Classify", bearer(one)) for one in (SECRET, "next", "other"))
    gate.enter(first)
    gate.enter(second)
    assert refused(gate, first).reason == "TOKEN_TOO_MANY_CALLS"
    gate.enter(ben)
    gate.leave(second)
    gate.enter(first)


def test_calls_in_a_time_are_bounded_and_told_when_to_come_back(tmp_path: Path) -> None:
    clock = Clock()
    gate = access(tmp_path, ann(requests_per_second=4), clock=clock)
    token = gate.identify("Classify", bearer())

    def enter() -> None:
        gate.enter(token)
        gate.leave(token)

    for _ in range(4):
        enter()
    error = refused(gate, token)
    assert (error.reason, error.retry_after_seconds) == ("TOKEN_TOO_FAST", 0.25)
    clock.now += 0.125
    assert refused(gate, token).retry_after_seconds == 0.125
    clock.now += 0.125
    enter()
    refused(gate, token)
    # What was not used is not saved up for longer than a second.
    clock.now += 1000
    for _ in range(4):
        enter()
    refused(gate, token)


@pytest.mark.parametrize("per_second", [1e-9, 1e-300, 5e-324])
def test_who_may_call_once_in_an_age_is_told_of_a_day(per_second: float, tmp_path: Path) -> None:
    gate = access(tmp_path, ann(requests_per_second=per_second))
    token = gate.identify("Classify", bearer())
    gate.enter(token)
    with pytest.raises(OverloadedError) as raised:
        gate.enter(token)
    assert raised.value.retry_after_seconds == 86_400
    assert to_status(raised.value).code == Code.RESOURCE_EXHAUSTED.value


def test_a_refused_call_holds_nothing(tmp_path: Path) -> None:
    clock = Clock()
    gate = access(tmp_path, ann(requests_per_second=0.5, max_concurrent_requests=1), clock=clock)
    token = gate.identify("Classify", bearer())
    gate.enter(token)
    gate.leave(token)
    assert refused(gate, token).retry_after_seconds == 2
    clock.now += 2
    gate.enter(token)


def test_processes_share_the_limits_of_a_name(tmp_path: Path) -> None:
    gate = access(tmp_path, ann(requests_per_second=8, max_concurrent_requests=3), among=2)
    token = gate.identify("Classify", bearer())
    gate.enter(token)
    gate.enter(token)
    assert refused(gate, token).reason == "TOKEN_TOO_MANY_CALLS"
    gate.leave(token)
    gate.leave(token)
    for _ in range(2):
        gate.enter(token)
        gate.leave(token)
    assert refused(gate, token).reason == "TOKEN_TOO_FAST"


def test_a_process_that_passes_calls_on_leaves_limits_to_others(tmp_path: Path) -> None:
    gate = access(tmp_path, ann(max_concurrent_requests=1), among=0)
    token = gate.identify("Classify", bearer())
    for _ in range(3):
        gate.enter(token)
    for _ in range(3):
        gate.leave(token)
