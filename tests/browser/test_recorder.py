"""A browser's own recorder at the native door: the WebM that people really send."""

from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser

from tests.support.system import System

pytestmark = pytest.mark.nats

RECORD: Final = """async (url) => {
    const context = new AudioContext();
    await context.resume();
    const tone = new OscillatorNode(context, {frequency: 300});
    const target = new MediaStreamAudioDestinationNode(context, {channelCount: 1});
    tone.connect(target);
    tone.start();
    const socket = new WebSocket(url);
    const messages = [];
    const ended = new Promise((resolve) => { socket.onclose = resolve; });
    await new Promise((resolve) => { socket.onopen = resolve; });
    socket.onmessage = (message) => messages.push(JSON.parse(message.data));
    socket.send(JSON.stringify({type: "hello", format: "webm"}));
    const recorder = new MediaRecorder(target.stream, {mimeType: "audio/webm;codecs=opus"});
    const stopped = new Promise((resolve) => { recorder.onstop = resolve; });
    recorder.ondataavailable = (slice) => socket.send(slice.data);
    recorder.start(100);
    const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    await sleep(700);
    recorder.pause();
    await sleep(1500);
    recorder.resume();
    await sleep(700);
    recorder.stop();
    await stopped;
    socket.send(JSON.stringify({type: "end"}));
    const {code} = await ended;
    await context.close();
    return {messages, code};
}"""


def test_what_a_browser_records_is_heard_to_its_end(browser: Browser, tmp_path: Path) -> None:
    """In slices of 100 ms, paused in between, and with clusters that do not know their size."""
    with System(tmp_path, ingest_settings={"DECODERS_MAX": "1"}) as system:
        context = browser.new_context(base_url=system.ingest.url)
        page = context.new_page()
        page.goto(f"/?token={system.key}")
        page.mouse.click(1, 1)  # audio starts after a gesture only
        url = f"{system.ingest.url.replace('http', 'ws', 1)}/v1/streams?token={system.key}"
        found = page.evaluate(RECORD, url)
        context.close()

    opened, closed = (
        next(m for m in found["messages"] if m["type"] == f"stream.{kind}")
        for kind in ("opened", "closed")
    )
    assert found["code"] == 1000
    assert opened["sample_rate_hz"] == 48_000
    assert closed["reason"] == "end"
    assert 1_000 < closed["audio_ms"] < 2_000
