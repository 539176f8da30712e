"""A real browser on the page of a real server."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright
from tests import system_packages
from tests.server_process import ServerProcess

CHROMIUM = "/usr/bin/chromium"

_REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
    console.error(`violated: ${event.violatedDirective} by ${event.blockedURI || event.sample}`));
"""


@dataclass
class Tab:
    """A page of a browser, and what it did.

    Attributes:
        page: To be used.
        address: Of the server.
        asked: The addresses of all its requests.
        complaints: What went wrong in it: errors of scripts, and what the content security policy forbade.
    """

    page: Page
    address: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, view: str = "", path: str = "/ui/") -> Page:
        """Shows a view, such as "#/live"."""
        self.page.goto(f"{self.address}{path}{view}")
        self.page.get_by_role("heading", level=1).wait_for()
        return self.page

    def give(self, path: Path) -> None:
        """Chooses an image."""
        self.page.locator("input[type=file]").first.set_input_files(path)


def held(page: Page, address: str) -> list[Route]:
    """Where the next request of that address is held, until it is continued."""
    routes: list[Route] = []
    # Playwright notes what it makes of a handler on it, which a method of a list does not allow.
    page.route(address, lambda route: routes.append(route), times=1)  # noqa: PLW0108
    return routes


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, one a file: while it runs, no test of another kind has an event loop in this process."""
    system_packages.require("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield started
        started.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Opens tabs, each as of another person; when the test is over, nothing was wrong in any of them.

    A tab asks nobody but its server.
    """
    contexts: list[BrowserContext] = []
    tabs: list[Tab] = []

    def made(address: str, **options: object) -> Tab:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(15_000)
        context.add_init_script(_REPORT_VIOLATIONS)
        tab = Tab(context.new_page(), address)
        tab.page.on("request", lambda request: tab.asked.append(request.url))
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.page.on(
            "console",
            lambda message: (
                tab.complaints.append(message.text)
                # A browser reports refusals of the server as errors, and they are what some tests are about.
                if message.type == "error" and "Failed to load resource" not in message.text
                else None
            ),
        )
        tabs.append(tab)
        return tab

    yield made
    for tab in tabs:
        assert tab.complaints == []
        strangers = [url for url in tab.asked if not url.startswith((f"{tab.address}/", "blob:"))]
        assert strangers == []
    for context in contexts:
        context.close()


@pytest.fixture
def tab(open_tab: Callable[..., Tab], server: ServerProcess) -> Tab:
    """A tab for the server on the bundles of this repository."""
    return open_tab(server.http_url)
