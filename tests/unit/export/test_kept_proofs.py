"""Proofs of the catalogue survive an interruption."""

from pathlib import Path

import pytest
from rich.console import Console

from retinue_export.catalogue import report, rows
from retinue_export.catalogue.kept import KeptProofs
from retinue_export.catalogue.proof import Proof
from retinue_export.errors import ExportError

LENET, ZFNET = rows.matching(["lenet_5", "zfnet"])


def proof(row: rows.Row) -> Proof:
    return Proof(row, parameters=60_000, spread=0.5, difference=1e-6, file_bytes=120_000, export_seconds=0.7)


def test_what_was_proved_is_not_proved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "proofs.jsonl"
    proved: list[str] = []

    def prove(row: rows.Row) -> Proof:
        proved.append(row.name)
        if row is ZFNET and len(proved) == 2:
            raise KeyboardInterrupt
        return proof(row)

    monkeypatch.setattr(report, "prove", prove)
    quiet = Console(quiet=True)
    with pytest.raises(KeyboardInterrupt):
        report.prove_all(quiet, [LENET, ZFNET], KeptProofs(path))
    assert report.prove_all(quiet, [LENET, ZFNET], KeptProofs(path)).proofs == [proof(LENET), proof(ZFNET)]
    assert proved == ["lenet_5", "zfnet", "zfnet"]


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"name": "lenet_5"}', "\udcff"])
def test_another_file_is_refused_and_stays(content: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ExportError, match="holds no proofs"):
        KeptProofs(path)
    assert path.exists()
