"""What is drawn from timm: the same for a seed, not too large, each on an input it runs on."""

import pytest

from retinue_export import timm_models
from retinue_export.catalogue import timm_sample
from retinue_export.errors import ExportError

SMALL = ["test_byobnet", "test_convnext", "test_efficientnet", "test_resnet", "test_vit", "test_vit2"]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timm that can be drawn from in a moment."""
    monkeypatch.setattr(timm_models, "classifiers", lambda: list(SMALL))


def test_a_seed_always_draws_the_same() -> None:
    first, second, other = ([row.name for row in timm_sample.draw(4, seed)] for seed in (0, 0, 1))
    assert first == second
    assert first != other
    assert len(set(first)) == 4


def test_each_gets_the_smallest_input_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # Made for 160 and any other, for 240 and no other, and for 256 and multiples of its blocks.
    monkeypatch.setattr(
        timm_models, "classifiers", lambda: ["test_resnet", "crossvit_tiny_240", "halonet26t"]
    )
    assert {row.name: row.side for row in timm_sample.draw(3, 0)} == {
        "test_resnet": 128,
        "crossvit_tiny_240": 240,
        "halonet26t": 256,
    }


def test_what_is_too_large_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "classifiers", lambda: ["test_resnet", "resnet18"])
    monkeypatch.setattr(timm_sample, "MOST_PARAMETERS", 1_000_000)
    assert [row.name for row in timm_sample.draw(1, 0)] == ["test_resnet"]
    with pytest.raises(ExportError, match="timm has 1 classifiers of that size, fewer than --timm-sample 2"):
        timm_sample.draw(2, 0)


def test_pre_processing_that_no_bundle_can_have_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "classifiers", lambda: ["dm_nfnet_f0"])
    (row,) = timm_sample.draw(1, 0)
    with pytest.raises(ExportError, match="crop_mode squash"):
        row.build()


def test_feature_extractors_are_no_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    names = timm_models.classifiers()
    assert len(names) > 1000
    assert "resnet18" in names
    assert "vit_small_patch14_dinov2" not in names
