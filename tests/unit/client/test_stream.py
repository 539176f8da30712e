"""Frames, one after the other: in order, bounded, each with its own failure, and the newest of a camera's."""

import asyncio
import contextlib
import threading

import grpc
import numpy as np
import pytest

from retinue_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    DetectOptions,
    ImageError,
    InvalidRequestError,
    ModelNotFoundError,
    UnavailableError,
    deadline,
)

Code = grpc.StatusCode
WAIT_SECONDS = 30


class Streamer:
    """Takes a stream of `Client` or of `AsyncClient` to its end, or until `on_frame` says that it is enough."""

    def __init__(self, address, asynchronous):
        self.address = address
        self.asynchronous = asynchronous

    def __call__(self, question, frames, on_frame=lambda frame: False, **options):
        taken = []
        if not self.asynchronous:
            with Client(self.address) as client:
                for frame in client.stream(question, frames, **options):
                    taken.append(frame)
                    if on_frame(frame):
                        break
                return taken

        async def take():
            async with AsyncClient(self.address) as client:
                stream = client.stream(question, frames, **options)
                async with contextlib.aclosing(stream):
                    async for frame in stream:
                        taken.append(frame)
                        if on_frame(frame):
                            break
            return taken

        return asyncio.run(take())


@pytest.fixture(params=["sync", "async"])
def stream(request, server):
    return Streamer(server.address, request.param == "async")


def images(count):
    return [f"frame {index}".encode() for index in range(count)]


def until(condition):
    """Waits for a state that another thread brings about."""
    ticking = threading.Event()
    for _ in range(WAIT_SECONDS * 1000):
        if condition():
            return
        ticking.wait(0.001)
    raise AssertionError("It did not come about.")


@pytest.mark.parametrize("live", [False, True])
def test_the_frames_come_back_in_order_with_their_results(stream, live):
    answered = threading.Semaphore(1)

    def paced():
        for image in images(20):
            assert answered.acquire(timeout=WAIT_SECONDS)
            yield image

    def count(_):
        answered.release()
        return False

    frames = paced() if live else images(20)
    taken = stream("classify", frames, count, live=live)
    assert [frame.index for frame in taken] == list(range(20))
    assert [frame.image for frame in taken] == images(20)
    assert [frame.outcome.best.label for frame in taken] == [image.decode() for image in images(20)]
    assert repr(taken[7]) == f"<Frame 7: {taken[7].outcome!r}>"


def test_several_frames_are_under_way_at_once_and_no_more_than_it_is_told(stream, server):
    server.service.on_request = lambda *_: until(lambda: len(server.service.requests) >= 3)
    assert len(stream("detect", images(12), max_in_flight=3)) == 12
    assert server.service.most_running <= 3


def test_whoever_takes_their_time_over_a_result_stops_the_reading(stream):
    read = []

    def frames():
        for image in images(30):
            read.append(image)
            yield image

    ahead = []

    def look(frame):
        ahead.append(len(read) - 1 - frame.index)
        return False

    assert len(stream("classify", frames(), look, max_in_flight=3)) == 30
    assert max(ahead) <= 3


def test_what_concerns_one_frame_is_its_outcome_and_the_next_goes_on(stream, server, failure, tmp_path):
    server.service.failures.append(failure(Code.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 60.0))
    server.service.failures.append(failure(Code.DEADLINE_EXCEEDED, "Late.", "EXPIRED_IN_QUEUE"))
    frames = [b"1", b"2", b"bad", tmp_path / "missing.jpg", np.zeros((4, 4)), b"6"]
    outcomes = [frame.outcome for frame in stream("classify", frames, max_in_flight=1)]
    assert [getattr(outcome, "reason", None) or outcome.best.label for outcome in outcomes] == [
        "QUEUE_FULL",
        "EXPIRED_IN_QUEUE",
        "IMAGE_UNDECODABLE",
        "FILE_NOT_FOUND",
        "PIXELS_UNSUPPORTED",
        "6",
    ]
    assert all(isinstance(outcome, ImageError) for outcome in outcomes[:5])
    assert (outcomes[0].code, outcomes[0].retry_after_seconds) == (Code.RESOURCE_EXHAUSTED, 60.0)
    assert outcomes[0].source == "1 bytes"


@pytest.mark.parametrize("live", [False, True])
def test_what_concerns_every_frame_ends_the_stream(stream, server, failure, live):
    server.service.failures.append(failure(Code.NOT_FOUND, "No such model.", "MODEL_NOT_FOUND"))
    with pytest.raises(ModelNotFoundError):
        stream("segment", images(5), live=live)


@pytest.mark.parametrize("live", [False, True])
def test_leaving_the_loop_gives_up_what_is_under_way(stream, server, live):
    given_up = threading.Semaphore(0)
    never = threading.Event()

    def on_request(request, context):
        if request.images[0].encoded == b"frame 0":
            until(lambda: len(server.service.requests) == 3)
        elif not context.add_callback(given_up.release):
            given_up.release()
        else:
            never.wait(WAIT_SECONDS)

    def frames():
        for index, image in enumerate(images(3)):
            # So that a live stream skips none.
            until(lambda so_many=index: len(server.service.requests) == so_many)
            yield image

    server.service.on_request = on_request
    taken = stream("classify", frames(), lambda _: True, max_in_flight=3, live=live)
    assert [frame.outcome.best.label for frame in taken] == ["frame 0"]
    for _ in range(2):
        assert given_up.acquire(timeout=WAIT_SECONDS)
    never.set()


def overrun(service):
    """Ten frames, of which all but the first come while that one is under way."""
    service.hold = threading.Event()
    yield b"frame 0"
    until(lambda: service.running == 1)
    yield from images(10)[1:]
    service.hold.set()


def test_of_a_camera_that_is_faster_than_the_server_the_newest_frame_wins(server, stream):
    taken = stream("classify", overrun(server.service), max_in_flight=1, live=True)
    assert [(frame.index, frame.outcome.best.label) for frame in taken] == [(0, "frame 0"), (9, "frame 9")]


async def test_so_it_does_where_the_camera_is_asynchronous(server):
    async def camera():
        frames = overrun(server.service)
        while (frame := await asyncio.to_thread(next, frames, None)) is not None:
            yield frame

    async with AsyncClient(server.address) as client:
        stream = client.stream("classify", camera(), max_in_flight=1, live=True)
        assert [frame.index async for frame in stream] == [0, 9]


async def test_a_frame_is_taken_when_it_is_sent_and_not_while_the_last_result_is_worked_on(server):
    looked, given = asyncio.Event(), asyncio.Event()

    async def camera():
        first, *others = images(4)
        yield first
        await looked.wait()
        for image in others:
            yield image
            for _ in range(20):
                await asyncio.sleep(0)
        given.set()

    indices = []
    async with AsyncClient(server.address) as client:
        async for frame in client.stream("classify", camera(), max_in_flight=2, live=True):
            indices.append(frame.index)
            looked.set()
            await given.wait()
    assert indices == [0, 3]


def test_a_result_does_not_wait_for_the_next_frame_of_a_camera(stream):
    arrived = threading.Event()

    def camera():
        yield b"frame 0"
        assert arrived.wait(WAIT_SECONDS)
        yield b"frame 1"

    taken = stream("classify", camera(), lambda _: arrived.set(), live=True)
    assert [frame.index for frame in taken] == [0, 1]


def test_a_deadline_of_the_code_around_that_has_passed_ends_the_stream(stream, server):
    with deadline(0), pytest.raises(DeadlineExceededError, match="nothing was sent"):
        stream("classify", images(5))
    assert server.service.requests == []


@pytest.mark.parametrize("live", [False, True])
def test_an_error_of_the_frames_themselves_is_raised(stream, live):
    def broken():
        yield b"frame 0"
        raise OSError("The camera was pulled out.")

    with pytest.raises(OSError, match="pulled out"):
        stream("classify", broken(), live=live)
    with pytest.raises(TypeError, match="int is no image"):
        stream("classify", [b"frame 0", 7], live=live)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("ending", ["pulled out", "int is no image"])
def test_an_error_of_the_frames_is_raised_after_the_answers_that_were_under_way(stream, server, ending, live):
    server.service.hold = threading.Event()

    def broken():
        yield b"frame 0"
        until(lambda: server.service.running == 1)
        # Some time after what comes next has failed; were it before, nothing would be under way.
        threading.Timer(0.2, server.service.hold.set).start()
        if ending == "int is no image":
            yield 7
            return
        raise OSError("The camera was pulled out.")

    taken = []
    with pytest.raises((OSError, TypeError), match=ending):
        stream("classify", broken(), lambda frame: taken.append(frame.index), live=live)
    assert taken == [0]


async def test_asynchronous_frames_are_awaited_one_after_the_other(server):
    read = []

    async def frames():
        for image in images(5):
            read.append(image)
            await asyncio.sleep(0)
            yield image

    async with AsyncClient(server.address) as client:
        taken = [frame async for frame in client.stream("detect", frames(), model="m", max_in_flight=2)]
    assert [frame.outcome.labels[0] for frame in taken] == [image.decode() for image in images(5)]
    assert read == images(5)


@pytest.mark.parametrize("live", [False, True])
def test_an_event_loop_goes_on_while_a_camera_is_waited_for(server, live):
    seen = threading.Event()

    def camera():
        assert seen.wait(WAIT_SECONDS)
        yield b"frame 0"

    async def both():
        async with AsyncClient(server.address) as client:
            stream = client.stream("classify", camera(), live=live)
            first = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            assert (await client.classify(b"meanwhile")).best.label == "meanwhile"
            seen.set()
            return await first

    assert asyncio.run(both()).outcome.best.label == "frame 0"


def test_many_cameras_that_are_waited_for_and_one_that_is_stuck_hold_nobody_up(server):
    """More of them than the event loop has threads for other things; the program then ends all the same."""
    stuck = threading.Event()

    def camera():
        yield np.zeros((4, 6, 3), np.uint8)
        stuck.wait()

    async def watch():
        async with AsyncClient(server.address) as client:
            streams = [client.stream("classify", camera()) for _ in range(50)]
            frames = await asyncio.gather(*(anext(stream) for stream in streams))
            waiting = [asyncio.create_task(anext(stream)) for stream in streams]
            assert (await client.classify(np.zeros((4, 6), np.uint8))).best.label == "6x4 order 4"
            for task in waiting:
                task.cancel()
            return frames

    assert [frame.index for frame in asyncio.run(watch())] == [0] * 50
    stuck.set()


def test_an_asynchronous_loop_that_is_left_without_closing_leaves_nothing_behind(server):
    async def watch():
        async with AsyncClient(server.address) as client:
            async for frame in client.stream("classify", images(30)):
                if frame.index == 3:
                    break
            return (await client.classify(b"after")).best.label

    assert asyncio.run(watch()) == "after"
    assert len(server.service.requests) <= 3 + 1 + 4 + 1


def test_the_frames_of_a_video_may_be_one_array(stream):
    video = np.zeros((3, 4, 6, 3), np.uint8)
    labels = [frame.outcome.best.label for frame in stream("classify", video)]
    assert labels == ["6x4 order 1"] * 3


def test_options_go_with_each_frame(stream, server):
    options = DetectOptions(model="m", score_threshold=0.5, metadata={"camera": "door"})
    sent = []
    server.service.on_request = lambda request, context: sent.append(dict(context.invocation_metadata()))
    stream("detect", images(3), **options)
    assert [request.score_threshold for request in server.service.requests] == [0.5] * 3
    assert [entries["camera"] for entries in sent] == ["door"] * 3


def test_a_stream_that_makes_no_sense_is_refused_before_it_is_iterated_over(server):
    client = Client(server.address)
    for one in (client, AsyncClient(server.address)):
        for image in ("video.mp4", b"x", np.zeros((4, 4, 3), np.uint8)):
            with pytest.raises(TypeError, match="is one image, not frames"):
                one.stream("classify", image)
        with pytest.raises(TypeError, match="int is no iterable"):
            one.stream("classify", 7)
        with pytest.raises(ValueError, match="'classify', 'detect', 'segment', not 'track'"):
            one.stream("track", [])
        with pytest.raises(ValueError, match="max_in_flight"):
            one.stream("classify", [], max_in_flight=0)
        with pytest.raises(TypeError, match="no option 'topk'"):
            one.stream("classify", [], topk=3)
        with pytest.raises(InvalidRequestError):
            one.stream("classify", [], top_k="five")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        list(client.stream("classify", [b"x"]))


def test_closing_the_client_ends_its_streams(server):
    def images_and_the_end():
        yield from images(10)
        client.close()
        yield from images(10)

    client = Client(server.address)
    with pytest.raises((UnavailableError, RuntimeError), match="closed"):
        list(client.stream("classify", images_and_the_end()))
