import socket
from collections.abc import Iterator

import pytest
from tests.system_packages import unavailable

from retinue_server.errors import StartupError
from retinue_server.rpc.port import SharedPort


@pytest.fixture
def shared() -> Iterator[SharedPort]:
    port = SharedPort("127.0.0.1", 0)
    yield port
    port.close()


def _listen(port: int, *, share: bool) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        one.bind(("127.0.0.1", port))
        one.listen()
    except OSError:
        one.close()
        raise
    return one


def test_those_who_share_may_listen_and_others_may_not(shared: SharedPort) -> None:
    with _listen(shared.port, share=True), _listen(shared.port, share=True):
        with pytest.raises(OSError, match="in use"):
            _listen(shared.port, share=False)
        with pytest.raises(
            StartupError, match=f"cannot listen on 127.0.0.1:{shared.port}: the port is in use"
        ):
            SharedPort("127.0.0.1", shared.port)


def test_a_port_of_one_who_does_not_share_is_refused() -> None:
    with (
        _listen(0, share=False) as other,
        pytest.raises(StartupError, match="choose others with --grpc-port"),
    ):
        SharedPort("127.0.0.1", other.getsockname()[1])


def test_a_port_is_free_again_when_it_is_closed() -> None:
    first = SharedPort("127.0.0.1", 0)
    first.close()
    SharedPort("127.0.0.1", first.port).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(StartupError, match=f"cannot listen on {host}:0"):
        SharedPort(host, 0)


@pytest.mark.parametrize("host", ["::1", "localhost", "0.0.0.0"])
def test_names_and_all_kinds_of_addresses_are_taken(host: str) -> None:
    try:
        port = SharedPort(host, 0)
    except StartupError as error:
        unavailable(f"this machine has no IPv6: {error.message}")
    assert port.port > 0
    port.close()
