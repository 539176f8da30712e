"""The parts of a measurement: pictures, requests, figures, and what the terminal shows of them."""

import io
import itertools

import pytest
from PIL import Image
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import ImageError, InvalidRequestError
from retinue_client._bench import requests as bench_requests
from retinue_client._bench.fleet import Course
from retinue_client._bench.load import ClosedLoop, OpenLoop, Window
from retinue_client._bench.requests import photo, prepare
from retinue_client._bench.result import Row
from retinue_client._bench.tally import Slice
from retinue_client._calls import classify_call, detect_call
from retinue_client._score.latency import Latencies
from retinue_client.cli._bench_screen import BenchScreen, chart_lines, figures_table, remarks, server_table
from retinue_client.cli._console import console_for

START = 1000.0
FILES = [photo(16, 12, seed) for seed in range(5)]


def course(load=ClosedLoop(4), *, seconds=10.0, warm_up=2.0, ended_after=None):  # noqa: B008 (it is frozen)
    window = Window(START, START + warm_up, START + warm_up + seconds, 0.5)
    made = Course(load, window, cpu_seconds=[0.2])
    made.ended_at = window.end if ended_after is None else START + ended_after
    return made


def answered(made, count, seconds, *, every=0.1):
    """So many requests of one image answered in the window, one after the other."""
    tally = made.tally
    for number in range(count):
        tally.requests.sent += 1
        tally.images.sent += 1
        tally.requests.add(1, 0, 0)
        tally.images.add(1, 0, 0)
        tally.in_window += 1
        tally.on_time += 1
        tally.latencies.add(seconds)
        tally.served_seconds += seconds
        part = tally.slice(made.window.slice_at(made.window.counted_from + number * every))
        part.answered += 1
        part.latencies.add(seconds)
    return made


def text_of(renderable, width=100):
    output = io.StringIO()
    console = console_for(output)
    console.width = width
    console.print(renderable)
    return output.getvalue()


class TestPictures:
    def test_a_picture_has_its_size_and_about_as_many_bytes_as_a_photo(self):
        data = photo(500, 375, seed=0)
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (500, 375), "RGB")
        # Photos of this size and quality have 30 to 70 kB.
        assert 25_000 < len(data) < 80_000

    def test_the_same_seed_gives_the_same_picture(self):
        assert photo(64, 48, seed=1) == photo(64, 48, seed=1) != photo(64, 48, seed=2)

    @pytest.mark.parametrize("size", [(1, 1), (1, 300), (2000, 3)])
    def test_any_size_will_do(self, size):
        with Image.open(io.BytesIO(photo(*size, seed=0))) as image:
            assert image.size == size


class TestRequests:
    def test_every_image_is_in_a_request_and_every_request_is_full(self):
        prepared = prepare(classify_call(model="m"), FILES, 3, raw=False, regions=[])
        messages = [pb.ClassifyRequest.FromString(request.body) for request in prepared]
        assert [request.images for request in prepared] == [3, 3]
        sent = [image.encoded for message in messages for image in message.images]
        assert sent == [*FILES, FILES[0]]
        assert {message.model for message in messages} == {"m"}

    def test_raw_images_are_pixels(self):
        (request,) = prepare(classify_call(), FILES[:1], 1, raw=True, regions=[])
        (image,) = pb.ClassifyRequest.FromString(request.body).images
        assert (image.raw.width, image.raw.height, len(image.raw.data)) == (16, 12, 16 * 12 * 3)

    def test_regions_go_with_every_image(self):
        (request,) = prepare(detect_call(), FILES[:2], 2, raw=False, regions=[(1, 2, 3, 4)])
        for image in pb.DetectRequest.FromString(request.body).images:
            assert [(box.x_min, box.y_max) for box in image.regions] == [(1, 4)]

    def test_a_file_that_is_no_image_has_no_pixels(self):
        with pytest.raises(ImageError, match="no image"):
            prepare(classify_call(), [b"bad"], 1, raw=True, regions=[])

    def test_more_than_memory_should_hold_is_refused_with_advice(self, monkeypatch):
        monkeypatch.setattr(bench_requests, "_MOST_BYTES", 10_000)
        with pytest.raises(InvalidRequestError, match="fewer in a request"):
            prepare(classify_call(), FILES, 50, raw=False, regions=[])


class TestLatencies:
    def test_no_percentile_is_longer_than_the_longest(self):
        latencies = Latencies()
        latencies.add(0.123)
        assert latencies.percentile(0.99) == latencies.longest_seconds == 0.123

    def test_what_was_counted_apart_merges(self):
        one, other = Latencies(), Latencies()
        one.add(0.1, count=98)
        other.add(0.4, count=2)
        one.merge(other)
        assert one.count == 100
        assert one.mean() == pytest.approx(0.106)
        assert one.percentile(0.98) == pytest.approx(0.1, rel=0.01)
        assert one.percentile(0.99) == pytest.approx(0.4, rel=0.01)


class TestFigures:
    def test_throughput_is_over_the_time_that_counts(self):
        row = Row(answered(course(), 200, 0.05), drain_seconds=10)
        assert row.images_per_second == row.goodput == 20.0
        assert row.latency_ms["p50"] == pytest.approx(50, rel=0.01)
        assert row.cpu_share == pytest.approx(0.02)
        assert row.warnings() == []

    def test_a_load_that_was_cut_short_is_over_the_time_until_then(self):
        row = Row(answered(course(ended_after=7.0), 100, 0.05), drain_seconds=10)
        assert row.images_per_second == 20.0
        assert row.to_dict()["seconds"] == 5.0

    def test_a_load_that_never_counted_has_no_figures(self):
        row = Row(course(ended_after=1.0), drain_seconds=10)
        figures = row.to_dict()
        assert (
            figures["images_per_second"]
            is figures["latency_ms"]["p99"]
            is figures["client"]["cpu_share"]
            is None
        )

    def test_what_the_server_does_not_account_for_is_outside_of_it(self):
        made = answered(course(), 4, 0.012)
        made.tally.server.images = 4
        made.tally.server.queue_us = 4 * 3000
        made.tally.server.total_us = 4 * 10_000
        made.tally.server.batches = 1.0
        row = Row(made, drain_seconds=10)
        assert row.mean_batch_size == 4
        assert row.stages_ms["queue"] == 3.0
        assert row.stages_ms["outside"] == pytest.approx(2.0)

    def test_a_client_at_its_limit_says_so(self):
        made = answered(course(), 200, 0.05)
        made.cpu_seconds = [1.0, 9.5]
        (warning,) = Row(made, drain_seconds=10).warnings()
        assert "95% of a core" in warning
        assert "--processes" in warning

    def test_late_unsent_and_unfinished_requests_are_told_of(self):
        made = answered(course(OpenLoop(20)), 200, 0.05)
        made.tally.lateness.add(0.5, count=200)
        made.tally.was_full = True
        made.tally.requests.unsent = 7
        made.tally.requests.sent += 3
        late, unsent, unfinished = Row(made, drain_seconds=10).warnings()
        assert "p99 500 ms" in late
        assert "--max-in-flight" in late
        assert unsent.startswith("7 requests")
        assert unfinished.startswith("3 requests had no answer 10 s after its end")

    def test_few_answers_make_no_percentile(self):
        assert "p99 is the slowest" in Row(answered(course(), 99, 0.05), drain_seconds=10).warnings()[0]

    def test_the_timeline_has_every_step_also_those_without_an_answer(self):
        made = course(seconds=2.0, warm_up=0.5)
        made.tally.slices = {0: Slice(answered=2), 3: Slice(answered=5, unanswered=1)}
        timeline = Row(made, drain_seconds=10).to_dict()["timeline"]
        assert [step["at_seconds"] for step in timeline] == [-0.5, 0.0, 0.5, 1.0]
        assert [step["images_per_second"] for step in timeline] == [4.0, 0.0, 0.0, 10.0]
        assert timeline[3]["unanswered_images_per_second"] == 2.0


class TestScreen:
    @pytest.mark.parametrize("width", [60, 100, 200])
    def test_nothing_is_wider_than_the_terminal(self, width):
        made = answered(course(OpenLoop(12345.5)), 500, 0.05, every=0.02)
        made.tally.requests.unsent = made.tally.images.unsent = 123
        row = Row(made, drain_seconds=10)
        console = console_for(io.StringIO())
        console.width = width
        screen = BenchScreen(
            console, "a-model-with-a-long-name v1 at host:8001 (CPU): 1 image", 3, enabled=True
        )
        screen.add(row)
        console.print(screen.frame(made, START + 8))
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert any("(2 of 3)  measuring  6.0 of 10 s" in line for line in lines)

    def test_the_tables_fit_into_60_columns_without_a_figure_cut(self):
        row = Row(answered(course(), 500, 1.2345), drain_seconds=10)
        row.course.tally.images.unsent = 1
        for table in (figures_table([row], 60), server_table([row], 60)):
            shown = text_of(table, 60)
            assert "…" not in shown
        assert "no result" in text_of(figures_table([row], 60))
        assert "unsent" in text_of(figures_table([row], 100))

    def test_the_chart_grows_with_the_time_and_its_bars_with_the_throughput(self):
        made = course(seconds=8.0, warm_up=2.0)
        made.tally.slices = {number: Slice(answered=number + 1) for number in range(20)}
        heights = []
        for now in (START + 5.0, START + 10.0):
            lines = [line.plain[9:] for line in chart_lines(made, now, 9 + 40)]
            lines[0] = lines[0].removesuffix(" images/s")
            widths = [len(line) for line in lines]
            heights.append([sum(line[column] == "█" for line in lines) for column in range(max(widths))])
        half, whole = heights
        assert (len(half), len(whole)) == (20, 40)
        assert all(before <= after for before, after in itertools.pairwise(whole))
        assert whole[-1] == 6 > whole[0]

    def test_a_step_with_failures_is_yellow_and_one_that_warms_up_is_grey(self):
        made = course(seconds=2.0, warm_up=1.0)
        made.tally.slices = {number: Slice(answered=5) for number in range(6)}
        made.tally.slices[4].unanswered = 1
        last = chart_lines(made, START + 3.0, 9 + 6)[-1]
        assert [str(span.style) for span in last.spans][-6:] == ["bright_black"] * 2 + ["cyan"] * 2 + [
            "yellow",
            "cyan",
        ]

    def test_the_numbers_are_those_of_the_last_two_seconds(self):
        made = course(warm_up=0.0)
        for number, seconds in enumerate([9.0] * 4 + [0.02] * 4):
            part = made.tally.slice(number)
            part.answered = 10
            part.latencies.add(seconds, count=10)
        made.in_flight = 3
        console = console_for(io.StringIO())
        console.print(BenchScreen(console, "m", 1, enabled=True).frame(made, START + 4.1))
        assert "20.0 images/s  p50 20.0 ms  p99 20.0 ms  3 in flight" in console.file.getvalue()

    def test_reasons_and_what_servers_call_them_cannot_steer_the_terminal(self):
        made = answered(course(), 200, 0.05)
        made.tally.reasons["\x1b[31mRED"] = 3
        made.tally.messages["\x1b[31mRED"] = "gone\x07"
        (line,) = remarks([Row(made, drain_seconds=10)])
        assert line.plain == "4 at once: 3 × \\x1b[31mRED: gone\\x07"
