"""Several servers of one scoring job: who gets how much, and what happens when one goes."""

import asyncio
import itertools

import pytest
from grpc import StatusCode
from tests.unit.client.fake_fleet import FakeAsker, expect_each_once, run, score_all

from retinue_client import (
    ImageError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ServerUnreachableError,
    UnavailableError,
)
from retinue_client._channel import DEFAULT_MAX_REQUEST_IMAGES
from retinue_client._errors import ServerError


def test_two_servers_share_the_work_and_take_half_the_time():
    one = FakeAsker()
    run([one], score_all)
    alone_seconds = run.seconds
    pair = [FakeAsker("a:1"), FakeAsker("b:1")]
    run(pair, score_all)
    expect_each_once(*pair)
    assert run.seconds < 0.6 * alone_seconds
    assert min(sum(client.asked.values()) for client in pair) > 150
    assert all(client.closed for client in pair)


def test_a_slow_server_gets_less():
    fast, slow = FakeAsker("a:1", seconds=0.01), FakeAsker("b:1", seconds=0.1)
    run([fast, slow], score_all, max_in_flight=1024)
    expect_each_once(fast, slow)
    assert sum(slow.asked.values()) < 90
    # All that the two could do together would take 3.6 s.
    assert run.seconds < 5.5


def test_a_server_that_refuses_is_left_alone_as_long_as_it_says_and_others_get_the_work():
    refused = []

    def full(images):
        if images is not None:
            refused.append(asyncio.get_running_loop().time())
            return OverloadedError("Full.", retry_after_seconds=0.5)
        return None

    busy, other = FakeAsker("a:1", fail=full), FakeAsker("b:1")
    run([busy, other], score_all)
    expect_each_once(other)
    # What was under way at the first refusal is refused together; between such salvos lies the delay.
    salvos = [refused[0]]
    for time in refused:
        if time > salvos[-1] + 0.1:
            salvos.append(time)
    assert all(after - before >= 0.5 for before, after in itertools.pairwise(salvos))


def test_a_server_that_is_gone_gets_nothing_until_a_probe_is_answered():
    gone_from, back_at = 0.3, 1.5
    sent_while_gone = []

    def gone(images):
        now = asyncio.get_running_loop().time()
        if not gone_from <= now < back_at:
            return None
        if images is not None:
            sent_while_gone.append(now)
        return ServerUnreachableError("Nobody there.")

    first, second = FakeAsker("a:1", fail=gone), FakeAsker("b:1")
    run([first, second], score_all)
    expect_each_once(first, second)
    # Those that were under way when it went, at most 16 images, and no others.
    assert len(sent_while_gone) <= 8
    assert max(sent_while_gone) < gone_from + 0.5
    assert 1 < first.probes < 10
    assert sum(first.asked.values()) > 50


def test_all_servers_may_be_gone_for_as_long_as_the_patience_lasts():
    def gone(images):
        return UnavailableError("Draining.") if 0.3 <= asyncio.get_running_loop().time() < 20 else None

    pair = [FakeAsker("a:1", fail=gone), FakeAsker("b:1", fail=gone)]
    run(pair, score_all, patience_seconds=30)
    expect_each_once(*pair)
    pair = [FakeAsker("a:1", fail=gone), FakeAsker("b:1", fail=gone)]
    with pytest.raises(UnavailableError, match="Draining"):
        run(pair, score_all, patience_seconds=5)


def test_an_answer_that_comes_late_does_not_make_the_patience_last_for_ever():
    def gone(images):
        return None if images is not None and b"0" in images else UnavailableError("Draining.")

    async def work(scorer):
        client.fail = gone
        async with asyncio.timeout(3600):
            await score_all(scorer)

    client = FakeAsker()
    with pytest.raises(UnavailableError, match="Draining"):
        run([client], work, patience_seconds=5)


def test_a_job_begins_with_the_servers_that_answer_and_the_others_join():
    def late(images):
        return ServerUnreachableError("Not yet.") if asyncio.get_running_loop().time() < 1 else None

    late_one, other = FakeAsker("a:1", fail=late), FakeAsker("b:1")
    run([late_one, other], score_all)
    expect_each_once(late_one, other)
    assert late_one.asked
    with pytest.raises(ServerUnreachableError):
        run([FakeAsker("a:1", fail=late), FakeAsker("b:1", fail=late)], score_all)


def test_servers_with_different_versions_or_without_the_model_are_refused_by_name():
    with pytest.raises(InvalidRequestError, match=r"a:1 answers with version 3 .* b:1 with version 4"):
        run([FakeAsker("a:1"), FakeAsker("b:1", version=4)], score_all)
    with pytest.raises(ModelNotFoundError):
        run([FakeAsker("a:1"), FakeAsker("b:1")], score_all, model="gone")


@pytest.mark.parametrize("change", [{"version": 4}, {"sha256": "ab" * 32}])
def test_a_server_that_comes_late_with_another_model_gets_nothing(change):
    def late(images):
        return ServerUnreachableError("Not yet.") if asyncio.get_running_loop().time() < 0.1 else None

    other, sound = FakeAsker("a:1", fail=late, **change), FakeAsker("b:1")
    run([other, sound], score_all)
    expect_each_once(sound)
    assert other.probes > 2
    with pytest.raises(InvalidRequestError, match=r"a:1 answers with version"):
        run([FakeAsker("a:1", **change), FakeAsker("b:1")], score_all)


def test_a_server_that_comes_back_with_another_model_ends_the_job_with_the_reason():
    def restarting(images):
        if not 0.1 <= asyncio.get_running_loop().time() < 0.5:
            return None
        client.version = 4
        return UnavailableError("Draining.")

    client = FakeAsker(fail=restarting)
    with pytest.raises(ModelNotFoundError, match=r"a:1 answers with version 4 .* now, .* is of version 3"):
        run([client], score_all, patience_seconds=5)


def test_an_image_on_which_servers_fail_is_tried_on_others_and_is_then_an_error_alone():
    def poisoned(images):
        return ServerError("The engine failed.") if images is not None and b"7" in images else None

    sound, broken = FakeAsker("a:1"), FakeAsker("b:1", fail=poisoned)
    run([sound, broken], score_all)
    expect_each_once(sound, broken)

    async def one_run(scorer):
        return await scorer.answers([b"5", b"6", b"7", b"8"])

    answers = run([FakeAsker("a:1", fail=poisoned), FakeAsker("b:1", fail=poisoned)], one_run)
    assert [isinstance(answer, ImageError) for answer in answers] == [False, False, True, False]
    assert answers[2].code is StatusCode.INTERNAL


def test_a_server_that_fails_is_given_a_moment_before_it_is_asked_again():
    asked = []

    def failing(images):
        if images is None:
            return None
        asked.append(asyncio.get_running_loop().time())
        return ServerError("The engine failed.") if len(asked) < 3 else None

    async def one(scorer):
        return await scorer.answers([b"5"])

    (answer,) = run([FakeAsker(fail=failing)], one)
    assert answer.image == b"5"
    assert asked[1] - asked[0] > 0.1
    assert asked[2] - asked[1] > 0.1


def test_an_image_that_failed_among_others_is_tried_on_another_server_and_counted_once():
    class Unsound(FakeAsker):
        async def ask(self, images):
            answers = await super().ask(images)
            error = ImageError("The engine failed.", code=StatusCode.INTERNAL)
            return [error if answer.image == b"7" else answer for answer in answers]

    async def one_run(scorer):
        answers = await scorer.answers([b"6", b"7"])
        return answers, scorer._account.total()

    pair = [Unsound("a:1"), FakeAsker("b:1")]
    (_, seven), total = run(pair, one_run)
    assert (seven.image, seven.server) == (b"7", "b:1")
    assert total.latencies.count == 2
    (_, seven), total = run([Unsound("a:1"), Unsound("b:1")], one_run)
    assert isinstance(seven, ImageError)
    assert total.latencies.count == 2


def test_an_image_that_ends_its_server_is_an_error_alone_after_a_few_times():
    class Mortal(FakeAsker):
        """Ends with everything that is under way, and is back after a second."""

        deaths, back_at = 0, 0.0

        def trouble(self, images):
            now = asyncio.get_running_loop().time()
            if now < self.back_at:
                return ServerUnreachableError("Nobody there.")
            return None

        async def ask(self, images):
            self.fail = self.trouble
            life = self.deaths
            if b"77" in images:
                await asyncio.sleep(0.01)
                self.deaths += 1
                self.back_at = asyncio.get_running_loop().time() + 1
                raise UnavailableError("Lost.", reason="CONNECTION_LOST")
            answers = await super().ask(images)
            if self.deaths > life:
                raise UnavailableError("Lost.", reason="CONNECTION_LOST")
            return answers

    async def work(scorer):
        names = [f"{index}".encode() for index in range(400)]
        runs = [names[start : start + 16] for start in range(0, 400, 16)]
        return [answer for part in await asyncio.gather(*map(scorer.answers, runs)) for answer in part]

    client = Mortal(seconds=0.001)
    answers = run([client], work)
    failed = [place for place, answer in enumerate(answers) if isinstance(answer, ImageError)]
    assert (failed, answers[77].reason) == ([77], "CONNECTION_LOST")
    # Three times with 16 images, and twice with each half that it is in.
    assert client.deaths <= 3 + 4 * 2


def test_requests_grow_with_what_a_server_takes_and_not_past_what_it_allows():
    sizes = []

    def few(images):
        if images is not None:
            sizes.append(len(images))
            if len(images) > 20:
                return InvalidRequestError("Too many.", reason="TOO_MANY_IMAGES")
        return None

    async def follow(scorer):
        assert scorer.images_per_call == 4
        grown = 4
        for _ in range(10):
            grown = max(grown, scorer.images_per_call)
            await score_all(scorer, count=128, size=scorer.images_per_call)
        return grown, scorer.images_per_call

    grown, settled = run([FakeAsker(seconds=0.0001, fail=few)], follow, max_in_flight=1024)
    assert (grown, settled) == (32, 16)
    assert max(sizes) == 32


def test_no_request_is_larger_than_what_a_client_sends_as_one():
    async def grown(scorer):
        for _ in range(10):
            await score_all(scorer, count=512, size=scorer.images_per_call)
        return scorer.images_per_call

    assert run([FakeAsker(seconds=0.0001)], grown, max_in_flight=1024) == DEFAULT_MAX_REQUEST_IMAGES


def test_what_is_under_way_stays_within_the_limit():
    client = FakeAsker(seconds=0.0001)
    run([client], score_all, max_in_flight=24)
    assert client.most <= 24
