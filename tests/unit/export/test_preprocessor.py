"""What preprocessor_config.json says, in the forms that its versions and kinds of networks have."""

import math

import pytest

from retinue_export.adoption import preprocessor
from retinue_export.adoption.preprocessor import Preparation

LEVELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def read(**config: object) -> Preparation:
    return preprocessor.read({**LEVELS, "do_normalize": True, **config}, 3)


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        ({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, ("224x224", "stretch", None)),
        ({"size": {"height": 512, "width": 640}}, ("512x640", "stretch", None)),
        (
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
            },
            ("224x224", "shorter_side_center_crop", 256),
        ),
        (
            {"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True},
            ("224x224", "shorter_side_center_crop", 256),
        ),
        (
            {
                "size": 256,
                "crop_size": 224,
                "do_center_crop": True,
                "image_processor_type": "MobileNetV2ImageProcessor",
            },
            ("224x224", "shorter_side_center_crop", 256),
        ),
        (
            {"size": {"height": 224, "width": 224}, "crop_size": 224, "do_center_crop": True},
            ("224x224", "stretch", None),
        ),
        (
            {"size": {"height": 224, "width": 224}, "crop_size": 112, "do_center_crop": False},
            ("224x224", "stretch", None),
        ),
        # ConvNeXt: cropped below 384, and not from there on.
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, ("224x224", "shorter_side_center_crop", 256)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 1.0}, ("384x384", "stretch", None)),
        # PoolFormer
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.9, "crop_size": 224, "do_center_crop": True},
            ("224x224", "shorter_side_center_crop", 248),
        ),
        # MobileViT's old files mean the shorter side too.
        (
            {
                "size": 288,
                "crop_size": 256,
                "do_center_crop": True,
                "feature_extractor_type": "MobileViTFeatureExtractor",
            },
            ("256x256", "shorter_side_center_crop", 288),
        ),
        # LeViT enlarges by 256/224 and does not say so.
        (
            {
                "size": {"shortest_edge": 224},
                "crop_size": 224,
                "do_center_crop": True,
                "image_processor_type": "LevitImageProcessor",
            },
            ("224x224", "shorter_side_center_crop", 256),
        ),
    ],
)
def test_geometry(config: dict[str, object], facts: tuple[str, str, int | None]) -> None:
    said = read(**config)
    assert (said.facts["size"], said.facts["resize"], said.facts.get("shorter_side")) == facts
    assert not said.notes


@pytest.mark.parametrize(
    ("config", "size", "note"),
    [
        # DETR: images of many sizes
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, None, "images have many sizes"),
        # DeiT: stretched, then cropped
        (
            {
                "size": 256,
                "crop_size": 224,
                "do_center_crop": True,
                "feature_extractor_type": "DeiTFeatureExtractor",
            },
            "224x224",
            "no manifest can say",
        ),
        (
            {"size": {"shortest_edge": 200}, "crop_size": 224, "do_center_crop": True},
            "224x224",
            "it crops 224x224",
        ),
        ({"do_resize": False, "size": 224}, None, "does not resize"),
    ],
)
def test_geometry_that_no_manifest_can_say_must_be_told(
    config: dict[str, object], size: str | None, note: str
) -> None:
    said = read(**config)
    assert said.facts.get("size") == size
    assert said.facts.get("resize") is None
    assert note in said.notes[0]


@pytest.mark.parametrize(("resample", "filter_name"), [(0, "nearest"), (2, "bilinear"), (3, "bicubic")])
def test_filters_have_pillows_numbers(resample: int, filter_name: str) -> None:
    assert read(size=224, resample=resample).facts["interpolation"] == filter_name


def test_a_filter_that_no_manifest_can_say_must_be_told() -> None:
    said = read(size=224, resample=1)
    assert said.facts["interpolation"] is None
    assert "resample 1" in said.notes[0]


@pytest.mark.parametrize(
    ("config", "mean", "std"),
    [
        ({}, "0.5,0.5,0.5", "0.5,0.5,0.5"),
        ({"do_rescale": True, "rescale_factor": 0.00392156862745098}, "0.5,0.5,0.5", "0.5,0.5,0.5"),
        # Levels from 0 to 255 less 127.5, divided by 51.
        (
            {"do_rescale": False, "image_mean": [127.5, 127.5, 127.5], "image_std": [51, 51, 51]},
            "0.5,0.5,0.5",
            "0.2,0.2,0.2",
        ),
        # Levels from 0 to 2.
        (
            {"rescale_factor": 2 / 255, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
            "0.5,0.5,0.5",
            "0.5,0.5,0.5",
        ),
        ({"do_normalize": False}, "0.0,0.0,0.0", "1.0,1.0,1.0"),
    ],
)
def test_levels_are_brought_to_the_range_from_0_to_1(config: dict[str, object], mean: str, std: str) -> None:
    said = read(size=224, **config)
    assert (said.facts["mean"], said.facts["std"]) == (mean, std)


@pytest.mark.parametrize("key", ["include_top", "rescale_offset"])
def test_levels_that_are_changed_in_another_way_must_be_told(key: str) -> None:
    said = read(size=224, **{key: True})
    assert "mean" not in said.facts
    assert key in said.notes[0]


@pytest.mark.parametrize("told", [{}, {"do_flip_channel_order": True}])
def test_a_mobilevit_takes_blue_first_and_levels_as_they_are(told: dict[str, object]) -> None:
    config = {
        "image_processor_type": "MobileViTImageProcessor",
        "size": {"height": 256, "width": 256},
        **told,
    }
    facts = preprocessor.read(config, 3).facts
    assert facts["bgr"] is True
    assert (facts["mean"], facts["std"]) == ("0.0,0.0,0.0", "1.0,1.0,1.0")


def test_a_mobilevit_may_take_red_first_and_others_do() -> None:
    mobilevit = {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": False}
    assert "bgr" not in read(size=256, **mobilevit).facts
    assert "bgr" not in read(size=256, image_processor_type="ViTImageProcessor").facts


HUGE = 10**400


@pytest.mark.parametrize(
    "config",
    [
        {"size": {"shortest_edge": 224}, "crop_pct": 5e-324},
        {"size": {"shortest_edge": HUGE}, "crop_pct": 0.9},
        {"size": {"shortest_edge": HUGE}, "crop_size": 224, "do_center_crop": True},
        {"size": {"shortest_edge": 224}, "crop_pct": HUGE},
        {"size": HUGE, "feature_extractor_type": "LevitFeatureExtractor"},
        {"size": HUGE},
    ],
)
def test_a_geometry_of_absurd_numbers_must_be_told(config: dict[str, object]) -> None:
    assert "resize" not in {name for name, value in read(**config).facts.items() if value is not None}


@pytest.mark.parametrize(
    "config",
    [
        {"image_mean": [HUGE, 0, 0]},
        {"image_std": HUGE},
        {"image_mean": [math.nan, 0, 0]},
        {"image_std": [math.inf, 1, 1]},
    ],
)
def test_levels_of_absurd_numbers_must_be_told(config: dict[str, object]) -> None:
    assert "mean" not in read(size=224, **config).facts


def test_an_absurd_factor_counts_for_none() -> None:
    assert read(size=224, rescale_factor=HUGE).facts["mean"] == "0.5,0.5,0.5"


def test_levels_of_which_nothing_is_said_must_be_told() -> None:
    assert "mean" not in preprocessor.read({"size": 224}, 3).facts
