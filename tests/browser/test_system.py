"""The page on the real system: what is spoken into a door is read in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support.speaker import speaking
from tests.support.system import System

pytestmark = pytest.mark.nats


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """Run NATS, a transcriber with the echo provider, and ingest."""
    with System(tmp_path) as running:
        yield running


def test_what_is_spoken_appears_while_it_is_spoken(browser: Browser, system: System) -> None:
    """The whole way: from the samples of a client to text on a page that was open before."""
    context = browser.new_context(base_url=system.ingest.url, locale="en-GB")
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(error.message))
    partials, finals = page.locator("#partials .text"), page.locator("#log .final .text")
    page.goto(f"/?token={system.key}")
    expect(page.get_by_role("heading", name="Waiting for a live stream")).to_be_visible()

    with speaking(system.ingest_port, system.key, language="en") as speaker:
        expect(page.locator("#live-streams .stream-id")).to_have_text([speaker.stream_id])
        expect(page.locator("#transcript-heading")).to_have_text(speaker.stream_id)
        expect(page.locator("#hint")).to_contain_text("Listening")
        speaker.speak(25)
        expect(partials).to_have_text(["1-25"])
        row = page.locator("#partials .segment").element_handle()
        speaker.speak(25)
        expect(partials).to_have_text(["1-50"])
        assert row.evaluate("row => row.isConnected")
        speaker.speak(100)
        expect(finals).to_have_text(["1-150"])
        speaker.speak(130)
        speaker.end()

    expect(finals).to_have_text(["1-150", "151-280"])
    expect(partials).to_have_count(0)
    expect(page.locator("#log time")).to_have_text(["0:00.0", "0:03.0"])
    expect(page.locator(".ending")).to_have_text(
        re.compile(r"^Stream ended: the sender finished\. 0:05\.6 of audio, 2 segments\.$")
    )
    expect(page.locator("#ended-streams .stream-id")).to_have_text([speaker.stream_id])
    expect(page.locator("#connection")).to_have_text("Connected")
    context.close()
    assert problems == []
