from collections.abc import Callable, Mapping

import numpy as np
import pytest

from retinue_server.batching.tickets import Stop, Stopped
from retinue_server.errors import DeviceError, EngineError, InvalidRequestError, OverloadedError, RetinueError
from retinue_server.results import Answer, TensorRows, TensorWork
from retinue_server.tensor_backend import TensorBackend, together
from retinue_server.tensors import Array


class Doubling:
    """Doubles `x`; cannot do so with a 13."""

    def __init__(self) -> None:
        self.batches: list[Array] = []
        self.lost_rows = 0
        self.stop: Stop | None = None

    def run(
        self, tensors: Mapping[str, Array], when_stopped: Callable[[Callable[[], None]], None]
    ) -> Mapping[str, Array]:
        x = tensors["x"]
        self.batches.append(x)
        if self.stop is not None:
            self.stop.request()
            raise RuntimeError("terminated")
        if (x == 13).any():
            raise InvalidRequestError("no 13, please.", reason="TENSORS_REFUSED")
        if (x == 16).any():
            raise OverloadedError("no room.", retry_after_seconds=1)
        if (x == 14).any():
            raise RuntimeError("out of memory")
        if (x == 15).any():
            raise DeviceError("the GPU has failed.")
        return {"y": 2 * x[self.lost_rows :] if x.ndim else 2 * x}

    def probe(self, when_stopped: Callable[[Callable[[], None]], None]) -> None:
        self.run({"x": np.zeros(1)}, when_stopped)

    def close(self) -> None:
        self.batches.clear()


@pytest.fixture
def network() -> Doubling:
    return Doubling()


@pytest.fixture
def backend(network: Doubling) -> TensorBackend:
    return TensorBackend(network, 8)


def rows(*values: float) -> list[TensorWork]:
    tensors = {"x": np.array(values)}
    return [TensorWork(tensors, row) for row in range(len(values))]


def value(answer: Answer | RetinueError) -> float:
    assert isinstance(answer, Answer)
    assert isinstance(answer.result, TensorRows)
    return float(answer.result.arrays["y"])


def test_rows_of_several_requests_run_together(backend: TensorBackend, network: Doubling) -> None:
    answers = backend.run([*rows(1, 2), *rows(5)], Stop())
    assert [value(one) for one in answers] == [2, 4, 10]
    assert [answer.batch_size for answer in answers if isinstance(answer, Answer)] == [3, 3, 3]
    assert len(network.batches) == 1


def test_a_part_of_one_request_is_not_copied(backend: TensorBackend, network: Doubling) -> None:
    whole = rows(1, 2, 3, 4)
    assert [value(one) for one in backend.run(whole[1:3], Stop())] == [4, 6]
    assert np.shares_memory(network.batches[0], whole[0].tensors["x"])


def test_rows_out_of_their_order_get_their_own_answers(backend: TensorBackend) -> None:
    first, second, third = rows(1, 2, 3)
    assert [value(one) for one in backend.run([third, first, second], Stop())] == [6, 2, 4]


def test_a_request_without_rows_is_run_as_a_whole(backend: TensorBackend) -> None:
    assert value(backend.run([TensorWork({"x": np.array(3.0)}, None)], Stop())[0]) == 6


def test_a_row_that_the_network_refuses_fails_alone(backend: TensorBackend) -> None:
    good, bad, also_good = backend.run([*rows(1), *rows(13), *rows(2)], Stop())
    assert (value(good), value(also_good)) == (2, 4)
    assert isinstance(bad, InvalidRequestError)


def test_what_fails_for_another_reason_is_told_without_it(backend: TensorBackend) -> None:
    (failed,) = backend.run(rows(14), Stop())
    assert isinstance(failed, EngineError)
    assert "memory" not in failed.message


def test_a_device_that_has_failed_is_not_asked_for_each_row(
    backend: TensorBackend, network: Doubling
) -> None:
    with pytest.raises(DeviceError):
        backend.run(rows(1, 15), Stop())
    assert len(network.batches) == 1


def test_it_is_probed_with_what_the_network_knows(backend: TensorBackend, network: Doubling) -> None:
    backend.probe(Stop())
    assert [batch.tolist() for batch in network.batches] == [[0]]


def test_rows_for_which_there_is_no_room_are_not_tried_one_by_one(
    backend: TensorBackend, network: Doubling
) -> None:
    answers = backend.run(rows(1, 16, 2), Stop())
    assert [type(one) for one in answers] == [OverloadedError] * 3
    assert len(network.batches) == 1


def test_a_network_that_loses_rows_answers_none(backend: TensorBackend, network: Doubling) -> None:
    network.lost_rows = 1
    assert all(isinstance(one, EngineError) for one in backend.run(rows(1, 2), Stop()))


def test_what_nobody_waits_for_any_more_is_not_tried_again(backend: TensorBackend, network: Doubling) -> None:
    network.stop = Stop()
    with pytest.raises(Stopped):
        backend.run(rows(1, 2, 3), network.stop)
    assert len(network.batches) == 1


def test_rows_of_one_shape_run_together_and_others_do_not() -> None:
    def of_shape(*shape: int) -> TensorWork:
        return TensorWork({"x": np.zeros(shape)}, 0)

    assert together(of_shape(1, 3), of_shape(5, 3))
    assert not together(of_shape(1, 3), of_shape(1, 4))
    whole = TensorWork({"x": np.zeros((1, 3))}, None)
    assert not together(whole, whole)
