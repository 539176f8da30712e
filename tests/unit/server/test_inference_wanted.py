"""What a request of tensors wants beside its inputs."""

from typing import Any

import pytest
from retinue.inference import grpc_service_pb2 as pb
from tests.unit.server.refusals import refusal

from retinue_server.batching.tickets import Priority
from retinue_server.inference import Wanted
from retinue_server.rpc import inference_requests as requests

Output = pb.ModelInferRequest.InferRequestedOutputTensor


def with_parameter(name: str, **value: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(parameters={name: pb.InferParameter(**value)})


def test_outputs_are_asked_for_whole_or_as_classes() -> None:
    classes = {"classification": pb.InferParameter(int64_param=3)}
    request = pb.ModelInferRequest(outputs=[Output(name="scores", parameters=classes), Output(name="boxes")])
    assert requests.wanted(request) == [Wanted("scores", 3), Wanted("boxes", 0)]
    assert requests.wanted(pb.ModelInferRequest()) == []


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (0, Priority.NORMAL),
        (1, Priority.HIGH),
        (2, Priority.NORMAL),
        (3, Priority.LOW),
        (2**63 - 1, Priority.LOW),
    ],
)
def test_the_highest_priority_is_one_and_none_is_as_usual(level: int, priority: Priority) -> None:
    assert requests.priority(with_parameter("priority", uint64_param=level)) is priority
    assert requests.priority(with_parameter("priority", int64_param=level)) is priority
    assert requests.priority(pb.ModelInferRequest()) is Priority.NORMAL


@pytest.mark.parametrize(
    ("microseconds", "seconds"),
    [(0, None), (1, 1e-6), (1_500_000, 1.5), (2**63 - 1, pytest.approx(2**63 / 1e6))],
)
def test_a_timeout_is_in_microseconds_and_none_is_none(microseconds: int, seconds: float | None) -> None:
    assert requests.timeout_seconds(with_parameter("timeout", int64_param=microseconds)) == seconds
    assert requests.timeout_seconds(pb.ModelInferRequest()) is None


@pytest.mark.parametrize(
    "value",
    [
        {"int64_param": -1},
        {"int64_param": -(2**63)},
        {"string_param": "1"},
        {"double_param": 1.0},
        {"bool_param": True},
        {"bool_param": False},
        {},
    ],
    ids=str,
)
def test_a_parameter_of_another_kind_is_refused(value: dict[str, Any]) -> None:
    expected = "the parameter '{}' must be an integer of 0 or more."
    message = refusal("PARAMETER_INVALID", lambda: requests.priority(with_parameter("priority", **value)))
    assert message == expected.format("priority")
    message = refusal(
        "PARAMETER_INVALID", lambda: requests.timeout_seconds(with_parameter("timeout", **value))
    )
    assert message == expected.format("timeout")
    output = Output(name="scores", parameters={"classification": pb.InferParameter(**value)})
    message = refusal("PARAMETER_INVALID", lambda: requests.wanted(pb.ModelInferRequest(outputs=[output])))
    assert message == expected.format("classification")


def test_the_largest_number_is_a_number() -> None:
    classes = {"classification": pb.InferParameter(uint64_param=2**64 - 1)}
    request = pb.ModelInferRequest(outputs=[Output(name="scores", parameters=classes)])
    assert requests.wanted(request) == [Wanted("scores", 2**64 - 1)]


def test_parameters_that_mean_nothing_here_are_passed_over() -> None:
    request = with_parameter("sequence_id", string_param="a")
    assert requests.priority(request) is Priority.NORMAL
    assert requests.timeout_seconds(request) is None
