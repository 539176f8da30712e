import pytest
from structlog.testing import capture_logs

from retinue_server import exposure
from retinue_server.errors import StartupError
from retinue_server.settings import Settings

OPEN = ["0.0.0.0", "::", "10.0.0.7", "192.168.1.2", "my-host", "", "::ffff:10.0.0.7"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_this_machine_alone_needs_nothing(host: str) -> None:
    with capture_logs() as events:
        exposure.check(Settings(host=host))
    assert events == []


@pytest.mark.parametrize("host", OPEN)
def test_others_need_credentials(host: str) -> None:
    with pytest.raises(StartupError, match=r"--tokens.*--tls-client-ca.*--insecure"):
        exposure.check(Settings(host=host, tls_certificate="a.pem", tls_key="a.key"))


@pytest.mark.parametrize("how", [{"tokens": "t"}, {"tls_client_ca": "ca.pem"}, {"insecure": True}])
@pytest.mark.parametrize("host", OPEN)
def test_each_way_is_enough(host: str, how: dict[str, object]) -> None:
    exposure.check(Settings(host=host, **how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"insecure": True}, "nobody is asked who they are"),
        ({"tokens": "t"}, "tokens and images are not encrypted"),
    ],
)
def test_what_others_can_do_is_logged(how: dict[str, object], reason: str) -> None:
    with capture_logs() as events:
        exposure.check(Settings(host="0.0.0.0", **how))  # type: ignore[arg-type]
    (event,) = events
    assert (event["event"], reason in event["reason"]) == ("others_reach_it", True)
