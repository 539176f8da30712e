"""The endpoints of the typed API, below /v1: files of images in, JSON out."""

import math
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from retinue.v1 import vision_service_pb2 as pb
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from retinue_server.bundle.serving import LABEL_PATTERN
from retinue_server.errors import Code, InvalidRequestError
from retinue_server.http import multipart
from retinue_server.http.exchange import Exchanges, HttpContext, Reply, status_of, without_delay
from retinue_server.http.messages import fill, plain, to_json
from retinue_server.http.multipart import Part
from retinue_server.rpc.methods import Methods

_IMAGE = "image"
# Of texts, which are options; several of one name are a list.
_MOST_OPTIONS = 1000
_MOST_OPTION_BYTES = 4096

_TIMEOUT = "timeout"

_MODEL = "/v1/models/{model:before_colon}"
_REQUESTS: dict[str, tuple[str, type[Any]]] = {
    "classify": ("Classify", pb.ClassifyRequest),
    "detect": ("Detect", pb.DetectRequest),
    "segment": ("Segment", pb.SegmentRequest),
}

# Of which a path names one.
_VERSIONS = frozenset({"version", "version_label"})

Options = dict[str, list[str]]


class _BeforeColon(Convertor[str]):
    """Of a path what has neither a slash nor a colon, as names of models and versions have none."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        """The text itself."""
        return value

    def to_string(self, value: str) -> str:
        """Likewise."""
        return value


register_url_convertor("before_colon", _BeforeColon())


def routes(exchanges: Exchanges, methods: Methods, max_images: int) -> list[Route]:
    """The endpoints.

    Args:
        exchanges: Answers requests as calls.
        methods: What answers the calls.
        max_images: What one request may have.
    """

    def images(path: str, method: str, kind: type[Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            async def work(body: bytes, context: HttpContext) -> Reply:
                files, options = _form(request, body, max_images)
                asked = kind(images=[{"encoded": file} for file in files])
                # They are in memory once more now, and the call may wait for long.
                del files, body
                context.timeout_seconds = _timeout_seconds(options)
                fill(asked, _named(request, options))
                reply = await methods[method](asked, context)
                content = await without_delay(lambda: to_json(plain(reply)), reply.ByteSize())
                return Reply([content], _status(reply.outcomes))

            return await exchanges.answer(request, method, work)

        return Route(path, endpoint, methods=["POST"])

    def description(path: str, method: str, kind: type[Message]) -> Route:
        async def endpoint(request: Request) -> Response:
            async def work(body: bytes, context: HttpContext) -> Reply:
                asked = kind()
                fill(asked, _named(request, _query(request)))
                reply = await methods[method](asked, context)
                shown = reply.model if method == "GetModel" else reply
                return Reply([await without_delay(lambda: to_json(plain(shown)), shown.ByteSize())])

            return await exchanges.answer(request, method, work)

        return Route(path, endpoint)

    made = [
        images(f"{model}:{action}", method, kind)
        for model in (f"{_MODEL}/versions/{{version:before_colon}}", _MODEL)
        for action, (method, kind) in _REQUESTS.items()
    ]
    made.append(description("/v1/models", "ListModels", pb.ListModelsRequest))
    for model in (_MODEL, f"{_MODEL}/versions/{{version:before_colon}}"):
        made.append(description(model, "GetModel", pb.GetModelRequest))
    return made


def _form(request: Request, body: bytes, max_images: int) -> tuple[list[bytes], Options]:
    """The files of images in a request, and its options."""
    options = _query(request)
    boundary = multipart.boundary(request.headers.get("content-type", ""))
    if boundary is None:
        _check_no_json(request, body)
        return ([body] if body else []), options
    files = []
    for part in multipart.parts(body, boundary, max_parts=max_images + _MOST_OPTIONS):
        if not part.is_file:
            options.setdefault(part.name, []).append(_text(part))
        elif part.name == _IMAGE:
            files.append(part.content)
        else:
            raise InvalidRequestError(
                f"the form has a file '{part.name[:128]}'; name each '{_IMAGE}', as in curl -F {_IMAGE}=@cat.jpg.",
                reason="MULTIPART_INVALID",
            )
    if len(files) > max_images:
        raise InvalidRequestError(
            f"the request has more than {max_images} images; split it into several.", reason="TOO_MANY_IMAGES"
        )
    return files, options


def _check_no_json(request: Request, body: bytes) -> None:
    """Refuses what somebody sends who takes this for an API of JSON: no file of an image begins so.

    Raises:
        InvalidRequestError: It is such.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json" or body[:64].lstrip().startswith(b"{"):
        raise InvalidRequestError(
            "the body is JSON; send the image's file itself, as in curl --data-binary @cat.jpg, or a form, as in "
            f"curl -F {_IMAGE}=@cat.jpg, and options in the query or the form.",
            reason="BODY_IS_JSON",
        )


def _timeout_seconds(options: Options) -> float | None:
    """Takes the timeout out of the options.

    Raises:
        InvalidRequestError: It is none.
    """
    texts = options.pop(_TIMEOUT, None)
    if texts is None:
        return None
    try:
        (text,) = texts
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequestError(
            f"option '{_TIMEOUT}' cannot be '{', '.join(texts)[:128]}'; it is one number of seconds, over 0.",
            reason="OPTION_INVALID",
        )
    return seconds


def _named(request: Request, options: Options) -> Options:
    """The options, and what the path names before any of them: the model, and its version by number or label."""
    named = {name: [text] for name, text in request.path_params.items()}
    if "version" not in named:
        return options | named
    if LABEL_PATTERN.fullmatch(named["version"][0]):
        named["version_label"] = named.pop("version")
    others = {name: texts for name, texts in options.items() if name not in _VERSIONS}
    return others | named


def _query(request: Request) -> Options:
    options: Options = {}
    for name, text in request.query_params.multi_items():
        options.setdefault(name, []).append(text)
    return options


def _text(part: Part) -> str:
    if len(part.content) > _MOST_OPTION_BYTES:
        raise InvalidRequestError(
            f"option '{part.name[:128]}' has {len(part.content)} bytes, but at most {_MOST_OPTION_BYTES} are taken.",
            reason="OPTION_INVALID",
        )
    return part.content.decode(errors="replace")


def _status(outcomes: Sequence[Any]) -> int:
    """Of HTTP: the first image's error where no image has an answer."""
    if all(outcome.HasField("error") for outcome in outcomes):
        return status_of(Code(outcomes[0].error.code))
    return 200
