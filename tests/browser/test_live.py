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


def looks(tab: Tab) -> int:
    return sum(url.endswith("/metrics") for url in tab.asked)


def test_it_asks_nothing_while_it_is_paused(tab: Tab) -> None:
    page = tab.page
    page.clock.install()
    tab.open("#/live")
    expect(page.locator(".tile").first.locator("dd")).to_have_text("0 /s")
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    asked = looks(tab)
    page.clock.run_for(10_000)
    # Asked and answered after it.
    page.evaluate("async () => { await (await fetch('server.json')).json(); }")
    assert looks(tab) == asked
    with page.expect_response("**/metrics"):
        pause.click()


def test_what_happened_while_nobody_looked_is_no_rate_of_now(tab: Tab) -> None:
    page = tab.page
    page.clock.install()
    tab.open("#/live")
    images = page.locator(".tile").first.locator("dd")
    expect(images).to_have_text("0 /s")
    classify(tab, 3)
    page.clock.pause_at(page.evaluate("() => Date.now()") + 60_000)
    expect(images).to_have_text("– /s")
    expect(page.locator(".tile", has_text="Queue").locator("dd")).to_have_text("0 images")


def test_trouble_that_lasts_is_told_once_and_goes(tab: Tab) -> None:
    page = tab.open("#/live")
    expect(page.locator(".tile").first.locator("dd")).to_have_text("0 /s")
    page.route("**/metrics", lambda route: route.abort())
    again = page.get_by_role("button", name="Try again")
    again.focus()
    for _ in range(2):
        with page.expect_event("requestfailed"):
            pass
    expect(again).to_be_focused()
    page.unroute("**/metrics")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_model_in_the_table_leads_to_its_page(tab: Tab) -> None:
    page = tab.open("#/live")
    page.get_by_role("link", name="fashion-detector").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-detector version 1")
