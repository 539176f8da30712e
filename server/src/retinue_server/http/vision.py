"""The endpoints of the typed API, below /v1: files of images in, JSON out."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from google.protobuf.message import Message
from pydantic_core import to_json
from retinue.v1 import vision_service_pb2 as pb
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from retinue_server.errors import Code, InvalidRequestError
from retinue_server.http.exchange import Exchanges, HttpContext, Reply, status_of
from retinue_server.http.messages import fill, plain
from retinue_server.rpc.methods import Methods

_MULTIPART = "multipart/form-data"
_IMAGE = "image"
_PIECE_BYTES = 1024 * 1024
# Of texts, which are options; several of one name are a list.
_MOST_OPTIONS = 1000
_MOST_OPTION_BYTES = 4096

_MODEL = "/v1/models/{model}"
_REQUESTS: dict[str, tuple[str, type[Any]]] = {
    "classify": ("Classify", pb.ClassifyRequest),
    "detect": ("Detect", pb.DetectRequest),
    "segment": ("Segment", pb.SegmentRequest),
}

Options = dict[str, list[str]]


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
                files, options = await _form(request, body, max_images)
                asked = kind(images=[{"encoded": file} for file in files])
                fill(asked, options | {name: [value] for name, value in request.path_params.items()})
                reply = await methods[method](asked, context)
                return Reply([to_json(plain(reply))], _status(reply.outcomes))

            return await exchanges.answer(request, method, work)

        return Route(path, endpoint, methods=["POST"])

    def description(path: str, method: str, kind: type[Message]) -> Route:
        async def endpoint(request: Request) -> Response:
            async def work(body: bytes, context: HttpContext) -> Reply:
                asked = kind()
                fill(asked, _query(request) | {name: [value] for name, value in request.path_params.items()})
                reply = await methods[method](asked, context)
                return Reply([to_json(plain(reply.model if method == "GetModel" else reply))])

            return await exchanges.answer(request, method, work)

        return Route(path, endpoint)

    made = [
        images(f"{model}:{action}", method, kind)
        for model in (f"{_MODEL}/versions/{{version}}", _MODEL)
        for action, (method, kind) in _REQUESTS.items()
    ]
    made.append(description("/v1/models", "ListModels", pb.ListModelsRequest))
    for model in (_MODEL, f"{_MODEL}/versions/{{version}}"):
        made.append(description(model, "GetModel", pb.GetModelRequest))
    return made


async def _form(request: Request, body: bytes, max_images: int) -> tuple[list[bytes], Options]:
    """The files of images in a request, and its options."""
    options = _query(request)
    if not request.headers.get("content-type", "").lower().startswith(_MULTIPART):
        return ([body] if body else []), options
    parser = MultiPartParser(
        request.headers,
        _pieces(body),
        # One more, so that too many are told apart from a form that is none.
        max_files=max_images + 1,
        max_fields=_MOST_OPTIONS,
        max_part_size=_MOST_OPTION_BYTES,
    )
    # It is all in memory already, and a server may have no disk.
    parser.spool_max_size = len(body) + 1
    try:
        parts = (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise InvalidRequestError(
            f"the form cannot be read: {error.message}", reason="MULTIPART_INVALID"
        ) from None
    files = []
    for name, value in parts:
        if isinstance(value, UploadFile) and name == _IMAGE:
            files.append(await value.read())
        elif isinstance(value, UploadFile):
            raise InvalidRequestError(
                f"the form has a file '{name[:128]}'; name each '{_IMAGE}', as in curl -F {_IMAGE}=@cat.jpg.",
                reason="MULTIPART_INVALID",
            )
        else:
            options.setdefault(name, []).append(value)
    if len(files) > max_images:
        raise InvalidRequestError(
            f"the request has more than {max_images} images; split it into several.", reason="TOO_MANY_IMAGES"
        )
    return files, options


async def _pieces(body: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]


def _query(request: Request) -> Options:
    return {name: request.query_params.getlist(name) for name in request.query_params}


def _status(outcomes: Sequence[Any]) -> int:
    """Of HTTP: the first image's error where no image has an answer."""
    if all(outcome.HasField("error") for outcome in outcomes):
        return status_of(Code(outcomes[0].error.code))
    return 200
