"""A mirror of models in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import colour_bundles
from tests.unit.server.mirror.elsewhere import Clock, Elsewhere

from retinue_server.bundle import mirror as mirrors
from retinue_server.bundle.mirror import Mirror


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    monkeypatch.setattr(mirrors, "_LOOK_SECONDS", 0)
    store = Elsewhere()
    yield store
    store.filesystem.store.clear()
    store.filesystem.pseudo_dirs[:] = [""]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mirror(elsewhere: Elsewhere, tmp_path: Path, clock: Clock) -> Mirror:
    return Mirror(elsewhere, tmp_path / "mirror", clock=clock)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return colour_bundles.classifier(tmp_path / "made", "a")
