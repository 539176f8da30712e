"""Batches in slots that hang, and how their model is probed."""

import threading

import numpy as np
import pytest
from tests.unit.workers.pairs import NumberNetwork, shared_slots

from retinue_server.batching.tickets import Stop, Stopped
from retinue_server.runtime import contract
from retinue_server.workers.backend import SlotBackend, SlotImage, SlotRequest
from retinue_server.workers.slots import Lease


def test_a_batch_that_comes_back_after_it_was_stopped_writes_into_no_slot() -> None:
    """They may be other images' by then."""
    slots, engine_slots = shared_slots(4)
    network, stop = NumberNetwork(), Stop()
    backend = SlotBackend(network, engine_slots.layout, batch_sizes=(4,), typical=lambda images: {})
    request = SlotRequest(engine_slots, Lease(lambda: None), 0.0, frozenset())
    network.gate.clear()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            backend.run([SlotImage(request, 1)], stop)
        except Stopped as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    network.begun.acquire()
    stop.request()
    network.gate.set()
    thread.join(10)
    assert len(raised) == 1
    assert not slots.arrays["probabilities"].any()


@pytest.mark.parametrize("fill_up", [False, True])
def test_it_is_probed_with_a_black_image_in_no_slot(fill_up: bool) -> None:
    slots, engine_slots = shared_slots(4)
    slots.arrays[contract.IMAGES][:] = 3
    network = NumberNetwork()
    backend = SlotBackend(
        network, engine_slots.layout, batch_sizes=(2, 4), typical=lambda images: {}, fill_up=fill_up
    )
    backend.probe(Stop())
    assert network.batches == [[0, 0] if fill_up else [0]]
    assert np.all(slots.arrays[contract.IMAGES] == 3)
    network.fails_on = 0
    with pytest.raises(ValueError, match="boom"):
        backend.probe(Stop())
