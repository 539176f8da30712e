"""The view of what the server does now."""

import httpx
from playwright.sync_api import expect
from tests.browser.conftest import Tab
from tests.metrics_page import wait_until
from tests.server_process import ROOT

_CAT = (ROOT / "examples" / "cat.jpg").read_bytes()


def classify(tab: Tab, times: int) -> None:
    for _ in range(times):
        httpx.post(f"{tab.address}/v1/models/mobilenet-v2:classify", content=_CAT).raise_for_status()


def test_calls_of_others_are_seen_within_seconds(tab: Tab) -> None:
    page = tab.open("#/live")
    images = page.locator(".tile").first.locator("dd")
    expect(images).to_have_text("– /s")
    expect(images).to_have_text("0 /s")
    classify(tab, 5)
    wait_until(lambda: images.inner_text() not in ("– /s", "0 /s"), "the calls")
    expect(page.locator(".tile", has_text="Median").locator("dd")).to_contain_text("ms")
    row = page.get_by_role("region", name="Versions and their traffic").get_by_role(
        "row", name="mobilenet-v2"
    )
    expect(row).to_contain_text("100 %")
    expect(row.locator("td").nth(6)).to_have_text("1")
    latency = page.get_by_role("img", name="Latency of calls")
    assert "median" in (latency.get_attribute("aria-label") or "")
    assert latency.locator("path").count() == 3


def test_memory_is_told_by_model_as_the_metrics_have_it(tab: Tab) -> None:
    page = tab.open("#/live")
    region = page.get_by_role("region", name="Memory by model")
    expect(region.get_by_role("row")).to_have_count(5)
    told = httpx.get(f"{tab.address}/v1/models/fashion-cnn").json()["execution"]["memory_bytes"]
    expect(region.get_by_role("row", name="fashion-cnn")).to_contain_text(f"{told / 2**20:.1f}")


def test_it_can_be_paused(tab: Tab) -> None:
    page = tab.open("#/live")
    expect(page.locator(".tile").first.locator("dd")).to_have_text("0 /s")
    page.get_by_role("button", name="Pause").click()
    asked = len(tab.asked)
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name="fashion-cnn").wait_for()
    assert not any(url.endswith("/metrics") for url in tab.asked[asked:])


def test_a_model_in_the_table_leads_to_its_page(tab: Tab) -> None:
    page = tab.open("#/live")
    page.get_by_role("link", name="fashion-detector").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-detector version 1")
