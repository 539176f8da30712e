"""`retinue-export sign`."""

from pathlib import Path
from typing import Annotated

import typer

from retinue_export import signing
from retinue_export.cli.options import version_folder, write_file
from retinue_export.cli.show import console, plain
from retinue_server.bundle.signature import SIGNATURE_FILE


def sign(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...",
            help="Version folders; of a model's folder, its newest version.",
            show_default=False,
        ),
    ],
    key: Annotated[
        Path,
        typer.Option(
            metavar="KEY.pem",
            help="The private key: `openssl genpkey -algorithm ed25519 -out KEY.pem` makes one.",
            show_default=False,
        ),
    ],
) -> None:
    """Sign bundles as they lie, for servers with --require-signature: a file manifest.sig comes into each."""
    private = signing.read_key(key, lambda: typer.prompt(f"Password of {key}", hide_input=True, err=True))
    bundles = [signing.placed(version_folder(folder)) for folder in folders]
    signed = [(bundle, signing.sign(bundle, private)) for bundle in bundles]
    # All of them hold: so all are signed, or none is.
    for bundle, signature in signed:
        write_file(bundle.path / SIGNATURE_FILE, signature)
        console.print(
            f"signed [bold]{plain(bundle.name)}/{bundle.version}[/]  {plain(bundle.path)}", soft_wrap=True
        )
