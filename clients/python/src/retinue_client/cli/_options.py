"""Options that several commands have, and what they mean together."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from retinue_client import AsyncClient, ClassifyWith, Client, Priority, Tls
from retinue_client._address import ADDRESS_VARIABLE, DEFAULT_ADDRESS, resolve_address
from retinue_client._channel import DEFAULT_TIMEOUT_SECONDS
from retinue_client._security import CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE, PUBLIC
from retinue_client.cli._exit import fail


def parse_version(text: str) -> int | str:
    """Reads a version's number or label.

    Raises:
        typer.BadParameter: It is neither.
    """
    if text[:1].isalpha():
        return text
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is no version: give a number from 1, or a label.")
    return int(text)


Images = Annotated[
    list[str], typer.Argument(metavar="IMAGE", help="Image files; - reads one from standard input.")
]
Server = Annotated[
    str,
    typer.Option("--server", metavar="HOST:PORT", envvar=ADDRESS_VARIABLE, help="Where the server is."),
]
TlsCa = Annotated[
    str | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        envvar=CA_VARIABLE,
        help="Speak TLS, with a server whose certificate one of these authorities has signed (PEM); `public` for those "
        "that everybody trusts.",
    ),
]
TlsCertificate = Annotated[
    str | None,
    typer.Option(
        "--tls-certificate",
        metavar="FILE",
        envvar=CERTIFICATE_VARIABLE,
        help="Your own certificate (PEM), for a server that wants one.",
    ),
]
TlsKey = Annotated[
    str | None, typer.Option("--tls-key", metavar="FILE", envvar=KEY_VARIABLE, help="Its private key (PEM).")
]
TokenFile = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="What holds your token; or put that into RETINUE_TOKEN. On a command line others would see it.",
    ),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Which model; not needed where the server has one for the task."),
]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
ModelVersion = Annotated[
    Any,
    typer.Option(
        "--model-version",
        metavar="VERSION",
        parser=parse_version,
        help="Which version of it, by number or by label; what the server says by default.",
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long a request may take.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of tables.")]
Draw = Annotated[
    str | None,
    typer.Option(
        "--draw", metavar="OUT.png", help="Paint the result over the image; for several images, a folder."
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="NAME", help="Only this class; may be given several times."),
]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="How many classes to return; 5 by default.")]
Heatmap = Annotated[
    str | None,
    typer.Option(
        "--heatmap",
        metavar="OUT.png",
        help="Paint over the image where the most probable class is seen; for several images, a folder.",
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option("--min-score", min=0, max=1, help="Leave out classes of a lower probability, in [0, 1]."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0,
        max=1,
        help="Leave out detections of a lower score, in [0, 1]; the model's own threshold by default.",
    ),
]
MaxDetections = Annotated[
    int | None,
    typer.Option("--max-detections", min=1, help="The most detections of an image; all by default."),
]
IouThreshold = Annotated[
    float | None,
    typer.Option(
        "--iou",
        min=0,
        max=1,
        help="Boxes of one class that overlap more than this are one object, in [0, 1]; the model's own by default.",
    ),
]
PriorityOption = Annotated[
    Priority,
    typer.Option("--priority", help="Before all others' images, among them, or when nothing else waits."),
]
ClassifyWithModel = Annotated[
    str | None,
    typer.Option(
        "--classify-with",
        metavar="MODEL",
        help="Ask this classifier, too, what each detection shows; a pipeline has its own.",
    ),
]
Context = Annotated[
    float | None,
    typer.Option(
        "--context",
        min=0,
        max=1,
        help="Show the classifier so much of what surrounds a box, as a share of its width and height; 0 by default.",
    ),
]
Masks = Annotated[
    bool,
    typer.Option("--masks", help="Also say which pixels show each object, seen with --json or --draw only."),
]
Regions = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="X1,Y1,X2,Y2",
        help="Where to look, in pixels, for models that judge given regions; may be given several times.",
    ),
]

DEFAULT_SERVER = DEFAULT_ADDRESS
DEFAULT_TIMEOUT = DEFAULT_TIMEOUT_SECONDS
LOAD_TIMEOUT_SECONDS = 600.0
"""To load a model may take minutes: it is optimised and measured first."""


class TaskName(StrEnum):
    """The questions, where a command has them as an option."""

    CLASSIFY = "classify"
    DETECT = "detect"
    SEGMENT = "segment"


def classify_with(
    model: str | None, *, top_k: int | None, min_score: float | None, context: float | None
) -> ClassifyWith | None:
    """The classifier that a command line names, or means without a name, and what it is asked."""
    if all(asked is None for asked in (model, top_k, min_score, context)):
        return None
    return ClassifyWith(model or "", top_k=top_k, min_score=min_score, context=context or 0.0)


def parse_region(text: str) -> tuple[float, ...]:
    """Reads "X1,Y1,X2,Y2".

    Raises:
        typer.BadParameter: It is something else.
    """
    try:
        x_min, y_min, x_max, y_max = map(float, text.split(","))
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is no region: write X1,Y1,X2,Y2, as 10,20,110,220.") from exc
    return x_min, y_min, x_max, y_max


def options_of_task(task: TaskName, flags: dict[str, tuple[str, set[TaskName], object]]) -> dict[str, object]:
    """The question's options.

    Args:
        task: The question.
        flags: For each flag, the option's name, the questions that have it, and what was given.

    Raises:
        typer.Exit: A flag was given that belongs to another question.
    """
    options: dict[str, object] = {}
    for flag, (name, tasks, value) in flags.items():
        if value is None:
            continue
        if task not in tasks:
            fail(f"{flag} belongs to --task {' or '.join(sorted(tasks))}, not to {task}.")
        options[name] = value
    return options


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the options before the command say of TLS and of who calls, as `Client` takes it."""

    tls: Tls | None = None
    token: str | None = None


_NOTHING = Credentials()
# All commands have these options, and none of them has anything to do with them.
_GIVEN: ContextVar[Credentials] = ContextVar("given", default=_NOTHING)


def note_credentials(
    ca: str | None, certificate: str | None, key: str | None, token_file: str | None
) -> None:
    """Notes what the options name, for `connect`.

    Raises:
        typer.Exit: The file of the token cannot be read.
    """
    tls = None
    if ca is not None or certificate is not None or key is not None:
        tls = Tls(None if ca == PUBLIC else ca, certificate, key)
    token = None
    try:
        if token_file is not None:
            token = Path(token_file).read_text(encoding="ascii").strip()
    except OSError as exc:
        fail(f"--token-file: {token_file!r} cannot be read: {exc.strerror}.")
    except UnicodeDecodeError:
        fail(f"--token-file: {token_file!r} has no token.")
    _GIVEN.set(Credentials(tls, token))


def connect(server: str, timeout_seconds: float) -> Client:
    """A client of the server that the command line names, with what it says before the command.

    Raises:
        typer.Exit: The address makes no sense, or what was said does not do for it.
    """
    given, address = _GIVEN.get(), _address(server)
    try:
        return Client(address, timeout_seconds=timeout_seconds, tls=given.tls, token=given.token)
    except ValueError as exc:
        fail(str(exc))


def connect_async(server: str, timeout_seconds: float) -> AsyncClient:
    """The same for asyncio.

    Raises:
        typer.Exit: As above.
    """
    given, address = _GIVEN.get(), _address(server)
    try:
        return AsyncClient(address, timeout_seconds=timeout_seconds, tls=given.tls, token=given.token)
    except ValueError as exc:
        fail(str(exc))


def _address(server: str) -> str:
    try:
        return resolve_address(server)
    except ValueError as exc:
        fail(f"--server: {exc}")
