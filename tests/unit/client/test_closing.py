"""A client that is closed, before, between and during calls: every caller is told."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import AsyncClient, Client, UnavailableError

Code = grpc.StatusCode


def test_a_closed_client_says_so(server):
    client = Client(server.address)
    client.classify(b"x")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.classify(b"x")
    assert repr(client) == f"<Client of {server.address}, closed>"


async def test_a_closed_async_client_says_so(server):
    client = AsyncClient(server.address)
    await client.classify(b"x")
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.classify(b"x")
    assert repr(client) == f"<AsyncClient of {server.address}, closed>"
    await AsyncClient(server.address).close()


@pytest.mark.parametrize("images", [b"x", [b"x", b"y"]])
def test_closing_a_client_ends_the_calls_of_other_threads(server, images):
    server.service.hold = threading.Event()
    client = Client(server.address)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.classify, images)
        while not server.service.running:
            assert not answer.done()
        client.close()
        with pytest.raises(UnavailableError, match="closed"):
            answer.result(timeout=30)


def test_closing_a_client_ends_a_call_whose_images_are_not_all_sent(server):
    client = Client(server.address, max_request_images=1)

    def images():
        for index in range(40):
            if index == 30:
                client.close()
            yield b"x"

    with pytest.raises(UnavailableError, match="closed"):
        client.classify(images())


def test_a_client_that_is_closed_early_in_a_call_opens_no_connection_any_more():
    client = Client("models.example:8001")
    transport = client._transport
    sending = transport.prepare("RepositoryIndex", None, 10)
    channels = len(transport._channels)
    client.close()
    with pytest.raises(UnavailableError, match="the client was closed"):
        transport.answer(sending)
    assert len(transport._channels) == channels


class _Interrupted:
    """A call during which Ctrl-C is pressed."""

    cancelled = False

    def result(self):
        raise KeyboardInterrupt

    def cancel(self):
        self.cancelled = True


def test_a_call_that_is_interrupted_is_given_up(server):
    with Client(server.address) as client:
        sending = client._transport.prepare("Classify", pb.ClassifyRequest(), 10)
        client._transport.begin(sending)
        sending.call.result()
        sending.call = interrupted = _Interrupted()
        with pytest.raises(KeyboardInterrupt):
            client._transport.answer(sending)
    assert interrupted.cancelled


@pytest.mark.parametrize("images", [b"x", [b"x"] * 40])
async def test_closing_an_async_client_fails_the_calls_of_other_tasks(server, images):
    """They fail and are not cancelled: a TaskGroup would take that for what its caller wanted."""
    server.service.hold = threading.Event()
    client = AsyncClient(server.address, max_request_images=1)

    async def close():
        while not server.service.running:
            await asyncio.sleep(0)
        await client.close()

    async def both():
        async with asyncio.TaskGroup() as group:
            group.create_task(client.classify(images))
            group.create_task(close())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    (error,) = caught.value.exceptions
    assert isinstance(error, UnavailableError)
    assert (error.code, error.reason) == (Code.CANCELLED, "CANCELLED")
    assert "the client was closed" in error.message


@pytest.mark.parametrize("when", ["before it is sent", "before it is under way"])
async def test_an_async_client_that_is_closed_early_in_a_call_fails_it(server, when):
    """The close comes between the look at the client and the sending, or right after that."""
    async with AsyncClient(server.address) as client:
        await client.list_models()
        transport = client._transport
        sending = transport.prepare("Classify", pb.ClassifyRequest(), 10)
        if when == "before it is under way":
            transport.begin(sending)
        await client.close()
        with pytest.raises(UnavailableError, match="the client was closed"):
            await transport.answer(sending)


async def test_a_task_that_is_cancelled_stays_cancelled_when_its_client_is_closed(server):
    server.service.hold = threading.Event()
    client = AsyncClient(server.address)
    call = asyncio.create_task(client.classify(b"x"))
    while not server.service.running:
        await asyncio.sleep(0)
    call.cancel()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await call
