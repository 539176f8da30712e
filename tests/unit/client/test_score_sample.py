"""The images that a report shows: chosen fairly, whatever befalls the job, and drawn within bounds."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tests.unit.client.score_results import DETECTIONS, SEGMENTATION, classification

from retinue_client import ImageError
from retinue_client._score import picture
from retinue_client._score import sample as score_sample
from retinue_client._score.disk import Disk
from retinue_client._score.sample import RANDOM_IMAGES, SAMPLE, UNSURE_IMAGES, Sample


def png(width=64, height=48, colour=(200, 30, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = png()


def offered(count, seed=0, image=IMAGE, start=0):
    sample = Sample(seed)
    for number in range(start, count):
        sample.offer(f"{number}.jpg", image, classification(("cat", number / count)))
    return sample


def keys(shown):
    return [one.key for one in shown]


def opened(encoded):
    return Image.open(io.BytesIO(encoded), formats=["WEBP"])


def test_every_image_is_as_likely_to_be_shown_as_any_other():
    counts = Counter(key for seed in range(500) for key in keys(offered(60, seed).random))
    expected = 500 * RANDOM_IMAGES / 60
    assert len(counts) == 60
    # Over 4.5 standard deviations of a binomial distribution.
    assert all(abs(count - expected) < 45 for count in counts.values())


def test_the_least_sure_are_shown_the_least_sure_first():
    assert keys(offered(1000).unsure) == [f"{number}.jpg" for number in range(UNSURE_IMAGES)]


def test_images_without_a_score_and_failures_are_not_among_the_least_sure():
    sample = Sample()
    sample.offer("a.jpg", IMAGE, classification())
    sample.offer("b.jpg", IMAGE, SEGMENTATION)
    sample.offer("c.jpg", IMAGE, ImageError("No."))
    assert (sorted(keys(sample.random)), sample.unsure) == (["a.jpg", "b.jpg"], [])


def test_the_order_of_answers_and_rows_made_twice_change_nothing():
    one, other = Sample(), Sample()
    numbers = list(range(300))
    for sample, order in ((one, numbers), (other, [*reversed(numbers), *numbers])):
        for number in order:
            sample.offer(f"{number}.jpg", IMAGE, classification(("cat", number % 7 / 10)))
    assert (keys(one.random), keys(one.unsure)) == (keys(other.random), keys(other.unsure))


def test_a_job_that_goes_on_shows_what_an_uninterrupted_one_does(tmp_path):
    disk = Disk(tmp_path)
    uninterrupted = offered(400)
    uninterrupted.draw_waiting()
    for kill in (150, 300):
        sample = Sample.load(disk)
        for number in range(max(0, kill - 160), kill):
            sample.offer(f"{number}.jpg", IMAGE, classification(("cat", number / 400)))
        sample.save(disk)
    resumed = Sample.load(disk)
    for number in range(300, 400):
        resumed.offer(f"{number}.jpg", IMAGE, classification(("cat", number / 400)))
    resumed.draw_waiting()
    assert resumed.random == uninterrupted.random
    assert resumed.unsure == uninterrupted.unsure


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        json.dumps({"seed": 0, "random": [{}], "unsure": []}).encode(),
        json.dumps(
            {
                "seed": 0,
                "random": [{"key": "a", "draw": 1, "score": 0.5, "says": "cat", "picture": "PGI+"}],
                "unsure": [],
            }
        ).encode(),
    ],
)
def test_a_damaged_file_begins_an_empty_sample(tmp_path, content):
    disk = Disk(tmp_path)
    (tmp_path / SAMPLE).write_bytes(content)
    assert Sample.load(disk).random == []


def test_only_what_is_still_chosen_is_drawn(monkeypatch):
    drawn = []
    draw = score_sample.picture_of
    monkeypatch.setattr(score_sample, "picture_of", lambda *given: drawn.append(given) or draw(*given))
    offered(2000).draw_waiting()
    assert len(drawn) <= RANDOM_IMAGES + UNSURE_IMAGES


@pytest.mark.parametrize("result", [classification(("cat", 0.5)), DETECTIONS, SEGMENTATION])
def test_pictures_show_the_result_and_are_small(result):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    sample = Sample()
    sample.offer("a.png", buffer.getvalue(), result)
    sample.draw_waiting()
    (shown,) = sample.random
    with opened(shown.picture) as image:
        assert image.size == shown.size
        assert max(image.size) <= 960
    assert len(shown.picture) <= 30_000
    assert "cat" in shown.says


def test_a_detectors_picture_has_its_boxes():
    sample = Sample()
    sample.offer("a.png", png(colour=(0, 0, 0)), DETECTIONS)
    sample.draw_waiting()
    with opened(sample.random[0].picture) as image:
        assert len(set(image.resize((40, 30)).get_flattened_data())) > 4


@pytest.mark.parametrize("image", [b"", b"no image", IMAGE[:60], png(1, 20_000)])
def test_images_that_cannot_be_drawn_are_shown_without_a_picture_or_small(image):
    sample = Sample()
    sample.offer("a.png", image, DETECTIONS)
    sample.draw_waiting()
    (shown,) = sample.random
    assert shown.waiting is None
    assert len(shown.picture) <= 30_000


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch):
    monkeypatch.setattr(picture, "_MOST_PIXELS", 1000)
    sample = Sample()
    sample.offer("a.png", IMAGE, DETECTIONS)
    sample.draw_waiting()
    assert sample.random[0].picture == b""


def test_large_images_that_wait_are_drawn_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(score_sample, "_MOST_WAITING_BYTES", 3 * len(IMAGE))
    sample = Sample()
    told = [sample.offer(f"{number}.jpg", IMAGE, DETECTIONS) for number in range(4)]
    assert told == [False, False, False, True]
    sample.draw_waiting()
    assert not sample.offer("5.jpg", IMAGE, DETECTIONS)


def test_hostile_names_are_bounded_and_plain():
    sample = Sample()
    sample.offer("\x1b" + "k" * 100_000, IMAGE, classification(("\x00" + "l" * 100_000, 0.5)))
    (shown,) = sample.random
    assert shown.key.startswith("\\x1b")
    assert len(shown.key) + len(shown.says) < 2000


def test_a_sample_that_has_not_changed_is_not_written_again(tmp_path):
    disk = Disk(tmp_path)
    sample = offered(2000)
    sample.save(disk)
    (tmp_path / SAMPLE).unlink()
    sample.offer("sure.jpg" * 3, IMAGE, ImageError("No."))
    sample.save(disk)
    assert not (tmp_path / SAMPLE).exists()


def test_samples_of_parts_are_merged_to_that_of_the_whole():
    whole, first, second = offered(400), Sample(), Sample()
    for number in range(400):
        part = first if number % 3 else second
        part.offer(f"{number}.jpg", IMAGE, classification(("cat", number / 400)))
    whole.draw_waiting()
    merged = Sample()
    for part in (second, first):
        merged.merge(Sample.from_state(json.loads(json.dumps(part.state()))))
    assert (merged.random, merged.unsure) == (whole.random, whole.unsure)
    with pytest.raises(ValueError, match="seed 1"):
        merged.merge(Sample(1))
