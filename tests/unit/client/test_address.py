import pytest

from retinue_client import Client
from retinue_client._address import resolve_address
from retinue_client._channel import channel_options


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("localhost:8001", "localhost:8001"),
        ("gpu-box", "gpu-box:8001"),
        (" 10.0.0.7:9000 ", "10.0.0.7:9000"),
        ("[::1]:9000", "[::1]:9000"),
        ("[::1]", "[::1]:8001"),
        ("unix:/run/retinue.sock", "unix:/run/retinue.sock"),
        ("dns:///retinue.example:8001", "dns:///retinue.example:8001"),
        ("a, b:9000 ,[::1]", "a:8001,b:9000,[::1]:8001"),
        (["a", "b:9000,c"], "a:8001,b:9000,c:8001"),
        (("a", "a:8001"), "a:8001"),
        ("ipv4:10.0.0.7:8001,10.0.0.8:8001", "ipv4:10.0.0.7:8001,10.0.0.8:8001"),
        ("unix:/run/a.sock,dns:///b:8001", "unix:/run/a.sock,dns:///b:8001"),
    ],
)
def test_an_address_becomes_a_target(given, target):
    assert resolve_address(given) == target


@pytest.mark.parametrize(
    "given",
    [
        "http://localhost:8001",
        "localhost:8001/x",
        "localhost:",
        "localhost:0",
        "localhost:70000",
        "a:b",
        ":8001",
        "::1",
        "a,,b",
        "a,http://b",
        [],
        ["a", ""],
        ["ipv4:10.0.0.1:1,10.0.0.2:1", "b:8001"],
        ["b:8001", "ipv6:[::1]:1,[::2]:1"],
        ["ipv4:10.0.0.1:8001", "b:8001"],
    ],
)
def test_what_is_no_address_is_refused_with_an_example(given):
    with pytest.raises(ValueError, match="8001"):
        resolve_address(given)


def test_without_an_address_the_environment_names_it_and_else_it_is_the_default(monkeypatch):
    monkeypatch.delenv("RETINUE_SERVER", raising=False)
    assert resolve_address(None) == "localhost:8001"
    monkeypatch.setenv("RETINUE_SERVER", "elsewhere:9001")
    with Client() as client:
        assert client.address == "elsewhere:9001"
    monkeypatch.setenv("RETINUE_SERVER", "elsewhere,further:9002")
    with Client() as client:
        assert repr(client) == "<Client of elsewhere:8001,further:9002>"


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8001",
        "LOCALHOST:8001",
        "127.0.0.1:8001",
        "127.8.9.10:8001",
        "[::1]:8001",
        "ipv4:127.0.0.1:8001",
        "ipv6:[::1]:8001",
        "dns:localhost:8001",
        "dns:///localhost:8001",
        "dns://10.0.0.1/localhost:8001",
        "dns:localhost",
    ],
)
def test_a_server_of_this_machine_is_not_asked_through_a_proxy(address):
    assert ("grpc.enable_http_proxy", 0) in channel_options(address)


@pytest.mark.parametrize(
    "address",
    [
        "gpu-box:8001",
        "10.0.0.7:8001",
        "localhost.example:8001",
        "ipv4:10.0.0.7:8001",
        "dns:///retinue.example:8001",
        "dns://127.0.0.1/retinue.example:8001",
    ],
)
def test_other_servers_are_asked_through_the_proxy_where_there_is_one(address):
    assert all(name != "grpc.enable_http_proxy" for name, _ in channel_options(address))


def test_the_proxy_is_not_in_the_way_of_a_call(ask, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for variable in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
    assert ask("list_models")


def test_a_server_that_vanished_without_a_word_is_noticed_and_no_server_is_pinged_more_than_it_allows():
    options = dict(channel_options("gpu-box:8001"))
    assert 10_000 < options["grpc.keepalive_time_ms"] <= 30_000
    assert options["grpc.keepalive_timeout_ms"] <= 10_000
