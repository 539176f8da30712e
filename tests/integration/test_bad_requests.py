"""Requests that cannot be answered at all: each gets its code, a reason and advice, and costs nobody else anything."""

import math
from collections.abc import Callable

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests.calls import Connection, encoded, flat, refused
from tests.integration.conftest import SMALL_REQUEST_BYTES
from tests.pictures import png_bomb
from tests.server_process import ServerProcess

pytestmark = pytest.mark.usefixtures("still_answering")

_RED = flat(255, 0, 0)
_MIB = 1 << 20
# 50 megapixels in 50 kilobytes.
_LARGE = encoded(png_bomb(10_000, 5_000))

# What it is: the call, its code, its reason, and a part of its message that says what to do.
_Case = tuple[Callable[[Connection], object], str, str, str]

BAD_OPTIONS: dict[str, _Case] = {
    **{
        f"top_k {top_k}": (
            lambda to, top_k=top_k: to.classify(_RED, top_k=top_k),  # type: ignore[misc]
            "INVALID_ARGUMENT",
            "TOP_K_OUT_OF_RANGE",
            f"top_k is {top_k}, but must be 1 to 3",
        )
        for top_k in (0, -1, 4, 10**9, -(2**31))
    },
    **{
        f"min_score {score}": (
            lambda to, score=score: to.classify(_RED, min_score=score),  # type: ignore[misc]
            "INVALID_ARGUMENT",
            "SCORE_OUT_OF_RANGE",
            "must be in [0, 1]",
        )
        for score in (math.nan, -0.25, 1.5, math.inf, -math.inf)
    },
    **{
        f"score_threshold {score}": (
            lambda to, score=score: to.detect(_RED, score_threshold=score),  # type: ignore[misc]
            "INVALID_ARGUMENT",
            "SCORE_OUT_OF_RANGE",
            "must be in [0, 1]",
        )
        for score in (math.nan, -0.25, 1.5, math.inf, -math.inf)
    },
    **{
        f"max_detections {most}": (
            lambda to, most=most: to.detect(_RED, max_detections=most),  # type: ignore[misc]
            "INVALID_ARGUMENT",
            "MAX_DETECTIONS_OUT_OF_RANGE",
            f"max_detections is {most}, but must be at least 1",
        )
        for most in (0, -1)
    },
    "unknown class to detect": (
        lambda to: to.detect(_RED, classes=["red", "mauve"]),
        "INVALID_ARGUMENT",
        "CLASS_UNKNOWN",
        "no class 'mauve'; its classes are: red, green, blue",
    ),
    "unknown class to segment": (
        lambda to: to.segment(_RED, classes=["mauve"]),
        "INVALID_ARGUMENT",
        "CLASS_UNKNOWN",
        "its classes are: red, green, blue",
    ),
    "class of 100 KB": (
        lambda to: to.detect(_RED, classes=["x" * 100_000]),
        "INVALID_ARGUMENT",
        "CLASS_UNKNOWN",
        "its classes are: red, green, blue",
    ),
    "unknown mask format": (
        lambda to: to.segment(_RED, mask_format=99),
        "INVALID_ARGUMENT",
        "MASK_FORMAT_UNKNOWN",
        "use PNG, COCO_RLE or RAW",
    ),
    "unknown mask size": (
        lambda to: to.segment(_RED, mask_size=99),
        "INVALID_ARGUMENT",
        "MASK_SIZE_UNKNOWN",
        "use ORIGINAL or MODEL",
    ),
    "raw masks too large for a reply": (
        lambda to: to.segment(*[_LARGE] * 6, mask_format=pb.MASK_FORMAT_RAW),
        "INVALID_ARGUMENT",
        "REPLY_TOO_LARGE",
        "ask for PNG or COCO_RLE, for the model's size, or send fewer images",
    ),
    "unknown task to list": (
        lambda to: to.list_models(99),
        "INVALID_ARGUMENT",
        "TASK_UNKNOWN",
        "task 99 is unknown; use CLASSIFY, DETECT, SEGMENT or TENSOR",
    ),
    "no images to classify": (
        lambda to: to.classify(),
        "INVALID_ARGUMENT",
        "NO_IMAGES",
        "send at least one",
    ),
    "no images to detect": (lambda to: to.detect(), "INVALID_ARGUMENT", "NO_IMAGES", "send at least one"),
    "no images to segment": (lambda to: to.segment(), "INVALID_ARGUMENT", "NO_IMAGES", "send at least one"),
    "10,000 images": (
        lambda to: to.classify(*[_RED] * 10_000),
        "INVALID_ARGUMENT",
        "TOO_MANY_IMAGES",
        "at most 256 are taken; split it",
    ),
    "10,000 images that are none": (
        lambda to: to.segment(*[encoded(b"x")] * 10_000),
        "INVALID_ARGUMENT",
        "TOO_MANY_IMAGES",
        "at most 256 are taken; split it",
    ),
}

BAD_MODELS: dict[str, _Case] = {
    "unknown model": (
        lambda to: to.classify(_RED, model="nobody"),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "there is no model 'nobody'; models served: 'colour-classifier', 'colour-detector', 'colour-segmenter'",
    ),
    "unknown model to describe": (
        lambda to: to.get_model("nobody"),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "models served: 'colour-classifier'",
    ),
    "no model to describe": (
        lambda to: to.get_model(""),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "models served: 'colour-classifier'",
    ),
    "model name of 100 KB": (
        lambda to: to.classify(_RED, model="x" * 100_000),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "models served: 'colour-classifier'",
    ),
    "model name of 100 KB to describe": (
        lambda to: to.get_model("\N{CAT FACE}" * 25_000, 7),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "models served: 'colour-classifier'",
    ),
    "model name with control characters": (
        lambda to: to.classify(_RED, model="colour\r\n\0classifier"),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "models served: 'colour-classifier'",
    ),
    "unknown version": (
        lambda to: to.classify(_RED, model="colour-classifier", version=2),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "model 'colour-classifier' has no version 2; versions served: '1'",
    ),
    "unknown version to describe": (
        lambda to: to.get_model("colour-detector", 2**31 - 1),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "versions served: '1'",
    ),
    "negative version": (
        lambda to: to.classify(_RED, version=-1),
        "INVALID_ARGUMENT",
        "VERSION_OUT_OF_RANGE",
        "version is -1, but must be at least 1, or 0 for what the model's split says",
    ),
    "least version": (
        lambda to: to.segment(_RED, model="colour-segmenter", version=-(2**31)),
        "INVALID_ARGUMENT",
        "VERSION_OUT_OF_RANGE",
        "must be at least 1",
    ),
    "negative version to describe": (
        lambda to: to.get_model("colour-classifier", -1),
        "INVALID_ARGUMENT",
        "VERSION_OUT_OF_RANGE",
        "must be at least 1",
    ),
}

WRONG_TASKS: dict[str, _Case] = {
    f"a {model} asked to {task}": (
        lambda to, task=task, model=model: getattr(to, task)(_RED, model=f"colour-{model}"),  # type: ignore[misc]
        "FAILED_PRECONDITION",
        "WRONG_TASK",
        f"'colour-{model}' serves {serves}, not {task}; models for {task}: 'colour-",
    )
    for model, serves in (("classifier", "classify"), ("detector", "detect"), ("segmenter", "segment"))
    for task in ("classify", "detect", "segment")
    if task != serves
}

CASES = BAD_OPTIONS | BAD_MODELS | WRONG_TASKS


@pytest.mark.parametrize("what", CASES)
def test_a_bad_request_is_refused_with_advice(what: str, colour: Connection) -> None:
    call, code, reason, advice = CASES[what]
    refusal = refused(lambda: call(colour))
    assert (refusal.code, refusal.reason) == (code, reason)
    assert advice in refusal.message
    assert refusal.retry_after_seconds is None


def test_an_empty_model_name_means_the_only_model_of_the_task(colour: Connection) -> None:
    assert colour.classify(_RED).model == "colour-classifier"
    assert colour.detect(_RED, version=1).model == "colour-detector"
    assert colour.segment(_RED).model == "colour-segmenter"


def test_an_empty_model_name_is_refused_where_the_task_has_several_models(small: Connection) -> None:
    refusal = refused(lambda: small.classify(_RED))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "MODEL_NOT_NAMED")
    assert "name a model" in refusal.message
    assert "'colour-classifier', 'slow-classifier'" in refusal.message


def test_an_empty_model_name_is_refused_where_the_task_has_no_model(small: Connection) -> None:
    refusal = refused(lambda: small.detect(_RED))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "MODEL_NOT_NAMED")


def test_a_request_over_the_size_limit_is_refused_with_advice_and_smaller_ones_are_answered(
    small: Connection,
) -> None:
    refusal = refused(lambda: small.classify(encoded(bytes(SMALL_REQUEST_BYTES)), model="colour-classifier"))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_TOO_LARGE")
    assert f"at most {SMALL_REQUEST_BYTES} are taken; send smaller or fewer images" in refusal.message
    response = small.classify(encoded(bytes(SMALL_REQUEST_BYTES - 500)), _RED, model="colour-classifier")
    assert response.outcomes[1].result.classes[0].label == "red"


def test_a_message_of_more_than_twice_the_limit_is_refused_by_grpc(small: Connection) -> None:
    # Before anything of it is read, so the status has no details.
    with pytest.raises(grpc.RpcError) as raised:
        small.classify(encoded(bytes(2 * SMALL_REQUEST_BYTES)), model="colour-classifier")
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "Received message larger than max" in raised.value.details()
    assert f"vs. {2 * SMALL_REQUEST_BYTES}" in raised.value.details()


def test_the_default_size_limit_takes_a_large_photo_and_no_more(colour: Connection) -> None:
    largest = flat(255, 0, 0, side=4_000)
    assert len(largest.raw.data) > 45 * _MIB
    assert colour.classify(largest, top_k=1).outcomes[0].result.classes[0].label == "red"
    refusal = refused(lambda: colour.classify(largest, largest))
    assert refusal.reason == "REQUEST_TOO_LARGE"
    assert f"at most {64 * _MIB} are taken" in refusal.message


# Each took 16 bytes of memory or more for every byte of the request when protobuf had read it.
@pytest.mark.parametrize(
    ("field", "reason"), [(b"\x1a\x00", "TOO_MANY_IMAGES"), (b"\x32\x00", "TOO_MANY_FIELDS")]
)
def test_millions_of_empty_fields_take_no_more_memory_than_their_bytes(
    field: bytes, reason: str, colour: Connection, colour_server: ServerProcess
) -> None:
    detect = colour.channel.unary_unary("/retinue.v1.VisionService/Detect")
    data = field * (32 * _MIB)
    before = colour_server.peak_memory_bytes()
    refusal = refused(lambda: detect(data))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", reason)
    # gRPC itself holds a message up to three times while it arrives.
    assert colour_server.peak_memory_bytes() - before < 5 * len(data)


def test_refused_requests_leave_nothing_behind(colour: Connection, colour_server: ServerProcess) -> None:
    image = encoded(bytes(5 * _MIB // 2))
    for _ in range(5):
        refused(lambda: colour.classify(image, top_k=0))
    before = colour_server.memory_bytes()
    for _ in range(240):
        refused(lambda: colour.classify(image, top_k=0))
    # They were 600 MiB; some are on their way yet, and leave holes in the heap.
    assert colour_server.memory_bytes() - before < 100 * _MIB


def test_an_unknown_method_is_unimplemented(colour: Connection) -> None:
    paint = colour.channel.unary_unary("/retinue.v1.VisionService/Paint")
    with pytest.raises(grpc.RpcError) as raised:
        paint(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_request_are_refused(colour: Connection) -> None:
    classify = colour.channel.unary_unary("/retinue.v1.VisionService/Classify")
    refusal = refused(lambda: classify(b"\xff\xff\xff\xff"))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_UNREADABLE")
    assert "no ClassifyRequest" in refusal.message


def test_fields_of_a_later_version_are_passed_over(colour: Connection) -> None:
    classify = colour.channel.unary_unary(
        "/retinue.v1.VisionService/Classify", response_deserializer=pb.ClassifyResponse.FromString
    )
    field_1000 = b"\xc2\x3e\x05later"
    response = classify(pb.ClassifyRequest(images=[_RED]).SerializeToString() + field_1000)
    assert response.outcomes[0].result.classes[0].label == "red"
