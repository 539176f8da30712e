"""`retinue-export verify`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from retinue.v1 import manifest_pb2 as pb

from retinue_export import allowances, bundle, parity, precision, reference, signing
from retinue_export.adoption import adopted as adopted_bundle
from retinue_export.cli.options import BundleFolder, version_folder
from retinue_export.cli.show import console, plain, print_differences
from retinue_export.inspection import manifest_text
from retinue_server.bundle import manifest as manifest_file


def verify(
    folder: BundleFolder,
    weights: Annotated[
        Path | None,
        typer.Option(help="The weights file it was exported from; without it the bundle's own are used."),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION", help="For a network of your own: what builds it, as for `module`."
        ),
    ] = None,
    adopted: Annotated[
        Path | None,
        typer.Option(metavar="FILE.onnx", help="For a bundle that adopt made: the file it was made of."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="KEY.pem", help="Public keys, one of which must have signed the bundle."),
    ] = None,
) -> None:
    """Check a bundle's hash and manifest, compare it with PyTorch again, and print the certificate."""
    folder = version_folder(folder)
    if key is not None:
        keys = signing.read_public_keys(key)
        replace(signing.placed(folder), keys=lambda: keys).read()
    manifest = manifest_file.read(folder)
    manifest_file.check_hash(folder, manifest)
    other_side = bundle.other_side(manifest)
    recorded = allowances.at_export(manifest)
    converted = precision.is_converted(manifest)
    with console.status(f"comparing with {other_side}"):
        if adopted is not None:
            expected = adopted_bundle.reference(folder, manifest, adopted)
        else:
            expected = reference.load(folder, manifest, weights, module)
        _print_certificate(folder, manifest, expected.weights_from, key)  # comparing may take minutes
        content = (folder / manifest_file.MODEL_FILE).read_bytes()
        measured = expected.compare(
            expected.run,
            precision.runner(content, precision.compared_as(manifest), expected.feeds),
            expected.images,
            expected.batch_sizes,
            expected.tolerances,
        )
    if converted:
        for entry in measured:
            entry.tolerance = recorded[entry.output].tolerance if entry.output in recorded else 0
    print_differences(manifest, measured, len(expected.images), expected.batch_sizes, list(recorded.values()))
    parity.check(measured, other_side)
    if converted:
        allowances.check_means(measured, recorded)


def _print_certificate(folder: Path, manifest: pb.ModelManifest, weights_from: str, key: Path | None) -> None:
    certificate = manifest.parity
    console.print(f"[bold]{plain(folder)}[/]  sha256 {plain(manifest.sha256[:16])}... as the manifest says")
    if key is not None:
        console.print(f"  signed     by a key of {plain(key)}", soft_wrap=True)
    console.print(f"  computes   in {manifest_text.precision(manifest.precision)}")
    console.print(f"  reference  {plain(certificate.reference)}", soft_wrap=True)
    console.print(f"  weights    {plain(weights_from)}", soft_wrap=True)
    console.print(f"  inputs     {plain(certificate.inputs)}", soft_wrap=True)
    engines = precision.engines(precision.compared_as(manifest))
    console.print(f"  engines    {engines}; at export {plain(certificate.engines)}", soft_wrap=True)
