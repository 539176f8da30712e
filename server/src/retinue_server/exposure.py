"""Who can reach the ports, and whether something says who may ask."""

from ipaddress import ip_address

import structlog

from retinue_server.errors import StartupError
from retinue_server.settings import Settings

_log = structlog.get_logger(__name__)


def is_reached_by_others(host: str) -> bool:
    """Whether an address to listen on is not this machine's own only; a name may be anything but `localhost`."""
    try:
        return host != "localhost" and not ip_address(host).is_loopback
    except ValueError:
        return True


def check(settings: Settings) -> None:
    """Refuses to be reached by others where nothing says who may ask, and nobody has said that this is meant.

    Raises:
        StartupError: So it is.
    """
    if not is_reached_by_others(settings.host):
        return
    if not (settings.tokens or settings.tls_client_ca or settings.insecure):
        raise StartupError(
            f"--host {settings.host} lets others reach this server, and nothing says who may ask: give --tokens, or "
            "--tls-client-ca with --tls-certificate and --tls-key; or --insecure where others keep strangers out."
        )
    if told := in_the_clear(settings):
        _log.warning("others_reach_it", host=settings.host, reason=told)


def own_names(settings: Settings) -> frozenset[str] | None:
    """The names, besides addresses and localhost, by which the HTTP port may be called; None for any."""
    if settings.http_names:
        return frozenset(settings.http_names.lower().split(","))
    if settings.tokens or settings.tls_client_ca or settings.insecure or is_reached_by_others(settings.host):
        return None
    return frozenset()


def in_the_clear(settings: Settings) -> str:
    """What others can read or do where they reach the ports; empty where that is nothing."""
    if settings.tls_client_ca:
        return ""
    if settings.tokens:
        return (
            "" if settings.tls_certificate else "tokens and images are not encrypted: give --tls-certificate"
        )
    return "nobody is asked who they are: give --tokens or --tls-client-ca"
