"""The command line: each command is a module of its name."""

import signal
import sys
from types import FrameType

import typer
from rich.console import Console

from retinue_export.cli.adopt import adopt
from retinue_export.cli.catalogue import catalogue
from retinue_export.cli.diff import diff
from retinue_export.cli.features import features
from retinue_export.cli.inspect import inspect
from retinue_export.cli.module import module
from retinue_export.cli.show import plain
from retinue_export.cli.sign import sign
from retinue_export.cli.timm import timm
from retinue_export.cli.torchvision import torchvision
from retinue_export.cli.train import train
from retinue_export.cli.verify import verify
from retinue_export.errors import ExportError
from retinue_server.errors import RetinueError

app = typer.Typer(
    help="Trains vision models in PyTorch and turns them into ONNX bundles that prove that they compute the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (train, torchvision, timm, module, adopt, verify, sign, inspect, diff, features, catalogue):
    app.command()(command)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one sentence and exit code 2, a failed comparison with 1."""
    signal.signal(signal.SIGTERM, _end)
    try:
        app(arguments)
    except ExportError as error:
        _fail(str(error), error.exit_code)
    except RetinueError as error:
        _fail(error.message, ExportError.exit_code)
    except OSError as error:
        if not error.filename or not error.strerror:
            raise
        _fail(f"{error.filename} cannot be used: {error.strerror}.", ExportError.exit_code)


def _end(number: int, _frame: FrameType | None) -> None:
    """Ends the command as an interruption does, so that nothing half-written stays behind."""
    sys.exit(128 + number)


def _fail(message: str, exit_code: int) -> None:
    errors = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
    errors.print(f"[bold red]error:[/] {plain(' '.join(message.splitlines()))}")
    sys.exit(exit_code)
