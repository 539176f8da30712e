"""The pages that `retinue-export inspect` and `diff` write, in a browser."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import chromium, colour_bundles, pictures

from retinue_export import cli

HOSTILE = "<script>document.title = 'taken over'</script>"
LIGHT, DARK = (246, 247, 249), (20, 22, 27)


def export(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 0


def shown(page: Path, folder: Path, *, dark: bool = False) -> np.ndarray:
    picture = folder / "shown.png"
    chromium.screenshot(page.as_uri(), folder / "profile", picture, width=900, height=1400, dark=dark)
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


def share_of(colour: tuple[int, int, int], pixels: np.ndarray) -> float:
    """The share of the pixels within a few levels of a colour."""
    return float((np.abs(pixels - np.array(colour)).max(axis=2) <= 6).mean())


@pytest.mark.slow
def test_the_page_of_a_bundle_follows_the_readers_colours_and_runs_no_label(tmp_path: Path) -> None:
    bundle = colour_bundles.classifier(tmp_path)
    colour_bundles.rewrite_manifest(bundle, labels=[HOSTILE, "green", "blue"])
    page = tmp_path / "bundle.html"
    export("inspect", str(bundle), "--html", str(page))
    dom = chromium.dom(page.as_uri(), tmp_path / "profile")
    assert "<title>colour-classifier</title>" in dom
    assert "&lt;script&gt;document.title" in dom
    light, dark = shown(page, tmp_path), shown(page, tmp_path, dark=True)
    assert share_of(LIGHT, light) > 0.2
    assert share_of(DARK, dark) > 0.2


@pytest.mark.slow
def test_the_page_of_a_comparison_shows_the_pictures_and_runs_no_label(tmp_path: Path) -> None:
    plain, other = colour_bundles.classifier(tmp_path), colour_bundles.classifier(tmp_path, "other")
    colour_bundles.rewrite_manifest(plain, labels=[HOSTILE, "green", "blue"])
    colour_bundles.rewrite_manifest(other, labels=["green", HOSTILE, "blue"])
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / f"{HOSTILE.replace('/', '_')}.png").write_bytes(pictures.png((250, 80, 160), 120, 90))
    page = tmp_path / "comparison.html"
    export("diff", str(plain), str(other), "--images", str(folder), "--html", str(page))
    dom = chromium.dom(page.as_uri(), tmp_path / "profile")
    assert "<title>colour-classifier and other compared</title>" in dom
    assert share_of((250, 80, 160), shown(page, tmp_path)) > 0.01
