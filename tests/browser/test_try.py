"""Trying a model in a real browser: each task from the image to what is drawn over it."""

import base64
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests import pictures
from tests.browser.conftest import Tab, held
from tests.metrics_page import wait_until
from tests.server_process import ROOT

CAT, SCENE = ROOT / "examples" / "cat.jpg", ROOT / "examples" / "scene.jpg"

# Hands a file over as dropping or pasting does.
_HAND_OVER = """
([selector, kind, name, base64]) => {
    const data = new DataTransfer();
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    data.items.add(new File([bytes], name, { type: "image/png" }));
    const event = kind === "drop"
        ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
    document.querySelector(selector).dispatchEvent(event);
}
"""

# How many pixels of the canvas are not empty.
PAINTED = """
() => {
    const canvas = document.querySelector(".frame canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
    return count / (canvas.width * canvas.height);
}
"""


def result(page: Page) -> str:
    """What the page tells of the answer, once there is one."""
    status = page.locator(".result .status")
    expect(status).to_contain_text("answered")
    return status.inner_text()


def hand_over(page: Page, kind: str, content: bytes, name: str = "given.png") -> None:
    page.evaluate(_HAND_OVER, [".drop", kind, name, base64.b64encode(content).decode()])


def slide(page: Page, label: str, value: float) -> None:
    page.get_by_label(label).fill(str(value))


def test_a_browser_that_asks_for_the_root_tries_a_classifier(tab: Tab) -> None:
    page = tab.open(path="/")
    assert page.url.startswith(f"{tab.address}/ui/")
    page.get_by_role("button", name="Example").click()
    assert result(page).startswith("Egyptian cat, 7")
    expect(page.locator(".classes li")).to_have_count(5)
    expect(page.get_by_text("Inference", exact=False).first).to_be_visible()


def test_the_slider_answers_without_asking_the_server(tab: Tab) -> None:
    page = tab.open("#/try/mobilenet-v2")
    tab.give(CAT)
    result(page)
    asked = len(tab.asked)
    slide(page, "Least score", 0.13)
    expect(page.locator(".classes li")).to_have_count(3)
    slide(page, "Least score", 0.6)
    expect(page.locator(".classes li")).to_have_count(1)
    slide(page, "Least score", 0.99)
    expect(page.locator(".result .status")).to_contain_text("No class has a score of 99 % or more.")
    assert len(tab.asked) == asked


def test_a_heatmap_is_painted_over_what_the_model_looks_at(tab: Tab) -> None:
    page = tab.open("#/try/mobilenet-v2")
    tab.give(CAT)
    result(page)
    assert page.evaluate(PAINTED) == 0
    page.get_by_label("Heatmap").check()
    wait_until(lambda: page.evaluate(PAINTED) > 0.2, "the heatmap")


def test_objects_have_boxes_in_the_image_and_rows_in_a_table(tab: Tab) -> None:
    page = tab.open("#/try/fashion-detector")
    tab.give(SCENE)
    assert result(page).startswith("4 objects with a score of 35 % or more.")
    row = page.get_by_role("row", name="trouser")
    sides = [int(side) for side in row.locator("td").last.inner_text().split(", ")]
    frame, box = page.locator(".frame").bounding_box(), page.locator(".box").first.bounding_box()
    assert frame is not None
    assert box is not None
    # The image has 960 x 720 pixels.
    scale = frame["width"] / 960
    expected = [
        sides[0] * scale,
        sides[1] * scale,
        (sides[2] - sides[0]) * scale,
        (sides[3] - sides[1]) * scale,
    ]
    drawn = [box["x"] - frame["x"], box["y"] - frame["y"], box["width"], box["height"]]
    assert drawn == pytest.approx(expected, abs=2)
    slide(page, "Least score", 0.02)
    wait_until(lambda: page.locator(".box").count() > 4, "more boxes")
    slide(page, "Least score", 0.9)
    expect(page.locator(".result .status")).to_contain_text("with a score of 90 % or more.")
    expect(page.locator(".box")).to_have_count(page.locator("tbody tr").count())


def test_a_classifier_says_more_of_each_object(tab: Tab) -> None:
    page = tab.open("#/try/fashion-detector")
    tab.give(SCENE)
    result(page)
    page.get_by_label("Classifier for each object").select_option("fashion-cnn")
    expect(page.get_by_role("columnheader", name="Classifier")).to_be_visible()


def test_classes_of_pixels_are_painted_and_can_be_left_out(tab: Tab) -> None:
    page = tab.open("#/try/fashion-segmenter")
    tab.give(SCENE)
    assert "dress" in result(page)
    painted = page.evaluate(PAINTED)
    # As the list says, all but the background.
    background = page.locator(".areas li", has_text="background").locator("b").inner_text()
    assert painted == pytest.approx(1 - float(background.removesuffix(" %")) / 100, abs=0.02)
    dress = page.get_by_label("dress")
    dress.focus()
    page.keyboard.press("Space")
    expect(dress).not_to_be_checked()
    expect(dress).to_be_focused()
    assert 0 < page.evaluate(PAINTED) < painted - 0.05


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_may_be_dropped_or_pasted(kind: str, tab: Tab) -> None:
    page = tab.open("#/try/mobilenet-v2")
    hand_over(page, kind, pictures.png(pictures.RED), "a 'red' <b>one</b>.png")
    result(page)
    page.get_by_role("button", name="curl", exact=True).click()
    expect(page.get_by_label("Code", exact=True)).to_contain_text("'@a '\\''red'\\'' <b>one</b>.png'")


def test_the_camera_takes_an_image(tab: Tab) -> None:
    page = tab.open("#/try/mobilenet-v2")
    page.get_by_role("button", name="Camera").click()
    wait_until(lambda: page.evaluate("() => document.querySelector('video').videoWidth > 0"), "the camera")
    page.get_by_role("button", name="Take it").click()
    result(page)


@pytest.fixture
def slow_camera(tab: Tab) -> Tab:
    """A tab whose camera is given once `give` is called; `given` are the streams that it gave."""
    tab.page.add_init_script(
        """
        const own = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        window.given = [];
        window.wanted = 0;
        const allowed = new Promise((resolve) => { window.give = resolve; });
        navigator.mediaDevices.getUserMedia = async (wanted) => {
            window.wanted += 1;
            await allowed;
            const stream = await own(wanted);
            window.given.push(stream);
            return stream;
        };
        """
    )
    return tab


_TRACKS = "() => given.flatMap((stream) => stream.getTracks()).map((track) => track.readyState)"


def test_a_camera_that_comes_when_the_view_is_gone_is_let_go(slow_camera: Tab) -> None:
    page = slow_camera.open("#/try/mobilenet-v2")
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name="fashion-cnn").wait_for()
    page.evaluate("() => give()")
    wait_until(lambda: page.evaluate(_TRACKS) == ["ended"], "the camera to be let go")


def test_a_camera_that_is_asked_for_twice_is_asked_for_once(slow_camera: Tab) -> None:
    page = slow_camera.open("#/try/mobilenet-v2")
    button = page.get_by_role("button", name="Camera")
    button.click()
    button.click()
    page.evaluate("() => give()")
    expect(page.get_by_role("dialog", name="Camera")).to_be_visible()
    assert page.evaluate("() => wanted") == 1
    page.get_by_role("button", name="Close").click()
    assert page.evaluate(_TRACKS) == ["ended"]


def test_an_image_that_the_camera_turned_is_drawn_as_the_server_reads_it(tab: Tab, tmp_path: Path) -> None:
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(pictures.turned_file(pictures.quarters()[0], 6, "JPEG"))
    page = tab.open("#/try/fashion-segmenter")
    tab.give(turned)
    result(page)
    assert page.locator(".frame img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [
        48,
        32,
    ]
    expect(page.locator(".stage .note")).to_be_hidden()


def test_what_the_server_has_against_an_image_is_shown_and_the_next_one_is_answered(
    tab: Tab, tmp_path: Path
) -> None:
    page = tab.open("#/try/mobilenet-v2")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image at all")
    tab.give(broken)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("image")
    expect(alert.locator(".note")).to_have_text("IMAGE_UNDECODABLE")
    tab.give(CAT)
    assert result(page).startswith("Egyptian cat")
    expect(alert).to_have_count(0)


def test_all_of_it_can_be_done_with_the_keyboard(tab: Tab) -> None:
    page = tab.open("#/try/fashion-detector")

    def reach(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"no Tab leads to {selector}")

    reach("nav a[aria-current]")
    reach("select")
    page.keyboard.press("ArrowUp")
    reach(".buttons button:nth-of-type(3)")
    page.keyboard.press("Enter")
    told = result(page)
    reach("input[type=range]")
    page.keyboard.press("End")
    expect(page.locator(".result .status")).not_to_have_text(told)
    reach("section.code button[aria-pressed=false]")
    page.keyboard.press("Space")
    expect(page.get_by_label("Code", exact=True)).to_contain_text("import { Client }")


def test_the_image_is_still_there_after_another_view_and_is_asked_about_once(tab: Tab) -> None:
    page = tab.open("#/try/mobilenet-v2")
    tab.give(CAT)
    result(page)
    asked = len(tab.asked)
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name="fashion-cnn").wait_for()
    page.get_by_role("link", name="Try", exact=True).click()
    assert result(page).startswith("Egyptian cat")
    assert len([url for url in tab.asked[asked:] if ":classify" in url]) == 1


def test_nothing_is_told_of_the_model_before_while_the_next_one_is_asked(tab: Tab) -> None:
    page = tab.open("#/try/fashion-detector")
    tab.give(SCENE)
    result(page)
    timing = page.get_by_role("region", name="Timing")
    expect(timing).to_be_visible()
    held(page, "**/*:segment?*")
    page.get_by_role("combobox", name="Model", exact=True).select_option("fashion-segmenter")
    expect(page.locator(".result .status")).to_have_text("Asking…")
    expect(page.locator(".result table")).to_have_count(0)
    expect(page.locator(".box")).to_have_count(0)
    expect(timing).to_be_hidden()


def test_a_view_that_is_left_before_the_models_are_known_does_nothing_more(tab: Tab) -> None:
    tab.page.add_init_script(
        """
        window.shown = new Set();
        const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
        URL.createObjectURL = (file) => { const made = make(file); shown.add(made); return made; };
        URL.revokeObjectURL = (made) => { revoke(made); shown.delete(made); };
        """
    )
    page = tab.open("#/try/mobilenet-v2")
    tab.give(CAT)
    result(page)
    page.get_by_role("link", name="Live", exact=True).click()
    page.locator(".tile").first.wait_for()
    routes = held(page, "**/v1/models")
    page.get_by_role("link", name="Try", exact=True).click()
    wait_until(lambda: page.evaluate("() => 1") == len(routes), "the models to be asked for")
    asked = len(tab.asked)
    page.get_by_role("link", name="Live", exact=True).click()
    page.locator(".tile").first.wait_for()
    with page.expect_response("**/v1/models"):
        routes[0].continue_()
    # Asked and answered after it.
    page.evaluate("async () => { await (await fetch('server.json')).json(); }")
    assert page.url.endswith("#/live")
    assert not any(":classify" in url for url in tab.asked[asked:])
    assert page.evaluate("() => shown.size") == 0


def test_an_example_that_is_slow_does_not_replace_a_later_image(tab: Tab) -> None:
    page = tab.open("#/try/mobilenet-v2")
    code = page.get_by_label("Code", exact=True)
    expect(code).to_be_visible()
    routes = held(page, "**/ui/cat.jpg")
    page.get_by_role("button", name="Example").click()
    wait_until(lambda: page.evaluate("() => 1") == len(routes), "the example to be asked for")
    tab.give(SCENE)
    result(page)
    with page.expect_response("**/ui/cat.jpg"):
        routes[0].continue_()
    page.evaluate("async () => { await (await fetch('server.json')).json(); }")
    expect(page.locator(".result .status")).to_contain_text("answered")
    expect(code).to_contain_text("scene.jpg")


def test_of_two_images_the_second_is_shown_and_answered(tab: Tab, tmp_path: Path) -> None:
    page = tab.open("#/try/fashion-segmenter")
    wide = tmp_path / "wide.png"
    wide.write_bytes(pictures.png(pictures.RED, 2000, 1000))
    expect(page.get_by_label("Code", exact=True)).to_be_visible()
    tab.give(SCENE)
    tab.give(wide)
    result(page)
    assert page.locator(".frame img").evaluate("image => image.naturalWidth") == 2000
    expect(page.locator(".frame img")).to_be_visible()
    expect(page.locator(".stage .note")).to_be_hidden()
