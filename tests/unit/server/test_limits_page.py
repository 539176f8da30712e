"""docs/limits.md says of every limit what the settings and the errors say."""

import re
from pathlib import Path

import pytest

from retinue_server.errors import Code
from retinue_server.settings import MIB, Settings

_ROOT = Path(__file__).parents[3]
_PAGE = (_ROOT / "docs" / "limits.md").read_text()
_SOURCES = "".join(path.read_text() for path in (_ROOT / "server" / "src").rglob("*.py"))
_ROWS = {
    match[1].replace("-", "_"): [cell.strip() for cell in match[2].split("|")]
    for match in re.finditer(r"^\| `--([a-z-]+)` \|(.*)\|$", _PAGE, re.MULTILINE)
}
# Limits that are not called so.
_OTHERS = {
    "memory_limit",
    "tensor_memory_limit",
    "batch_timeout_seconds",
    "arrival_timeout_seconds",
    "keepalive_seconds",
    "keepalive_timeout_seconds",
    "min_ping_seconds",
}
_UNITS = {"MiB": MIB, "GiB": 1024 * MIB, "KiB": 1024, "hour": 3600, "minute": 60, "second": 1}
# Zero there, and what the page says in words.
_COMPUTED = {"memory_limit", "tensor_memory_limit", "max_streams_per_connection"}


def test_every_limit_is_there_and_nothing_that_is_none() -> None:
    limits = {name for name in Settings.model_fields if name.startswith("max_")} | _OTHERS
    assert set(_ROWS) == limits


@pytest.mark.parametrize("name", sorted(_ROWS.keys() - _COMPUTED))
def test_the_default_is_the_settings(name: str) -> None:
    number, _, unit = _ROWS[name][0].partition(" ")
    factor = _UNITS[unit.removesuffix("s")] if unit else 1
    assert int(number.replace(",", "")) * factor == Settings.model_fields[name].default


@pytest.mark.parametrize("name", sorted(_COMPUTED))
def test_what_is_computed_is_zero_in_the_settings(name: str) -> None:
    assert not re.match(r"\d", _ROWS[name][0])
    assert Settings.model_fields[name].default == 0


def test_every_code_and_reason_is_one_that_callers_get() -> None:
    told = {word for row in _ROWS.values() for word in re.findall(r"`([A-Z][A-Z_]+)`", " ".join(row))}
    codes = {code.name for code in Code}
    assert {"RESOURCE_EXHAUSTED", "QUEUE_FULL", "TOO_MANY_BYTES_IN_FLIGHT", "BODY_TOO_SLOW"} <= told
    # The last one is HTTP/2's.
    for word in told - codes - {"REFUSED_STREAM"}:
        assert f'"{word}"' in _SOURCES, word
