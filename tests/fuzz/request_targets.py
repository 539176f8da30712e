"""Requests: protobuf's bytes, tensors, JSON and forms, from the wire to what the batching core would get.

Whatever the bytes are, a RetinueError says so; what is accepted is what its shape says.
"""

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError
from retinue.inference import grpc_service_pb2 as inference_pb
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import pictures
from tests.fuzz.target import Target
from tests.unit.server.tensor_requests import LIMITS, classifier, detector

from retinue_server import inference
from retinue_server.errors import ImageError, RetinueError
from retinue_server.http import multipart
from retinue_server.http.messages import fill, plain, to_json
from retinue_server.http.tensors import InferRequest
from retinue_server.rpc import inference_requests, inference_wire, requests, wire
from retinue_server.tensors import BYTES, DTYPES, Array, classification, from_bytes, from_values, to_bytes

_MOST_IMAGES = 8
_CLASSIFIER, _DETECTOR = classifier(), detector(max_regions=4)
_DATATYPES = [*DTYPES, "FP8"]
_METHODS = {"Classify": pb.ClassifyRequest, "Detect": pb.DetectRequest, "Segment": pb.SegmentRequest}


def _told(error: RetinueError) -> None:
    assert error.message.endswith("."), error.message
    assert len(error.message) < 8192, error.message


def _vision(data: bytes) -> None:
    """A request of the typed API, with the method as its first byte."""
    method = list(_METHODS)[data[0] % len(_METHODS)] if data else "Classify"
    try:
        wire.check_fields(data[1:], method, max_images=_MOST_IMAGES)
        request = _METHODS[method].FromString(data[1:])
        requests.version(request)
        requests.priority(request)
        if method == "Classify":
            options = requests.classify_options(request, _CLASSIFIER, max_picture_bytes=10_000)
        elif method == "Detect":
            options = requests.detect_options(request, _DETECTOR, max_picture_bytes=10_000)
            if request.HasField("classify_with"):
                requests.crop_question(request.classify_with, _CLASSIFIER)
        else:
            options = requests.segment_options(request, _CLASSIFIER, max_picture_bytes=10_000)
    except DecodeError:
        return
    except RetinueError as error:
        return _told(error)
    assert len(request.images) <= _MOST_IMAGES
    for image in request.images:
        work = requests.open_image(image, options, max_pixels=10_000, max_regions=4 * (method == "Detect"))
        if isinstance(work, ImageError):
            _told(work)


def _model_infer(data: bytes) -> None:
    """A request of the Open Inference Protocol."""
    try:
        inference_wire.check_fields(data)
        request = inference_pb.ModelInferRequest.FromString(data)
    except DecodeError:
        return
    except RetinueError as error:
        return _told(error)
    _infer(request)


def _infer(request: inference_pb.ModelInferRequest) -> None:
    """What the servicer does with one before anything runs."""
    try:
        inference_requests.version(request.model_version)
        inference_requests.priority(request)
        inference_requests.timeout_seconds(request)
        wanted = inference_requests.wanted(request)
        inference_requests.shared_bytes(request, 1_000_000)
        inference_requests.destinations(request, None)
        declared = inference_requests.declared(request)
    except RetinueError as error:
        return _told(error)
    try:
        tensors = inference_requests.tensors(request, None)
    except RetinueError as error:
        tensors = None
        _told(error)
    for model in (_CLASSIFIER, _DETECTOR):
        try:
            count = inference.check_inputs(model, declared, LIMITS.max_images)
            asked = inference.check_outputs(model, wanted)
            inference.output_bytes(model, asked, count, LIMITS.max_reply_bytes)
            if tensors is not None:
                assert len(inference.works(model, tensors, asked, LIMITS)) == count
        except RetinueError as error:
            _told(error)


def _other_inference(data: bytes) -> None:
    """The protocol's other requests."""
    method = ("RepositoryModelLoad", "TraceSetting", "SystemSharedMemoryRegister")[data[0] % 3 if data else 0]
    try:
        inference_wire.check_fields(data[1:], method)
        request = getattr(inference_pb, f"{method}Request").FromString(data[1:])
        if method == "RepositoryModelLoad":
            inference_requests.serving_policy(request.parameters)
    except DecodeError:
        return
    except RetinueError as error:
        _told(error)


def _http_infer(data: bytes) -> None:
    """JSON and tensors after it; the first two bytes say where the one ends, or that nobody does."""
    length = int.from_bytes(data[:2], "little")
    try:
        request = InferRequest(data[2:], str(length) if length else None, "a-model", "")
    except RetinueError as error:
        return _told(error)
    if request.fault is not None:
        return _told(request.fault)
    _infer(request.message)


def _form(data: bytes) -> None:
    """A form, its Content-Type before the first line's end."""
    content_type, _, body = data.partition(b"\n")
    try:
        boundary = multipart.boundary(content_type.decode("latin-1"))
        if boundary is None:
            return
        found = list(multipart.parts(body, boundary, max_parts=20))
    except RetinueError as error:
        return _told(error)
    assert len(found) <= 20
    assert sum(len(part.content) for part in found) <= len(body)


def _options(data: bytes) -> None:
    """Names and texts of options, one a line."""
    message = list(_METHODS.values())[data[0] % len(_METHODS)]() if data else pb.ClassifyRequest()
    options: dict[str, list[str]] = {}
    for line in data[1:].decode(errors="replace").splitlines()[:50]:
        name, _, text = line.partition("=")
        options.setdefault(name, []).append(text)
    try:
        fill(message, options)
    except RetinueError as error:
        return _told(error)
    to_json(plain(message))


def _tensor(data: bytes) -> None:
    """A type, sizes, and the bytes of the elements."""
    if len(data) < 2:
        return
    datatype = _DATATYPES[data[0] % len(_DATATYPES)]
    rank = data[1] % 5
    sizes = np.frombuffer(data[2 : 2 + rank], np.int8).astype(int).tolist()
    raw = data[2 + rank :]
    try:
        array = from_bytes("input", datatype, sizes, raw)
    except RetinueError as error:
        return _told(error)
    _check_tensor(array, sizes)
    assert datatype == "BOOL" or to_bytes(array) == raw
    if datatype != BYTES and array.size:
        classification(array, ["a", "b"], 3)


def _check_tensor(array: Array, sizes: Sequence[int]) -> None:
    assert list(array.shape) == sizes


def _values(data: bytes) -> None:
    """A type, and elements one by one as they are in JSON."""
    if not data:
        return
    datatype = _DATATYPES[data[0] % len(_DATATYPES)]
    values: list[object] = []
    for text in data[1:].decode(errors="replace").split(","):
        for kind in (int, float, str):
            try:
                values.append(kind(text))
                break
            except ValueError:
                continue
    try:
        array = from_values("input", datatype, [len(values)], values)
    except RetinueError as error:
        return _told(error)
    _check_tensor(array, [len(values)])


def _vision_seeds() -> Sequence[bytes]:
    file = image_pb2.Image(encoded=pictures.png(pictures.RED, 4, 4))
    raw = image_pb2.Image(raw=image_pb2.RawImage(width=2, height=2, data=bytes(12)))
    region = image_pb2.Image(encoded=file.encoded, regions=[{"x_max": 3, "y_max": 4}])
    made = [
        pb.ClassifyRequest(
            images=[file, raw], top_k=1, min_score=0.5, heatmap=True, priority=pb.PRIORITY_LOW
        ),
        pb.DetectRequest(
            images=[region], score_threshold=0.1, iou_threshold=0.5, classes=["red"], masks=True
        ),
        pb.SegmentRequest(images=[raw], mask_format=pb.MASK_FORMAT_RAW, version_label="stable"),
        pb.DetectRequest(images=[file], classify_with=pb.ClassifyWith(model="a", context=0.1, top_k=1)),
    ]
    order = [0, 1, 2, 1]
    return [bytes((place,)) + one.SerializeToString() for place, one in zip(order, made, strict=True)]


def _infer_seeds() -> Sequence[inference_pb.ModelInferRequest]:
    tensor = inference_pb.ModelInferRequest.InferInputTensor
    files = [pictures.png(pictures.RED, 4, 4), pictures.png(pictures.BLUE, 4, 4)]
    encoded = inference_pb.ModelInferRequest(
        model_name="a-model",
        id="1",
        inputs=[tensor(name="images", datatype="BYTES", shape=[2])],
        raw_input_contents=[b"".join(len(one).to_bytes(4, "little") + one for one in files)],
        outputs=[inference_pb.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")],
    )
    encoded.outputs[0].parameters["classification"].int64_param = 2
    encoded.parameters["priority"].uint64_param = 1
    encoded.parameters["timeout"].int64_param = 1000
    contents = inference_pb.ModelInferRequest(
        inputs=[tensor(name="images", datatype="BYTES", shape=[1], contents={"bytes_contents": files[:1]})]
    )
    shared = inference_pb.ModelInferRequest(
        inputs=[tensor(name="images", datatype="UINT8", shape=[1, 2, 2, 3])]
    )
    shared.inputs[0].parameters["shared_memory_region"].string_param = "r"
    shared.inputs[0].parameters["shared_memory_byte_size"].int64_param = 12
    numbers = inference_pb.ModelInferRequest(
        inputs=[
            tensor(name="images", datatype="BYTES", shape=[1], contents={"bytes_contents": files[:1]}),
            tensor(name="score_threshold", datatype="FP32", shape=[1], contents={"fp32_contents": [0.5]}),
            tensor(
                name="regions", datatype="FP32", shape=[1, 1, 4], contents={"fp32_contents": [0, 0, 3, 3]}
            ),
        ]
    )
    return [encoded, contents, shared, numbers]


def _other_seeds() -> Sequence[bytes]:
    load = inference_pb.RepositoryModelLoadRequest(model_name="m")
    load.parameters["config"].string_param = '{"latest": 1}'
    trace = inference_pb.TraceSettingRequest(model_name="m")
    trace.settings["a"].value.append("b")
    register = inference_pb.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=12)
    return [bytes((n,)) + one.SerializeToString() for n, one in enumerate((load, trace, register))]


def _http_seeds() -> Sequence[bytes]:
    file = pictures.png(pictures.RED, 2, 2)
    data = len(file).to_bytes(4, "little") + file
    binary = (
        b'{"id": "1", "parameters": {"binary_data_output": true}, "inputs": [{"name": "images", "datatype": "BYTES", '
        b'"shape": [1], "parameters": {"binary_data_size": %d}}], "outputs": [{"name": "probabilities"}]}'
        % len(data)
    )
    texts = b'{"inputs": [{"name": "t", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [3, -1e9]]}]}'
    return [len(binary).to_bytes(2, "little") + binary + data, b"\0\0" + texts]


def _forms() -> Sequence[bytes]:
    file = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nabc'
    text = b'Content-Disposition: form-data; name="top_k"\r\n\r\n5'
    return [
        b"multipart/form-data; boundary=x\n--x\r\n" + file + b"\r\n--x\r\n" + text + b"\r\n--x--\r\n",
        b'multipart/form-data; charset=utf-8; boundary="a b"\npreamble\r\n--a b\r\n' + text + b"\r\n--a b--",
    ]


TARGETS = (
    Target("vision-request", _vision, _vision_seeds),
    Target("infer-request", _model_infer, lambda: [one.SerializeToString() for one in _infer_seeds()]),
    Target("other-inference", _other_inference, _other_seeds),
    Target("http-infer", _http_infer, _http_seeds),
    Target("http-form", _form, _forms),
    Target(
        "http-options",
        _options,
        lambda: [b"\0top_k=3\nmin_score=0.5\nheatmap=true", b"\1classify_with.top_k=2"],
    ),
    Target("tensor", _tensor, lambda: [b"\1\2\2\3abcdef", b"\x0c\1\2\1\0\0\0a\0\0\0\0", b"\x0a\1\1abcd"]),
    Target(
        "tensor-values",
        _values,
        lambda: [b"\x0a1,2.5,-1e9", b"\0" + b"1,0", b"\x04" + b"18446744073709551615"],
    ),
)
