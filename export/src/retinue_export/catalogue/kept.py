"""Proofs kept in a file, so that a run of an hour that was interrupted goes on where it was."""

import json
from dataclasses import fields
from pathlib import Path

from retinue_export.catalogue.proof import Proof
from retinue_export.catalogue.rows import Row
from retinue_export.errors import ExportError

_MEASURED = tuple(field.name for field in fields(Proof) if field.name != "row")
_Key = tuple[str, str, int]


class KeptProofs:
    """Proofs in a file of one JSON object a line.

    Args:
        path: the file, which need not exist yet; None keeps nothing.

    Raises:
        ExportError: it cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._measured: dict[_Key, dict[str, float]] = {}
        if path is None or not path.exists():
            return
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                key = (entry["source"], entry["name"], entry["side"])
                self._measured[key] = {name: entry[name] for name in _MEASURED}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExportError(
                f"{path} holds no proofs of the catalogue: remove it, or name another."
            ) from error

    def find(self, row: Row) -> Proof | None:
        """The proof of a row, if it is kept."""
        measured = self._measured.get(_key(row))
        return None if measured is None else Proof(row=row, **measured)  # type: ignore[arg-type]

    def add(self, proof: Proof) -> None:
        """Keeps one more."""
        if self._path is None:
            return
        source, name, side = _key(proof.row)
        measured = {field: getattr(proof, field) for field in _MEASURED}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"source": source, "name": name, "side": side, **measured}) + "\n")


def _key(row: Row) -> _Key:
    return row.source, row.name, row.side
