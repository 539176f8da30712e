"""The measured tables in the READMEs: each stands between two comments that name its scenario.

`<!-- measured: NAME -->` has the table, `<!-- machine: NAME -->` where and when it was measured, both up to the next
`<!-- end -->`. Where there is no result yet, nothing stands between.
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import machine, scenarios
from benchmarks.machine import ROOT

PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
_RESULTS = ROOT / "benchmarks" / "results"
_BLOCK = re.compile(r"(<!-- (measured|machine): (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def result_file(name: str) -> Path:
    """Where a scenario's result is kept."""
    return _RESULTS / f"{name}.json"


def filled(page: str) -> str:
    """A page with the results that there are now."""

    def block(found: re.Match[str]) -> str:
        return found[1] + _content(found[2], found[3]) + found[5]

    return _BLOCK.sub(block, page)


def blocks(page: str) -> list[tuple[str, str]]:
    """The kind and the scenario of each block of a page."""
    return [(found[2], found[3]) for found in _BLOCK.finditer(page)]


def fill() -> None:
    """Brings all pages up to date."""
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


def _content(kind: str, name: str) -> str:
    path = result_file(name)
    if not path.exists():
        return ""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if kind == "machine":
        return f"{machine.sentence(result)}\n"
    table: str = scenarios.load(name).table(result)
    return f"{table}\n"
