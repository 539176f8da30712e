#!/usr/bin/env python3
"""Writes the Grafana dashboards: a row of panels here is a few lines instead of a few hundred.

Usage: make_dashboards.py [FOLDER]    FOLDER is dashboards/; a test checks that it has what this writes.
"""

import json
import sys
from pathlib import Path

import batch_jobs
import engine
import model
import overview

_FOLDER = Path(__file__).parent / "dashboards"


def write(folder: Path) -> None:
    """Writes each into a file that is called as Grafana knows it."""
    for made in (overview, model, engine, batch_jobs):
        dashboard = made.dashboard()
        (folder / f"{dashboard['uid']}.json").write_text(json.dumps(dashboard, indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else _FOLDER)
