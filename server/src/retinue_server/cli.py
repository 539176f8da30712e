"""The command `retinue-server`."""

import gc
import os
import sys

from retinue_server.errors import StartupError
from retinue_server.settings import Settings

_STARTUP_EXIT_CODE = 2
_UNSOUND_EXIT_CODE = 1
_DOCTOR = "doctor"
_TOKEN = "token"


def main() -> None:
    """Runs the server; exits with 0 after a drained stop, with 2 and one sentence where it cannot start.

    `retinue-server doctor`, with the same flags, only says what it would find, and `retinue-server token NAME` makes a
    token.
    """
    arguments = sys.argv[1:]
    examining = arguments[:1] == [_DOCTOR]
    try:
        if arguments[:1] == [_TOKEN]:
            _make_token(arguments[1:])
            return
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


def _make_token(arguments: list[str]) -> None:
    """Prints what a file for --tokens needs of a new token, and the token itself beside it, once."""
    from argparse import ArgumentParser

    from retinue_server.tokens import Scope, entry, new_token

    parser = ArgumentParser(
        "retinue-server token",
        description="Makes a token: prints what the file of --tokens needs of it, to be appended there (TOML), and on "
        "stderr the token, which is kept nowhere.",
    )
    parser.add_argument("name", metavar="NAME", help="whose it is")
    parser.add_argument(
        "scopes", metavar="SCOPE", nargs="*", help=f"what it is for: {', '.join(Scope)}; infer unless given"
    )
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.scopes) - set(Scope))
    if unknown:
        raise StartupError(f"there is no scope '{unknown[0]}'; there are {', '.join(Scope)}.")
    secret = new_token()
    print(entry(given.name, secret, [Scope(scope) for scope in given.scopes or ["infer"]]), flush=True)
    print(secret, file=sys.stderr)


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
        log.say(banner(ready))

    log.configure(settings.log_level, settings.log_format)
    if settings.model_control != "none":
        # Models may go again, and the collector must find what of them refers only to itself.
        keep()
    try:
        uvloop.run(serve(settings, announce))
    finally:
        # Before it is printed what it ends with.
        log.flush()
