"""Pipelines for tests: folders with a manifest only."""

import json
from pathlib import Path
from typing import Any


def declare(
    models: Path, name: str, task: str, /, *steps: str | dict[str, Any], version: int = 1, **fields: Any
) -> Path:
    """Writes a version of a pipeline; returns its folder.

    Args:
        models: the folder of all models.
        name: the pipeline's.
        task: likewise.
        steps: each a model's name, or all that a step may say.
        version: its number.
        fields: of the manifest, besides or instead.
    """
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    told = [{"model": step} if isinstance(step, str) else step for step in steps]
    manifest = {"format_version": 1, "name": name, "task": task, "pipeline": {"steps": told}, **fields}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
