"""What is sent to harm the Open Inference Protocol is refused with a reason, is counted, and harms nobody else."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from retinue.inference import grpc_service_pb2 as pb
from retinue.inference import grpc_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as vision_pb
from tests import colour_bundles, odd_bundles
from tests.busy import SLOW_MODEL, engine_held
from tests.calls import TIMEOUT_SECONDS, Connection, Refusal, connected, refused
from tests.metrics_page import MetricsPage, wait_until, waiting_images
from tests.server_process import ServerProcess, running_server

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_METHODS = [method.name for method in _SERVICE.methods]
_STREAM = "ModelStreamInfer"
_CLASSIFIER = "colour-classifier"
_PIXEL_BYTES = 8 * 8 * 3
_ROW_BYTES = 3 * 4
_MOST_CALLS = 128
_MOST_CLASSES = 1000
_IN_FLIGHT = 50
_HOLDING_MODEL = "holding-classifier"
_HOLDING_IMAGES = 60
_MIB = 1 << 20

# No message of any kind.
_MALFORMED = {
    "a number without an end": b"\xff\xff\xff\xff",
    "a length beyond the end": b"\x0a\x7f",
    "a group without an end": b"\x0b",
    "the field 0": b"\x00",
    "an unknown wire type": b"\x0f",
}
_READ = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED"}


class Target:
    """A server, a connection to it, and stubs."""

    def __init__(self, server: ServerProcess, connection: Connection) -> None:
        self.server = server
        self.connection = connection
        self.stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(connection.channel)

    def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        return self.stub.ModelInfer(request, timeout=TIMEOUT_SECONDS)

    def refused(self, request: pb.ModelInferRequest) -> Refusal:
        return refused(lambda: self.infer(request))

    def send(self, method: str, data: bytes) -> bytes:
        """Sends bytes to a method, and returns bytes: of a stream all of its messages."""
        path = f"/{_SERVICE.full_name}/{method}"
        if method == _STREAM:
            return b"".join(self.stream([data]))
        return self.connection.channel.unary_unary(path)(data, timeout=TIMEOUT_SECONDS)

    def stream(self, messages: list[bytes]) -> list[bytes]:
        """Sends the messages of a stream, and returns those that come back."""
        call = self.connection.channel.stream_stream(f"/{_SERVICE.full_name}/{_STREAM}")
        return list(call(iter(messages), timeout=TIMEOUT_SECONDS))

    def counted(self, method: str, code: str) -> tuple[float, float]:
        """How many calls of this protocol were counted, and how many of them of a method and a status, if given."""
        samples = MetricsPage(self.server.http_url).find("retinue_requests_total")
        ours = [sample for sample in samples if sample.labels["method"] in _METHODS]
        chosen = [
            sample
            for sample in ours
            if method in ("", sample.labels["method"]) and code in ("", sample.labels["code"])
        ]
        return sum(sample.value for sample in ours), sum(sample.value for sample in chosen)

    @contextmanager
    def counts(self, calls: int, method: str = "", code: str = "") -> Iterator[None]:
        """Waits after the block until so many calls more have been counted, and finds no others."""
        before = self.counted(method, code)
        wanted = before[0] + calls, before[1] + calls
        yield
        wait_until(lambda: self.counted(method, code)[0] >= wanted[0], f"{calls} calls to be counted")
        assert self.counted(method, code) == wanted


@pytest.fixture(
    scope="module",
    params=[("--system-shared-memory", "on"), ("--workers", "2")],
    ids=["one process", "two front-ends"],
)
def attacked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("attacked")
    colour_bundles.classifier(models)
    odd_bundles.slow_classifier(models)
    odd_bundles.slow_classifier(models, _HOLDING_MODEL)
    limits = "--instances", "1", "--max-concurrent-requests", str(_MOST_CALLS)
    with running_server(models, *limits, *request.param) as server:
        yield server


@pytest.fixture
def target(attacked: ServerProcess) -> Iterator[Target]:
    """The server, which answers and has logged no error when the test is over."""
    with connected(attacked.grpc_address) as connection:
        yield Target(attacked, connection)
    with connected(attacked.grpc_address) as connection:
        reply = Target(attacked, connection).infer(infer())
        probabilities = np.frombuffer(reply.raw_output_contents[0], np.float32)
        assert probabilities.argmax() == 0
    assert not [event for event in attacked.events if event["level"] in ("error", "critical")]
    assert not [line for line in attacked.stderr_lines if "Traceback" in line]


@pytest.fixture
def shared(target: Target, tmp_path: Path) -> Iterator[Path]:
    """A shared memory object of 4096 bytes, registered as `some`; its first pixels are red."""
    path = Path("/dev/shm") / f"retinue-test-{os.getpid()}"
    path.write_bytes(bytes((255, 0, 0)) * (_PIXEL_BYTES // 3) + bytes(4096 - _PIXEL_BYTES))
    try:
        target.stub.SystemSharedMemoryRegister(
            pb.SystemSharedMemoryRegisterRequest(name="some", key=f"/{path.name}", byte_size=4096)
        )
        yield path
    finally:
        path.unlink(missing_ok=True)
        target.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())


one_process = pytest.mark.parametrize(
    "attacked", [("--system-shared-memory", "on")], ids=["one process"], indirect=True
)


def infer(
    model: str = _CLASSIFIER,
    shape: tuple[int, ...] = (1, 8, 8, 3),
    datatype: str = "UINT8",
    raw: list[bytes] | None = None,
    level: int = 0,
) -> pb.ModelInferRequest:
    """A request for one red image, or for what is given instead. The level is that of green and blue."""
    pixels = bytes((255, level, level)) * (_PIXEL_BYTES // 3)
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[pb.ModelInferRequest.InferInputTensor(name="images", datatype=datatype, shape=shape)],
        raw_input_contents=[pixels] if raw is None else raw,
    )


def through(region: str, model: str = _CLASSIFIER) -> pb.ModelInferRequest:
    """A request whose image comes from shared memory, and whose probabilities go there, 1024 bytes further."""
    request = infer(model, raw=[])
    request.outputs.add(name="probabilities")
    for one, offset, size in ((request.inputs[0], 0, _PIXEL_BYTES), (request.outputs[0], 1024, _ROW_BYTES)):
        one.parameters["shared_memory_region"].string_param = region
        one.parameters["shared_memory_offset"].int64_param = offset
        one.parameters["shared_memory_byte_size"].int64_param = size
    return request


def _field(number: int, payload: bytes) -> bytes:
    """A field of a message: bytes, text or another message."""
    length, size = b"", len(payload)
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return bytes((number << 3 | 2,)) + length + bytes((size,)) + payload


def code_of(call: Callable[[], object]) -> str:
    """The status of a call, whatever it is."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@pytest.mark.parametrize("method", _METHODS)
def test_bytes_that_are_no_message_are_refused_by_every_method(method: str, target: Target) -> None:
    with target.counts(len(_MALFORMED), method=method, code="INVALID_ARGUMENT"):
        for what, data in _MALFORMED.items():
            if method == _STREAM:
                told = pb.ModelStreamInferResponse.FromString(target.send(method, data)).error_message
                assert told.startswith("REQUEST_UNREADABLE: "), what
            else:
                assert refused(lambda: target.send(method, data)).reason == "REQUEST_UNREADABLE", what  # noqa: B023


def test_whatever_bytes_a_request_is_changed_to_break_nothing(target: Target) -> None:
    random = np.random.default_rng(11)
    valid = infer()
    valid.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
    valid.parameters["priority"].uint64_param = 1
    original = np.frombuffer(valid.SerializeToString(), np.uint8)
    with target.counts(300):
        for _ in range(150):
            changed = original.copy()
            places = random.integers(0, len(changed), random.integers(1, 5))
            changed[places] = random.integers(0, 256, len(places))
            # Of the message's end, too.
            data = changed[: random.integers(1, len(changed) + 40)].tobytes()
            assert code_of(lambda: target.send("ModelInfer", data)) in _READ, data  # noqa: B023
            assert target.send(_STREAM, data)


_SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "more bytes than there are": ((1, 2**62), "UINT8"),
    "whose product is beyond 64 bits": ((2**62, 2**62, 2**62, 2**62), "UINT8"),
    "whose product is 0 modulo 2^64": ((2**32, 2**32, 8, 3), "UINT8"),
    "of so many images": ((2**62, 8, 8, 3), "UINT8"),
    "of a few images too many": ((257, 8, 8, 3), "UINT8"),
    "of no images": ((0, 8, 8, 3), "UINT8"),
    "of -1 images": ((-1, 8, 8, 3), "UINT8"),
    "of the least number of images": ((-(2**63), 8, 8, 3), "UINT8"),
    "of two images with the bytes of one": ((2, 8, 8, 3), "UINT8"),
    "without dimensions": ((), "UINT8"),
    "of 40 dimensions": ((1,) * 40, "UINT8"),
    "of files, so many": ((2**62,), "BYTES"),
    "of files, so many in a column": ((2**62, 1), "BYTES"),
    "of -1 files": ((-1,), "BYTES"),
    "of two files with the bytes of none": ((2,), "BYTES"),
    "of a larger type": ((1, 8, 8, 3), "FP64"),
    "of an unknown type": ((1, 8, 8, 3), "x" * 100_000),
}


@pytest.mark.parametrize("what", _SHAPES)
def test_a_shape_that_the_bytes_are_not_of_is_refused_before_memory_is_taken(
    what: str, target: Target
) -> None:
    shape, datatype = _SHAPES[what]
    before = target.server.peak_memory_bytes()
    with target.counts(1, method="ModelInfer", code="INVALID_ARGUMENT"):
        assert target.refused(infer(shape=shape, datatype=datatype)).code == "INVALID_ARGUMENT"
    assert target.server.peak_memory_bytes() - before < 20 * _MIB


def test_so_many_contents_are_refused(target: Target) -> None:
    files = infer(shape=(100_000,), datatype="BYTES", raw=[])
    files.inputs[0].contents.bytes_contents.extend([b"x"] * 100_000)
    few_files = infer(shape=(1000,), datatype="BYTES", raw=[])
    few_files.inputs[0].contents.bytes_contents.extend([b"x"] * 1000)
    numbers = infer(raw=[])
    numbers.inputs[0].contents.uint_contents.extend([1] * (5 * _MIB))
    with target.counts(5, method="ModelInfer", code="INVALID_ARGUMENT"):
        reasons = [
            target.refused(request).reason
            for request in (
                infer(raw=[b"x"] * 100_000),
                infer(raw=[bytes(_PIXEL_BYTES), *[b"x"] * 60_000]),
                files,
                few_files,
                numbers,
            )
        ]
    assert reasons == [
        *("TOO_MANY_FIELDS", "CONTENTS_MISSING", "TOO_MANY_FIELDS", "TOO_MANY_IMAGES", "TOO_MANY_FIELDS")
    ]


@pytest.mark.parametrize("value", [0, 1, 2**31, 2**63 - 1, 2**64 - 1, -1, -(2**63), "1", True, 0.5], ids=repr)
@pytest.mark.parametrize("name", ["priority", "timeout", "classification"])
def test_a_parameter_of_any_value_breaks_nothing(name: str, value: Any, target: Target) -> None:
    request = infer()
    request.outputs.add(name="probabilities")
    holder = request.outputs[0].parameters if name == "classification" else request.parameters
    if isinstance(value, bool):
        holder[name].bool_param = value
    elif isinstance(value, str):
        holder[name].string_param = value
    elif isinstance(value, float):
        holder[name].double_param = value
    elif value >= 2**63:
        holder[name].uint64_param = value
    else:
        holder[name].int64_param = value
    code = code_of(lambda: target.infer(request))
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not integer or value < 0 or (name == "classification" and value > _MOST_CLASSES):
        assert code == "INVALID_ARGUMENT"
    elif (name, value) == ("timeout", 1):
        # A microsecond is over before anything is done.
        assert code in {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    else:
        assert code == "OK"


def test_a_stream_with_garbage_goes_on(target: Target) -> None:
    good = infer()
    good.id = "good"
    unknown = infer("nobody")
    unknown.id = "unknown"
    messages = [good.SerializeToString(), unknown.SerializeToString(), *_MALFORMED.values(), b""] * 5
    with target.counts(len(messages), method=_STREAM):
        replies = [pb.ModelStreamInferResponse.FromString(data) for data in target.stream(messages)]
    told = [(one.infer_response.id, one.error_message.partition(":")[0]) for one in replies]
    assert sorted(told) == sorted(
        [
            ("good", ""),
            ("unknown", "MODEL_NOT_FOUND"),
            ("", "MODEL_NOT_NAMED"),
            *[("", "REQUEST_UNREADABLE")] * len(_MALFORMED),
        ]
        * 5
    )


@pytest.mark.slow
def test_a_caller_who_leaves_with_answers_unread_is_no_error(target: Target) -> None:
    for _ in range(3):
        with connected(target.server.grpc_address) as connection:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(connection.channel)
            # Answers carry the id back, so that these do not fit into what is sent unread.
            unread = infer()
            unread.id = "x" * _MIB
            call = stub.ModelStreamInfer(iter([unread] * 100))
            next(call)
            call.cancel()
    lines = "\n".join(target.server.stderr_lines)
    assert "Traceback" not in lines
    assert "ExceptionGroup" not in lines


@pytest.mark.slow
def test_streams_that_are_cut_off_leave_nothing_behind(target: Target) -> None:
    """So often that calls, of which only so many are taken, would run out if one stayed behind."""
    cuts = 2 * _MOST_CALLS // _IN_FLIGHT
    slow = infer(SLOW_MODEL, level=255)
    with (
        target.counts(cuts * _IN_FLIGHT, method=_STREAM, code="CANCELLED"),
        # Its images come before all others', for as long as all of this may take.
        engine_held(
            target.connection, target.server, _HOLDING_IMAGES, _HOLDING_MODEL, vision_pb.PRIORITY_HIGH
        ) as held,
    ):
        for _ in range(cuts):
            with connected(target.server.grpc_address) as connection:
                stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(connection.channel)
                call = stub.ModelStreamInfer(iter([slow] * _IN_FLIGHT))
                wait_until(
                    lambda: waiting_images(target.server.http_url, SLOW_MODEL) == _IN_FLIGHT,
                    "the stream's images to wait",
                )
                call.cancel()
            wait_until(
                lambda: waiting_images(target.server.http_url, SLOW_MODEL) == 0,
                "the stream's images to be gone",
            )
        assert not held.done(), "the engine was held for too short a time for this test to say anything"
    wait_until(lambda: waiting_images(target.server.http_url, _HOLDING_MODEL) == 0, "an empty queue")


@pytest.mark.slow
@one_process
def test_a_region_that_is_unregistered_in_flight_fails_its_request_alone(
    target: Target, shared: Path
) -> None:
    before = shared.read_bytes()
    with engine_held(target.connection, target.server):
        waiting = waiting_images(target.server.http_url, SLOW_MODEL)
        call = target.stub.ModelInfer.future(through("some", SLOW_MODEL), timeout=TIMEOUT_SECONDS)
        wait_until(
            lambda: waiting_images(target.server.http_url, SLOW_MODEL) > waiting, "the request to wait"
        )
        target.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="some"))
        refusal = refused(call.result)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "SHARED_MEMORY_UNKNOWN")
    assert shared.read_bytes() == before


@pytest.mark.slow
@one_process
def test_shared_memory_that_is_truncated_fails_its_requests_alone(target: Target, shared: Path) -> None:
    assert not any(target.infer(through("some")).raw_output_contents)
    assert np.frombuffer(shared.read_bytes(), np.float32, 3, 1024).argmax() == 0
    for size in (1024 + _ROW_BYTES - 1, _PIXEL_BYTES - 1, 0):
        os.truncate(shared, size)
        assert target.refused(through("some")).reason == "SHARED_MEMORY_TRUNCATED"
        assert shared.stat().st_size == size
    os.truncate(shared, 4096)
    with engine_held(target.connection, target.server):
        waiting = waiting_images(target.server.http_url, SLOW_MODEL)
        call = target.stub.ModelInfer.future(through("some", SLOW_MODEL), timeout=TIMEOUT_SECONDS)
        wait_until(
            lambda: waiting_images(target.server.http_url, SLOW_MODEL) > waiting, "the request to wait"
        )
        os.truncate(shared, 0)
        assert refused(call.result).reason == "SHARED_MEMORY_TRUNCATED"
    assert shared.stat().st_size == 0
