"""The page's modules that only compute, held against the libraries that everybody knows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, Page
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pycocotools import mask as coco
from tests.server_process import ServerProcess


@pytest.fixture(scope="module")
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(f"{server.http_url}/ui/")
    yield opened
    context.close()


def call(page: Page, module: str, expression: str, *given: Any) -> Any:
    """What an expression of a module's names, and of `given`, comes to."""
    names = f"const {{ {', '.join(_NAMES[module])} }} = await import('./{module}.js');"
    return page.evaluate(f"async (given) => {{ {names} return {expression}; }}", list(given))


_NAMES = {
    "pixels": ("runsOf", "paintRuns", "classColour", "bytesOf", "packed"),
    "exposition": ("parse", "sum", "growth", "counted", "quantile", "reading", "thinned"),
    "timing": ("stages",),
    "samples": ("LANGUAGES",),
    "chart": ("ceiling",),
    "words": ("percent",),
}


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 48), (300, 200)])
def test_masks_are_those_of_pycocotools(shape: tuple[int, int], page: Page) -> None:
    mask: npt.NDArray[np.uint8] = np.random.default_rng(shape[0]).integers(0, 2, shape, dtype=np.uint8)
    # Some runs are long.
    mask[shape[0] // 3 :, shape[1] // 2 :] = 1
    counts = coco.encode(np.asfortranarray(mask))["counts"].decode()
    height, width = shape
    painted = call(
        page,
        "pixels",
        """(() => {
            const pixels = new Uint32Array(given[1] * given[2]);
            const size = { width: given[1], height: given[2] };
            paintRuns(pixels, size, runsOf(given[0]), size, packed([1, 2, 3, 255]));
            return Array.from(new Uint8Array(pixels.buffer).filter((_, at) => at % 4 === 3));
        })()""",
        counts,
        width,
        height,
    )
    np.testing.assert_array_equal(np.reshape(painted, shape) > 0, mask > 0)


def test_a_mask_that_is_drawn_smaller_has_the_pixels_in_the_middle_of_each(page: Page) -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[100:300, 200:500] = 1
    counts = coco.encode(np.asfortranarray(mask))["counts"].decode()
    painted = call(
        page,
        "pixels",
        """(() => {
            const pixels = new Uint32Array(60 * 40);
            const colour = packed([1, 2, 3, 255]);
            paintRuns(pixels, { width: 60, height: 40 }, runsOf(given[0]), { width: 600, height: 400 }, colour);
            return Array.from(new Uint8Array(pixels.buffer).filter((_, at) => at % 4 === 3));
        })()""",
        counts,
    )
    np.testing.assert_array_equal(np.reshape(painted, (40, 60)) > 0, mask[5::10, 5::10] > 0)


def test_dark_text_can_be_read_on_every_class_and_the_first_dozen_differ(page: Page) -> None:
    colours = np.array(call(page, "pixels", "Array.from({ length: 300 }, (_, id) => classColour(id))")) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    # Source: WCAG 2.2, relative luminance; the text's is that of #101010.
    contrast = (linear @ [0.2126, 0.7152, 0.0722] + 0.05) / (0.0052 + 0.05)
    assert contrast.min() >= 4.5
    first = colours[:12]
    apart = np.abs(first[:, None] - first[None]).sum(axis=2) + 9 * np.eye(12)
    assert apart.min() > 0.2


def test_metrics_are_read_as_they_were_written(page: Page) -> None:
    registry = CollectorRegistry()
    label = 'a "quoted" \\ name,\nof {two} lines'
    Counter("retinue_images", "Things.", ["label"], registry=registry).labels(label).inc(2.5)
    text = generate_latest(registry).decode()
    told = call(page, "exposition", "[...parse(given[0]).get('retinue_images_total').values()]", text)
    assert told == [{"labels": {"label": label}, "value": 2.5}]


def test_quantiles_are_those_of_prometheus(page: Page) -> None:
    registry = CollectorRegistry()
    histogram = Histogram(
        "retinue_request_duration_seconds", "Seconds.", buckets=(1, 2, 4), registry=registry
    )
    before = generate_latest(registry).decode()
    for value in (0.5, 1.5, 1.5, 3.0):
        histogram.observe(value)
    after = generate_latest(registry).decode()
    quantiles = call(
        page,
        "exposition",
        "[0.25, 0.5, 0.75, 1].map((share) =>"
        " quantile(counted(parse(given[0]), parse(given[1]), 'retinue_request_duration_seconds'), share))",
        before,
        after,
    )
    # histogram_quantile: in proportion within a bucket.
    assert quantiles == pytest.approx([1.0, 1.5, 2.0, 4.0])
    assert (
        call(
            page,
            "exposition",
            "quantile(counted(parse(given[0]), parse(given[0]), 'retinue_request_duration_seconds'), 0.5)",
            after,
        )
        is None
    )


def test_a_counter_that_began_anew_has_grown_by_what_it_says(page: Page) -> None:
    looks = ["retinue_images_total 10\n", "retinue_images_total 14\n", "retinue_images_total 3\n"]
    grown = "growth(parse(given[0]), parse(given[1]), 'retinue_images_total')"
    assert call(page, "exposition", grown, looks[0], looks[1]) == 4
    assert call(page, "exposition", grown, looks[1], looks[2]) == 3


def test_a_model_that_is_unloaded_is_no_burst_of_what_the_others_ever_did(page: Page) -> None:
    both = 'retinue_images_total{model="one"} 1000\nretinue_images_total{model="other"} 50\n'
    one = 'retinue_images_total{model="one"} 1002\n'
    grown = "growth(parse(given[0]), parse(given[1]), 'retinue_images_total')"
    assert call(page, "exposition", grown, both, one) == 2
    assert call(page, "exposition", grown, one, both.replace("1000", "1003")) == 51
    # One of them began anew, and it alone.
    assert call(page, "exposition", grown, both, both.replace("50", "7").replace("1000", "1001")) == 8


def test_a_histogram_that_is_gone_or_began_anew_takes_nothing_from_the_others(page: Page) -> None:
    registry = CollectorRegistry()
    histogram = Histogram(
        "retinue_request_duration_seconds", "Seconds.", ["model"], buckets=(1, 2), registry=registry
    )
    for _ in range(9):
        histogram.labels("gone").observe(0.5)
        histogram.labels("anew").observe(1.5)
    histogram.labels("stays").observe(0.5)
    before = generate_latest(registry).decode()
    histogram.remove("gone")
    histogram.remove("anew")
    histogram.labels("anew").observe(1.5)
    histogram.labels("stays").observe(0.5)
    after = generate_latest(registry).decode()
    expression = "counted(parse(given[0]), parse(given[1]), 'retinue_request_duration_seconds')"
    assert [count for _, count in call(page, "exposition", expression, before, after)] == [1, 1, 0]


def test_nothing_is_kept_that_is_not_read_and_little_that_is_old(page: Page) -> None:
    text = (
        'retinue_other_total{model="a"} 1\nprocess_start_time_seconds 2\nretinue_queue_images{model="a"} 3\n'
    )
    assert call(page, "exposition", "[...parse(given[0]).keys()]", text) == ["retinue_queue_images"]
    looks = "Array.from({ length: 150 }, (_, index) => ({ at: index * 2000 }))"
    told = call(page, "exposition", f"thinned({looks}, 286_000, 20_000).map(({{ at }}) => at / 1000)")
    assert told == [*range(0, 281, 20), *range(286, 299, 2)]


def test_the_parts_of_a_request_are_all_of_what_the_browser_waited(page: Page) -> None:
    timing = {
        "decode_us": 2000,
        "queue_us": 500,
        "inference_us": 4000,
        "postprocess_us": 500,
        "total_us": 8000,
    }
    told = call(page, "timing", "stages(given[0], 10)", timing)
    assert [ms for _, ms in told] == [2, 0.5, 4, 0.5, 1, 2]


def test_axes_end_at_round_numbers(page: Page) -> None:
    told = call(page, "chart", "[0.004, 1, 1.1, 4.9, 51, 0].map(ceiling)")
    assert told[:5] == pytest.approx([0.005, 1, 2, 5, 100])


def test_code_for_a_guarded_server_brings_a_token_and_encrypts(page: Page) -> None:
    asked = {
        "task": "classify",
        "model": "cats",
        "version": "canary",
        "options": {"top_k": 3, "heatmap": True},
        "file": "-rf.jpg",
        "origin": "https://vision.example:8443",
        "facts": {"grpc_port": 9001, "encrypted": True, "tokens": True},
    }
    told = {
        name: call(page, "samples", f"LANGUAGES.{name}(given[0])", asked)
        for name in ("Python", "TypeScript", "curl", "grpcurl")
    }
    assert 'with Client("vision.example:9001", tls=Tls()) as client:' in told["Python"]
    assert 'version="canary"' in told["Python"]
    assert "heatmap=True" in told["Python"]
    assert 'new Client("vision.example:9001", { tls: {} })' in told["TypeScript"]
    assert "topK: 3" in told["TypeScript"]
    assert (
        "https://vision.example:8443/v1/models/cats/versions/canary:classify?top_k=3&heatmap=true"
        in told["curl"]
    )
    assert "-plaintext" not in told["grpcurl"]
    assert "base64 -w0 ./-rf.jpg" in told["grpcurl"]
    for name in ("curl", "grpcurl"):
        assert "Bearer $RETINUE_TOKEN" in told[name]


def test_code_for_a_server_that_wants_to_see_a_certificate_shows_one(page: Page) -> None:
    asked = {
        "task": "classify",
        "model": "cats",
        "version": "",
        "options": {},
        "file": "cat.jpg",
        "origin": "https://vision.example:8443",
        "facts": {"grpc_port": 9001, "encrypted": True, "client_certificates": True, "tokens": False},
    }
    told = call(
        page,
        "samples",
        "Object.fromEntries(Object.entries(LANGUAGES).map(([name, write]) => [name, write(given[0])]))",
        asked,
    )
    assert 'tls=Tls(certificate="client.pem", key="client.key")' in told["Python"]
    assert '{ tls: { certificate: "client.pem", key: "client.key" } }' in told["TypeScript"]
    assert "--cert client.pem --key client.key" in told["curl"]
    assert "-cert client.pem -key client.key" in told["grpcurl"]


def test_what_is_nearly_nothing_or_all_is_not_told_as_that(page: Page) -> None:
    told = call(page, "words", "[0, 0.0001, 0.05, 0.5, 0.99, 0.996, 0.9999, 1].map(percent)")
    assert told == ["0.0 %", "< 0.1 %", "5.0 %", "50 %", "99 %", "99.6 %", "> 99.9 %", "100 %"]
