"""`retinue-export features`."""

import io
from pathlib import Path
from typing import Annotated

import typer

from retinue_export import feature_grid, feature_maps, image_folders, inputs
from retinue_export.cli.options import BundleFolder, require_writable, version_folder, write_file
from retinue_export.cli.show import console, plain
from retinue_export.errors import ExportError
from retinue_export.inspection.facts import read_model
from retinue_export.quantities import printable
from retinue_server.bundle import manifest as manifest_file

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
"""Pillow's names of them, by how a file's name ends."""


def features(
    folder: BundleFolder,
    list_layers: Annotated[bool, typer.Option("--list", help="List the layers that can be drawn.")] = False,
    layer: Annotated[str, typer.Option(help="The layer to draw, by its name in the list.")] = "",
    image: Annotated[Path | None, typer.Option(help="The image to show to the network.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Where to write the picture.")] = None,
    channels: Annotated[
        int, typer.Option(min=0, help="Draw so many channels, the first ones; 0 means all.")
    ] = 64,
) -> None:
    """Draw what a layer of a bundle's network makes of an image."""
    folder = version_folder(folder)
    manifest = manifest_file.read(folder)
    manifest_file.check_hash(folder, manifest)
    model = read_model(folder / manifest_file.MODEL_FILE)
    if list_layers:
        _list(feature_maps.layers(model))
        return
    if not layer or image is None or out is None:
        raise ExportError("Give --layer, --image and --out; --list shows the layers.")
    _require_picture(out)
    chosen = feature_maps.find(model, layer)
    pixels, _ = inputs.prepare_one(image_folders.opened(image), manifest_file.input_spec(manifest))
    maps = feature_maps.compute(model, chosen, pixels)[: channels or None]
    picture = io.BytesIO()
    feature_grid.draw(chosen, maps, pixels).save(picture, _FORMATS[out.suffix.lower()])
    write_file(out, picture.getvalue())
    console.print(f"[bold]{plain(out)}[/]  {len(maps)} of {chosen.shape[0]} channels", soft_wrap=True)


def _list(layers: list[feature_maps.Layer]) -> None:
    rows = [("layer", "operator", "channels x rows x columns", "tensor")]
    rows += [
        (printable(layer.name), layer.operator, " x ".join(map(str, layer.shape)), printable(layer.tensor))
        for layer in layers
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # No table of rich's, which cuts names short where they do not fit: they are there to be copied.
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        console.print(line, markup=False, soft_wrap=True)


def _require_picture(out: Path) -> None:
    if out.suffix.lower() not in _FORMATS:
        raise ExportError(f"{out} does not name a picture: end it in {', '.join(_FORMATS)}.")
    require_writable(out)
