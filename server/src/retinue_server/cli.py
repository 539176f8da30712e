"""The command `retinue-server`."""

import gc
import os
import sys

from retinue_server.errors import StartupError
from retinue_server.settings import Settings

_STARTUP_EXIT_CODE = 2
_UNSOUND_EXIT_CODE = 1
_DOCTOR = "doctor"


def main() -> None:
    """Runs the server; exits with 0 after a drained stop, with 2 and one sentence where it cannot start.

    `retinue-server doctor`, with the same flags, only says what it would find.
    """
    arguments = sys.argv[1:]
    examining = arguments[:1] == [_DOCTOR]
    try:
        settings = Settings.resolve(arguments[1:] if examining else arguments)
        if examining:
            _examine(settings)
            return
        if settings.print_config:
            print(settings.as_toml(), end="")
            return
        _run(settings)
    except StartupError as error:
        print(f"retinue-server: {error.message}", file=sys.stderr)
        raise SystemExit(_STARTUP_EXIT_CODE) from error


def _examine(settings: Settings) -> None:
    """Prints what a server would find with these settings; exits with 1 where that keeps it from working."""
    from retinue_server.doctor import State, examine

    unsound = False
    for finding in examine(settings):
        print(finding, flush=True)
        unsound = unsound or finding.state is State.FAIL
    if unsound:
        raise SystemExit(_UNSOUND_EXIT_CODE)


def _run(settings: Settings) -> None:
    # What goes wrong inside gRPC reaches us as exceptions; its own lines would stand between those of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported late: ONNX Runtime and grpc take most of a second that --help and a mistyped flag need not wait for.
    import uvloop

    from retinue_server import log
    from retinue_server.app import Ready, serve
    from retinue_server.banner import banner

    def keep() -> None:
        # What was loaded lives as long as the process: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()

    def announce(ready: Ready) -> None:
        if settings.model_control == "none":
            keep()
        print(banner(ready), flush=True)

    log.configure(settings.log_level, settings.log_format)
    if settings.model_control != "none":
        # Models may go again, and the collector must find what of them refers only to itself.
        keep()
    uvloop.run(serve(settings, announce))
