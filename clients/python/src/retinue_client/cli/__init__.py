"""The command `retinue`. It needs the extra `retinue-client[cli]`; nothing in the library imports it."""

import sys


def main() -> None:
    """Runs the command line; without its extra it says how to install it."""
    try:
        from retinue_client.cli._app import app  # noqa: PLC0415 (what it needs may not be installed)
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in {"typer", "rich", "pyarrow", "click"}:
            raise
        print(
            f"retinue: the module {missing!r} is missing. Install the command line with: "
            "pip install 'retinue-client[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from exc
    app()
