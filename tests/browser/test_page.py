"""The page's own rules: what it shows, in which order, and who can use it."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.stand_in import LIST_FEED, Event, StandIn, encode_event

OPENED_AT = 1_795_000_000_000


def partial(index: int, revision: int, text: str, *, epoch: int = 1) -> Event:
    """Build a partial of stream `talk`; segments start 2 s apart."""
    return {**final(index, text, revision=revision, epoch=epoch), "type": "segment.partial"}


def final(
    index: int, text: str, *, revision: int = 9, epoch: int = 1, language: str | None = "en"
) -> Event:
    """Build a final of stream `talk`; segments start 2 s apart."""
    return {
        "type": "segment.final",
        "transcription_id": f"talk-{index}",
        "index": index,
        "revision": revision,
        "epoch": epoch,
        "language": language,
        "text": text,
        "start_ms": index * 2_000,
        "end_ms": index * 2_000 + 1_500,
        "words": None,
    }


def translation(index: int, language: str, text: str, *, revision: int = 9) -> Event:
    """Build a translation of a segment of stream `talk`."""
    return {
        "type": "translation.final",
        "transcription_id": f"talk-{index}",
        "language": language,
        "text": text,
        "revision": revision,
    }


def missing(index: int, language: str, reason: str) -> Event:
    """Build the word that there is no translation of a segment of stream `talk`."""
    return {
        **translation(index, language, ""),
        "type": "translation.missing",
        "text": None,
        "reason": reason,
    }


def partial_translation(
    index: int, revision: int, language: str, text: str, *, epoch: int = 1
) -> Event:
    """Build a translation of a partial of stream `talk`."""
    return {
        **translation(index, language, text, revision=revision),
        "type": "translation.partial",
        "epoch": epoch,
    }


def finals(page: Page) -> Locator:
    """Find the text of the finals, in the order shown."""
    return page.locator("#log .final .text")


def partials(page: Page) -> Locator:
    """Find the text of what is not final yet."""
    return page.locator("#partials .text")


@pytest.fixture
def talk(page: Page, stand_in: StandIn) -> StandIn:
    """Show the live stream `talk`, of which nothing was recognized yet."""
    stand_in.open_stream("talk", opened_at=OPENED_AT)
    page.goto("/")
    expect(page.locator("#hint")).to_contain_text("Listening")
    return stand_in


def test_a_partial_is_replaced_in_place(page: Page, talk: StandIn) -> None:
    """A growing sentence that jumps or repeats cannot be read."""
    talk.emit("talk", partial(0, 0, "good"))
    expect(partials(page)).to_have_text(["good"])
    row = page.locator("#partials .segment").element_handle()
    talk.emit("talk", partial(0, 1, "good morning"))

    expect(partials(page)).to_have_text(["good morning"])
    assert row.evaluate("row => row.isConnected && row.querySelector('.text').textContent") == (
        "good morning"
    )


def test_a_final_takes_the_place_of_its_partial_for_good(page: Page, talk: StandIn) -> None:
    """Partials travel apart from finals, so the last ones may come late."""
    talk.emit("talk", partial(0, 3, "good mor"))
    talk.emit("talk", final(0, "Good morning.", revision=4))
    talk.emit("talk", partial(0, 3, "good mor"), partial(0, 5, "good more"))
    talk.emit("talk", final(0, "Older.", revision=2), final(1, "Next."))

    expect(finals(page)).to_have_text(["Good morning.", "Next."])
    expect(partials(page)).to_have_count(0)


def test_a_correction_replaces_its_final_in_place(page: Page, talk: StandIn) -> None:
    """A final of a higher revision is the provider's or an editor's better knowledge."""
    talk.emit("talk", final(0, "Good mourning.", revision=4), final(1, "Next.", revision=2))
    talk.emit("talk", final(0, "Good morning.", revision=5))

    expect(finals(page)).to_have_text(["Good morning.", "Next."])


def test_a_worker_that_lost_the_stream_is_not_heard(page: Page, talk: StandIn) -> None:
    """A frozen worker that thaws speaks for a moment; its words would flicker over the new ones."""
    talk.emit("talk", partial(0, 0, "new", epoch=1))
    talk.emit("talk", {"type": "stream.claimed", "epoch": 2, "provider": "echo"})
    talk.emit("talk", partial(0, 7, "stale", epoch=1), partial(1, 0, "stale too", epoch=1))
    talk.emit("talk", partial(0, 0, "new owner", epoch=2), partial(2, 0, "marker", epoch=2))

    expect(partials(page)).to_have_text(["new owner", "marker"])


def test_a_retracted_segment_leaves_and_stays_away(page: Page, talk: StandIn) -> None:
    """Nothing would ever replace a partial whose segment is withdrawn."""
    talk.emit("talk", partial(0, 0, "noise"), final(1, "Wrong."))
    expect(partials(page)).to_have_text(["noise"])
    for index in (0, 1):
        retracted = {"transcription_id": f"talk-{index}", "index": index, "epoch": 1}
        talk.emit("talk", {"type": "segment.retracted", **retracted})
    talk.emit("talk", partial(0, 1, "noise noise"), final(2, "Marker."))

    expect(finals(page)).to_have_text(["Marker."])
    expect(partials(page)).to_have_count(0)


def test_a_reconnect_repeats_nothing_and_misses_nothing(page: Page, talk: StandIn) -> None:
    """The server repeats its snapshot, and what was said meanwhile must be in it."""
    gap = {"type": "gap", "from_ms": 3_000, "to_ms": 3_900, "reason": "lag"}
    talk.emit("talk", final(0, "One."), gap, translation(0, "es", "Uno."), final(2, "Three."))
    expect(finals(page)).to_have_text(["One.", "Three."])
    talk.drop("talk")
    talk.emit("talk", final(1, "Two."), final(3, "Four."))

    expect(finals(page)).to_have_text(["One.", "Two.", "Three.", "Four."])
    expect(page.locator(".gap")).to_have_count(1)
    expect(page.locator(".translation")).to_have_count(1)
    expect(page.get_by_role("status").first).to_have_text("Connected")


def test_a_translation_finds_its_segment_in_any_order(page: Page, talk: StandIn) -> None:
    """Translations are published by others than finals and may overtake them."""
    talk.emit("talk", translation(0, "es", "Uno."), final(0, "One."), translation(0, "de", "Eins."))

    row = page.locator("#log .final")
    expect(row.locator(".translation [lang=es]")).to_have_text("Uno.")
    expect(row.locator(".translation [lang=de]")).to_have_text("Eins.")
    expect(row.locator(".translation .badge")).to_have_text(["Spanish", "German"])


def test_a_translation_that_is_missing_says_why_and_may_still_come(
    page: Page, talk: StandIn
) -> None:
    """Else readers wait for what nobody makes."""
    talk.emit("talk", final(0, "One."), missing(0, "ja", "no_engine"))
    talk.emit("talk", missing(0, "es", "undelivered"))
    rows = page.locator("#log .translation")
    expect(rows).to_have_text(
        [
            re.compile("Japanese No translation: no engine for en-ja."),
            re.compile("Spanish No translation: the provider has not delivered it."),
        ]
    )

    talk.emit("talk", translation(0, "es", "Uno."), translation(0, "es", "Una."))
    talk.emit("talk", missing(0, "es", "undelivered"), final(1, "Marker."))
    expect(finals(page)).to_have_text(["One.", "Marker."])
    expect(page.locator("#log .translation [lang=es]")).to_have_text("Uno.")


def test_a_translation_of_a_text_that_was_corrected_is_not_shown(page: Page, talk: StandIn) -> None:
    """It would stand below words that it does not translate."""
    talk.emit("talk", final(0, "Mourning.", revision=9), translation(0, "es", "Duelo."))
    talk.emit("talk", final(0, "Morning.", revision=10), translation(0, "es", "Luto."))
    expect(finals(page)).to_have_text(["Morning."])
    expect(page.locator(".translation")).to_have_count(0)

    talk.emit("talk", translation(0, "es", "Mañana.", revision=10))
    expect(page.locator(".translation [lang=es]")).to_have_text("Mañana.")

    talk.emit("talk", translation(0, "es", "Futuro.", revision=11), final(1, "Marker."))
    expect(finals(page)).to_have_text(["Morning.", "Marker."])
    expect(page.locator(".translation [lang=es]")).to_have_text("Mañana.")
    talk.emit("talk", final(0, "Future.", revision=11))
    expect(page.locator(".translation [lang=es]")).to_have_text("Futuro.")


def test_a_partial_is_shown_with_its_newest_translation(page: Page, talk: StandIn) -> None:
    """Translators work side by side, and their answers may overtake each other."""
    talk.emit("talk", partial(0, 0, "good"), partial_translation(0, 0, "es", "bueno"))
    talk.emit("talk", partial(0, 2, "good morning"))
    talk.emit("talk", partial_translation(0, 2, "es", "buenos días"))
    talk.emit("talk", partial_translation(0, 1, "es", "buenos"), partial(1, 0, "marker"))
    expect(partials(page)).to_have_text(["good morning", "marker"])
    expect(page.locator("#partials .translation [lang=es]")).to_have_text("buenos días")

    talk.emit("talk", final(0, "Good morning."), partial_translation(0, 3, "es", "buenos días a"))
    expect(finals(page)).to_have_text(["Good morning."])
    expect(page.locator(".translation")).to_have_count(0)


def test_times_gaps_and_the_end_are_told(page: Page, talk: StandIn) -> None:
    """Who reads along must know when something was said, and that something is missing."""
    talk.emit("talk", final(33, "Later."), final(1_900, "Much later."), partial(1_901, 0, "cut"))
    talk.emit("talk", {"type": "gap", "from_ms": 70_000, "to_ms": 72_400, "reason": "audio_lost"})
    talk.close_stream("talk", reason="client_gone", audio_ms=3_802_000, finals=2, gap_ms=2_400)

    expect(page.locator("#log time")).to_have_text(["1:06.0", "1:10.0", "1:03:20.0"])
    expect(page.locator(".gap")).to_contain_text("No text for 2.4 s: the audio was lost.")
    expect(page.locator(".ending")).to_have_text(
        "Stream ended: the sender went away. "
        "1:03:22.0 of audio, 2.4 s of it without text, 2 segments."
    )
    expect(partials(page)).to_have_count(0)


def test_a_stream_that_ended_is_not_asked_for_again(page: Page, talk: StandIn) -> None:
    """A page left open over night must not fetch a finished stream a thousand times."""
    page.clock.install()
    talk.close_stream("talk", reason="end", audio_ms=1_000, finals=0, gap_ms=0)
    expect(page.locator(".ending")).to_contain_text("Stream ended")
    with page.expect_event("requestfinished", lambda request: "talk" in request.url):
        talk.drop("talk")
    page.clock.run_for(60_000)

    assert [path for path, _ in talk.requests].count("/v1/streams/talk/events") == 1
    expect(page.locator("#hint")).to_have_text("No speech was recognized in this stream.")


def test_recognized_text_is_never_markup(page: Page, talk: StandIn) -> None:
    """Anyone can say or send anything; it must not run in a reader's browser."""
    hostile = "<img src=x onerror=alert(1)><b>bold</b>"
    talk.emit("talk", final(0, hostile), translation(0, "es", hostile), partial(1, 0, hostile))

    expect(finals(page)).to_have_text([hostile])
    expect(partials(page)).to_have_text([hostile])
    expect(page.locator("main img, main b")).to_have_count(0)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_events_may_be_cut_anywhere(page: Page, talk: StandIn, line_end: str) -> None:
    """Proxies cut and join chunks as they like, also inside a letter or a line end."""
    encoded = encode_event(final(0, "Grüße, 世界"), line_end=line_end)
    encoded += encode_event(final(1, "End."), line_end=line_end) + b": marker"
    talk.send_raw("talk", *(bytes([byte]) for byte in encoded))

    expect(finals(page)).to_have_text(["Grüße, 世界", "End."])


def test_the_newest_live_stream_is_shown_when_none_is_chosen(page: Page, stand_in: StandIn) -> None:
    """Who opens the page during one event wants that event, without a click."""
    stand_in.open_stream("old", opened_at=OPENED_AT)
    stand_in.open_stream("new", opened_at=OPENED_AT + 60_000)
    stand_in.open_stream("over", opened_at=OPENED_AT + 90_000)
    stand_in.close_stream("over", reason="end", audio_ms=0, finals=0, gap_ms=0)
    page.goto("/")

    expect(page.locator("#transcript-heading")).to_have_text("new")
    expect(page.locator("#live-streams .stream-id")).to_have_text(["new", "old"])
    expect(page.locator("#ended-streams .stream-id")).to_have_text(["over"])


def test_an_empty_page_says_what_to_do_and_then_follows(page: Page, stand_in: StandIn) -> None:
    """The first visit is before the first stream."""
    page.goto("/")
    expect(page.get_by_role("heading", name="Waiting for a live stream")).to_be_visible()
    expect(page.locator("main code").first).to_have_text("speechbus transcribe FILE")
    stand_in.open_stream("talk", opened_at=OPENED_AT)

    expect(page.locator("#transcript-heading")).to_have_text("talk")
    expect(page.locator("#live-count")).to_have_text("1")


def test_a_stream_that_ends_keeps_its_button_and_focus(page: Page, talk: StandIn) -> None:
    """Focus that falls to the top of the page loses a keyboard user's place."""
    button = page.get_by_role("button", name=re.compile("talk"))
    button.focus()
    talk.close_stream("talk", reason="end", audio_ms=0, finals=0, gap_ms=0)

    expect(page.locator("#ended-streams .stream")).to_be_focused()
    expect(button).to_contain_text("Ended")


def test_a_stream_that_is_behind_says_so(page: Page, stand_in: StandIn) -> None:
    """Who waits for text wants to know whether it still comes."""
    stand_in.open_stream("talk", opened_at=OPENED_AT)
    page.goto("/")
    facts = page.locator("#stream-facts")
    expect(facts).to_contain_text("transcribed by echo")
    stand_in.emit("talk", {"type": "stream.lag", "epoch": 1, "waiting_ms": 7_400})
    expect(facts).to_contain_text("7 s behind")
    stand_in.emit("talk", {"type": "stream.lag", "epoch": 1, "waiting_ms": 0})

    expect(facts).not_to_contain_text("behind")


def test_a_link_names_the_stream(page: Page, stand_in: StandIn) -> None:
    """A link sent to a colleague shows the same stream, and the way back works."""
    stand_in.open_stream("first", opened_at=OPENED_AT)
    stand_in.open_stream("second", opened_at=OPENED_AT + 1)
    page.goto("/#stream=first")
    expect(page.locator("#transcript-heading")).to_have_text("first")
    page.get_by_role("button", name=re.compile("second")).click()
    expect(page).to_have_url(re.compile("#stream=second$"))
    expect(page.locator("#transcript-heading")).to_have_text("second")
    page.go_back()

    expect(page.locator("#transcript-heading")).to_have_text("first")


def test_a_link_to_an_unknown_stream_says_so(page: Page, stand_in: StandIn) -> None:
    """Links outlive streams; an empty page would look like a broken one."""
    stand_in.open_stream("talk", opened_at=OPENED_AT)
    page.goto("/#stream=gone")

    expect(page.locator("#hint")).to_contain_text("The server has no such stream")
    expect(page.locator("#stream-facts")).to_have_text("")


def test_the_page_works_by_keyboard_alone(page: Page, stand_in: StandIn) -> None:
    """Every control is reached by Tab, in reading order, and says which stream is shown."""
    stand_in.open_stream("first", opened_at=OPENED_AT)
    stand_in.open_stream("second", opened_at=OPENED_AT + 1)
    page.goto("/")
    second, first = page.locator(".stream").first, page.locator(".stream").last
    expect(second).to_have_attribute("aria-current", "true")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the transcript")).to_be_focused()
    page.keyboard.press("Tab")
    expect(second).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#transcript-heading")).to_have_text("first")
    expect(first).to_have_attribute("aria-current", "true")
    expect(page.locator("[aria-current]")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.locator("#permalink")).to_be_focused()
    page.keyboard.press("Tab")

    expect(page.locator("#scroller")).to_be_focused()


def test_the_skip_link_leads_to_the_transcript(page: Page, talk: StandIn) -> None:
    """With hundreds of streams listed, nobody tabs past them; the stream stays selected."""
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(page.locator("#transcript-heading")).to_be_focused()
    expect(page.locator("#transcript-heading")).to_have_text("talk")


def test_finals_are_announced_and_partials_are_not(page: Page, stand_in: StandIn) -> None:
    """Ten partials a second read aloud are noise, and so is the last hour upon arrival."""
    stand_in.open_stream("talk", opened_at=OPENED_AT)
    stand_in.emit("talk", final(0, "Before."))
    page.add_init_script(
        """new MutationObserver((_, observer) => {
             const log = document.querySelector('#log');
             if (!log?.querySelector('.final')) return;
             window.liveDuringSnapshot = log.getAttribute('aria-live');
             observer.disconnect();
           }).observe(document, {childList: true, subtree: true});"""
    )
    page.goto("/")
    log = page.get_by_role("log", name="Transcript")
    expect(log).to_contain_text("Before.")
    stand_in.emit("talk", final(1, "After."), partial(2, 0, "coming"))
    expect(partials(page)).to_have_text(["coming"])

    expect(log).to_have_attribute("aria-live", "polite")
    expect(log.locator("#partials")).to_have_count(0)
    expect(page.get_by_role("group", name="Not final yet")).to_have_attribute("aria-live", "off")
    assert page.evaluate("liveDuringSnapshot") == "off"


def test_landmarks_and_languages_are_marked(page: Page, talk: StandIn) -> None:
    """Readers jump by landmark, and a voice must know which language it speaks."""
    talk.emit("talk", final(0, "Guten Tag.", language="de"), final(1, "???", language=None))
    expect(finals(page)).to_have_count(2)

    for role in ("banner", "main", "navigation"):
        expect(page.get_by_role(role)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_text("Speechbus")
    expect(page.get_by_role("heading", level=2)).to_have_text([re.compile("Live streams"), "talk"])
    assert finals(page).evaluate_all("texts => texts.map(text => text.lang)") == ["de", ""]
    expect(page).to_have_title("talk · Speechbus")


def test_a_reader_who_scrolled_up_is_left_in_peace(page: Page, talk: StandIn) -> None:
    """Text that moves while it is read is lost; the way back is one button."""
    talk.emit("talk", *(final(index, f"Sentence {index}.") for index in range(60)))
    expect(finals(page).last).to_be_in_viewport()
    page.locator("#scroller").hover()
    page.mouse.wheel(0, -600)
    jump = page.get_by_role("button", name="Jump to live")
    expect(jump).to_be_visible()
    before = page.locator("#scroller").evaluate("scroller => scroller.scrollTop")
    talk.emit("talk", final(60, "Newest."))
    expect(finals(page)).to_have_count(61)
    assert page.locator("#scroller").evaluate("scroller => scroller.scrollTop") == before
    jump.click()

    expect(finals(page).last).to_be_in_viewport()
    expect(jump).to_be_hidden()
    expect(page.locator("#scroller")).to_be_focused()


def test_old_segments_are_dropped_and_the_page_says_so(page: Page, stand_in: StandIn) -> None:
    """A stream runs for a day; a tab that keeps everything dies before it."""
    stand_in.open_stream("talk", opened_at=OPENED_AT)
    stand_in.emit("talk", *(final(index, f"Sentence {index}.") for index in range(2_010)))
    page.goto("/")
    expect(finals(page).last).to_have_text("Sentence 2009.")
    expect(finals(page)).to_have_count(2_000)
    stand_in.drop("talk")
    stand_in.emit("talk", final(2_010, "After the reconnect."))

    expect(finals(page).last).to_have_text("After the reconnect.")
    expect(finals(page)).to_have_count(2_000)
    expect(finals(page).first).to_have_text("Sentence 11.")
    expect(page.locator("#trimmed")).to_contain_text("this page keeps the newest 2,000")


def test_a_key_is_taken_from_the_address_and_hidden(page: Page, stand_in: StandIn) -> None:
    """A key in the address bar ends in screenshots and bookmarks; a reload must not lose it."""
    stand_in.key = "secret"
    stand_in.open_stream("talk", opened_at=OPENED_AT)
    page.goto("/?token=secret#stream=talk")
    expect(page.locator("#hint")).to_contain_text("Listening")
    expect(page).to_have_url(f"{stand_in.url}/#stream=talk")
    page.reload()
    expect(page.locator("#hint")).to_contain_text("Listening")

    assert {token for _, token in stand_in.requests} == {"secret"}


def test_a_missing_or_wrong_key_is_asked_for(page: Page, stand_in: StandIn) -> None:
    """Who has the key but not the link can still read."""
    stand_in.key = "secret"
    stand_in.open_stream("talk", opened_at=OPENED_AT)
    page.goto("/")
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    expect(page.locator("#connection")).to_have_text("Key needed")
    expect(page.get_by_role("alert")).to_have_text("")
    field.fill("wrong")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The server does not accept this key.")
    expect(field).to_have_value("")
    field.fill("secret")
    field.press("Enter")

    expect(page.locator("#transcript-heading")).to_have_text("talk")
    expect(page.locator("#connection")).to_have_text("Connected")


def test_a_lost_connection_is_shown_until_it_is_back(page: Page, talk: StandIn) -> None:
    """Silence of the page must not look like silence of the speaker."""
    page.clock.install()
    talk.drop(LIST_FEED)
    expect(page.locator("#connection")).to_have_text("Connection lost. Trying again…")
    talk.open_stream("meanwhile", opened_at=OPENED_AT + 1)
    page.clock.run_for(1_000)

    expect(page.locator("#connection")).to_have_text("Connected")
    expect(page.locator("#live-streams .stream-id")).to_have_text(["meanwhile", "talk"])


def test_a_hidden_tab_gives_its_connections_back(page: Page, talk: StandIn) -> None:
    """Browsers open six connections to a server for all tabs; the fourth tab would never load."""
    change = """state => {
        Object.defineProperty(document, 'hidden', {value: state, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(change, arg=True)
    for feed in (LIST_FEED, "talk"):
        talk.wait_for_listeners(feed, 0)
    talk.emit("talk", final(0, "While hidden."))
    page.evaluate(change, arg=False)

    expect(finals(page)).to_have_text(["While hidden."])
    expect(page.locator("#connection")).to_have_text("Connected")


@pytest.mark.parametrize("width_px", [320, 390, 768, 1280])
def test_no_width_needs_sideways_scrolling(page: Page, talk: StandIn, width_px: int) -> None:
    """320 px is a desktop page at 400 % zoom as well as a small phone."""
    page.set_viewport_size({"width": width_px, "height": 640})
    talk.emit("talk", final(0, "Donaudampfschifffahrt" * 20), partial(1, 0, "x" * 300))
    expect(partials(page)).to_be_visible()

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#scroller").evaluate("it => it.scrollWidth <= it.clientWidth")
