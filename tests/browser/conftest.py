"""A browser for the module, and for each test a fresh server and a fresh tab that looks at it."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, expect, sync_playwright

from tests.browser.stand_in import StandIn, running_stand_in

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")

EXPECT_TIMEOUT_MS = 10_000
"""For a browser on a busy machine; a healthy one needs milliseconds."""

SCRIPTED_FAILURES = ("Failed to load resource", "net::ERR_")
"""The browser itself reports refused and lost connections, which some tests ask for."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the Chromium of this machine, or skip."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: install the package `chromium`")
    expect.set_options(timeout=EXPECT_TIMEOUT_MS)
    # Chromium's sandbox refuses to run as root, as in most containers.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=arguments)
        yield started
        started.close()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """Serve the page and a scripted API."""
    with running_stand_in() as server:
        yield server


@pytest.fixture
def page(browser: Browser, stand_in: StandIn) -> Iterator[Page]:
    """Open an empty tab on the stand-in; after the test, no error may be in its console."""
    context = browser.new_context(base_url=stand_in.url, locale="en-GB", timezone_id="UTC")
    tab = context.new_page()
    problems: list[str] = []

    def note_console(message: ConsoleMessage) -> None:
        is_scripted = any(part in message.text for part in SCRIPTED_FAILURES)
        if message.type in ("error", "warning") and not is_scripted:
            problems.append(message.text)

    def note_error(error: Error) -> None:
        problems.append(error.message)

    tab.on("console", note_console)
    tab.on("pageerror", note_error)
    yield tab
    context.close()
    assert problems == []
