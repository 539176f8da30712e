"""Several servers behind one client: whose turn it is, who is passed over, and who comes back."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from tests.name_server import naming
from tests.ports import free_port

from retinue_client import AsyncClient, Client, Retries, ServerUnreachableError, UnavailableError
from retinue_client._channel import targets
from retinue_client._security import Security

NONE = Retries.none()


class Calls:
    """The calls of one client, of either kind, from a test that waits for each."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self._client = client
        self._loop = asyncio.new_event_loop() if isinstance(client, AsyncClient) else None

    def __call__(self, method: str = "classify", *arguments: Any, **options: Any) -> Any:
        given = arguments or ((b"x",) if method == "classify" else ())
        result = getattr(self._client, method)(*given, **options)
        return result if self._loop is None else self._loop.run_until_complete(result)

    def close(self) -> None:
        self("close")
        if self._loop is not None:
            self._loop.close()


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Calls]]:
    with ExitStack() as stack:

        def connect(address: Any, **settings: Any) -> Calls:
            calls = Calls(request.param(address, **settings))
            stack.callback(calls.close)
            return calls

        yield connect


def until(calls: Calls, condition: Callable[[], bool]) -> None:
    """Goes on calling until something holds."""
    for _ in range(100_000):
        if condition():
            return
        calls(timeout_seconds=20)
    raise AssertionError("it never came about")


def shares(servers: list[Any], calls: Calls, count: int = 20) -> list[int]:
    """How many of so many calls each server gets."""
    for server in servers:
        server.service.requests.clear()
    for _ in range(count):
        calls(timeout_seconds=20)
    return [len(server.service.requests) for server in servers]


def all_found(servers: list[Any], calls: Calls) -> None:
    until(calls, lambda: all(server.service.requests for server in servers))


def addresses(servers: list[Any], host: str = "127.0.0.1") -> list[str]:
    return [f"{host}:{server.address.rpartition(':')[2]}" for server in servers]


# Names have a channel each, IP addresses one that gRPC balances.
@pytest.fixture(params=["127.0.0.1", "localhost"])
def pair(request: pytest.FixtureRequest, start_server: Callable[..., Any]) -> tuple[list[Any], list[str]]:
    servers = [start_server() for _ in range(2)]
    return servers, addresses(servers, request.param)


def test_servers_take_turns(connect, pair):
    servers, given = pair
    calls = connect(",".join(given), retries=NONE)
    all_found(servers, calls)
    assert shares(servers, calls) == [10, 10]


def test_a_server_that_says_that_it_is_not_ready_is_not_called(connect, pair):
    servers, given = pair
    calls = connect(given)
    all_found(servers, calls)
    servers[0].health.set_ready(False)
    # Calls that were on their way when it said so are answered.
    until(calls, lambda: shares(servers, calls, 4)[0] == 0)
    assert shares(servers, calls) == [0, 20]
    servers[0].health.set_ready(True)
    servers[0].service.requests.clear()
    all_found(servers, calls)


def test_where_no_server_is_ready_a_call_says_so(connect, start_server):
    servers = [start_server() for _ in range(2)]
    for server in servers:
        server.health.set_ready(False)
    calls = connect(addresses(servers), retries=NONE)
    with pytest.raises(UnavailableError, match=r"No server at .* is ready") as caught:
        calls()
    assert caught.value.reason == "NOT_READY"
    assert [server.service.requests for server in servers] == [[], []]


def test_a_server_that_goes_costs_no_call_and_is_found_again(connect, pair):
    servers, given = pair
    calls = connect(given)
    all_found(servers, calls)
    servers[1].stop()
    assert shares(servers, calls) == [20, 0]
    servers[1].start_again()
    servers[1].service.requests.clear()
    all_found(servers, calls)


def test_a_server_that_was_never_there_costs_no_call(connect, start_server):
    server = start_server()
    for host in ("127.0.0.1", "localhost"):
        calls = connect([f"{host}:{free_port()}", *addresses([server], host)])
        assert shares([server], calls) == [20]


def test_a_refusal_of_one_server_is_sent_to_the_other(connect, start_server, failure):
    servers = [start_server() for _ in range(2)]
    calls = connect(addresses(servers, "localhost"))
    all_found(servers, calls)
    draining = failure(grpc.StatusCode.UNAVAILABLE, "Draining.", "DRAINING")
    servers[0].service.failures += [draining] * 1000
    assert shares(servers, calls)[1] == 20


def test_a_hedge_goes_to_another_server(connect, start_server):
    servers = [start_server() for _ in range(2)]
    calls = connect(addresses(servers), retries=Retries(hedge_after_seconds=0.02))
    all_found(servers, calls)
    for server in servers:
        server.service.requests.clear()
    waited: list[Any] = []

    def hold(_request: Any, context: Any) -> None:
        # Whoever is asked first hangs.
        waited.append(context)
        while len(waited) == 1 and context.is_active():
            pass

    for server in servers:
        server.service.on_request = hold
    calls(timeout_seconds=20)
    assert [len(server.service.requests) for server in servers] == [1, 1]


def test_the_addresses_of_a_name_take_turns_and_are_asked_for_again(connect, start_server):
    """127.0.0.1 and 127.0.0.2 stand for two pods, of which one is replaced by a third at 127.0.0.3."""
    first = start_server("127.0.0.1")
    port = first.address.rpartition(":")[2]
    second = start_server(f"127.0.0.2:{port}")
    with naming("127.0.0.1", "127.0.0.2") as names:
        calls = connect(names.target(int(port)))
        all_found([first, second], calls)
        assert shares([first, second], calls) == [10, 10]
        third = start_server(f"127.0.0.3:{port}")
        names.addresses = ("127.0.0.2", "127.0.0.3")
        first.stop()
        all_found([second, third], calls)
        assert shares([second, third], calls) == [10, 10]


def test_calls_about_versions_reach_a_server_that_is_not_ready(connect, start_server):
    """It is what they are for; that the fake does not have them says that they came."""
    server = start_server()
    server.health.set_ready(False)
    port = server.address.rpartition(":")[2]
    with naming("127.0.0.1") as names:
        calls = connect(names.target(int(port)))
        with pytest.raises(Exception, match="does not have this call"):
            calls("list_versions", timeout_seconds=20)


@pytest.mark.parametrize("form", ["{},{}", "ipv4:{},{}"])
def test_calls_about_versions_go_to_the_first_server_alone(connect, start_server, form):
    """Whoever loads a model on one server does not mean another one that happens to be there."""
    first, second = f"127.0.0.1:{free_port()}", addresses([start_server()])[0]
    calls = connect(form.format(first, second), retries=NONE)
    with pytest.raises(ServerUnreachableError) as caught:
        calls("list_versions", timeout_seconds=20)
    assert first in caught.value.message
    assert second not in caught.value.message


def test_one_address_that_is_no_name_is_called_ready_or_not(connect, start_server):
    """Its own refusal says more than that it is not ready."""
    server = start_server()
    server.health.set_ready(False)
    assert shares([server], connect(server.address, retries=NONE)) == [20]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_many_calls_at_once_survive_a_server_that_is_not_there(host, start_server):
    """None of them reached it, so none of them is charged for coming again."""
    server = start_server()
    given = [f"{host}:{free_port()}", *addresses([server], host)]
    async with AsyncClient(given, retries=Retries(burst=0)) as client:
        results = await asyncio.gather(*(client.classify(f"{place}".encode()) for place in range(300)))
    assert [result.best.label for result in results] == [str(place) for place in range(300)]


def test_nobody_at_any_address_names_them(connect):
    given = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with pytest.raises(ServerUnreachableError) as caught:
        connect(given, retries=NONE)()
    assert all(address in caught.value.message for address in given)


def test_many_calls_at_once_are_spread(start_server):
    servers = [start_server() for _ in range(3)]

    async def ask() -> Counter[str]:
        async with AsyncClient(addresses(servers)) as client:
            while not all(server.service.requests for server in servers):
                await client.classify(b"x")
            for server in servers:
                server.service.requests.clear()
            results = await asyncio.gather(*(client.classify(f"{place}".encode()) for place in range(90)))
        return Counter(result.best.label for result in results)

    assert set(asyncio.run(ask()).values()) == {1}
    assert [len(server.service.requests) for server in servers] == [30, 30, 30]


@pytest.mark.parametrize(
    ("address", "apart", "names", "balanced"),
    [
        ("10.0.0.7:8001", False, ["10.0.0.7:8001"], False),
        ("localhost:8001", False, ["localhost:8001"], False),
        ("unix:/run/a.sock", False, ["unix:/run/a.sock"], False),
        ("models:8001", False, ["models:8001"], True),
        ("dns:///models:8001", False, ["dns:///models:8001"], True),
        ("ipv4:10.0.0.7:8001,10.0.0.8:8001", False, ["ipv4:10.0.0.7:8001,10.0.0.8:8001"], True),
        ("10.0.0.7:8001,10.0.0.8:8001", False, ["ipv4:10.0.0.7:8001,10.0.0.8:8001"], True),
        ("[::1]:8001,[::2]:8001", False, ["ipv6:[::1]:8001,[::2]:8001"], True),
        ("10.0.0.7:8001,10.0.0.8:8001", True, ["10.0.0.7:8001", "10.0.0.8:8001"], True),
        ("10.0.0.7:8001,[::2]:8001", False, ["10.0.0.7:8001", "[::2]:8001"], True),
        ("a:8001,10.0.0.8:8001", False, ["a:8001", "10.0.0.8:8001"], True),
    ],
)
def test_addresses_become_channels(address, apart, names, balanced):
    made = targets(address, apart=apart)
    assert [target.name for target in made] == names
    assert {target.balanced for target in made} == {balanced}


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1,10.0.0.7:2", "ipv4:127.0.0.1:1,10.0.0.7:2", "localhost:1,models:2"]
)
def test_a_token_without_tls_goes_to_none_of_several_where_one_is_elsewhere(address):
    with pytest.raises(ValueError, match="without TLS"):
        Security.resolve(address, None, "a-token")
    assert Security.resolve("127.0.0.1:1,localhost:2,unix:/run/a", None, "a-token").token
