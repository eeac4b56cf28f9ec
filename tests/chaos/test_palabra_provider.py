"""Streams at a simulated Palabra, through everything that goes wrong there."""

import wave
from pathlib import Path

import pytest

from speechbus_cli.speech import Recording
from speechbus_contracts import SegmentFinal, TranslationFinal
from tests.support.provider_streams import assert_exact, play, read_failures

pytest_plugins = ["tests.support.speech"]
pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]


def test_a_stream_moves_along_its_route_with_ids_and_times_going_on(tmp_path: Path) -> None:
    """The provider dies for good in the middle of a segment: the next one has the stream."""
    script = """
    segment_ms = 1000
    faults = [
      {kind = "reset", after_ms = 2500, session = 1},
      {kind = "refuse", session = 2, status = 503},
      {kind = "refuse", session = 3, status = 503},
    ]
    """
    n_frames = 300
    (received,) = play(
        tmp_path, {"palabra": script}, {"providers": ["palabra", "echo"]}, n_frames=n_frames
    )

    assert_exact(received, n_frames)
    providers = [final.provider for final in received.finals]
    assert providers[:2] == ["palabra", "palabra"]
    assert providers[2:] == ["echo"] * (len(providers) - 2)
    assert read_failures(tmp_path) == ["connection_lost", "http_503", "http_503"]


@pytest.mark.parametrize("status", [401, 400, 429])
def test_case_12_a_provider_that_refuses_is_passed_over(tmp_path: Path, status: int) -> None:
    """A wrong key, a language it does not have, no room: the route goes on at once."""
    script = f'faults = [{{kind = "refuse", status = {status}}}]'
    (received,) = play(
        tmp_path, {"palabra": script}, {"providers": ["palabra", "echo"]}, n_frames=50
    )

    assert_exact(received, 50)
    assert {final.provider for final in received.finals} == {"echo"}


def test_a_provider_that_answers_pings_and_no_speech_is_left(
    tmp_path: Path, amiable: Recording
) -> None:
    """Half-open behind a proxy: the connection lives, and nobody listens. The rest is said once."""
    with wave.open(str(amiable.path)) as file:
        speech: bytes = file.readframes(file.getnframes()) * 2
    frame_bytes = 640
    n_frames = min(len(speech) // frame_bytes, 300)
    script = """
    mode = "text"
    texts = [{text = "one second", ms = 1000}]
    faults = [{kind = "mute", session = 1, after_ms = 500}]
    """
    (received,) = play(
        tmp_path,
        {"palabra": script},
        {"providers": ["palabra"]},
        n_frames=n_frames,
        build=lambda first, n: speech[(first - 1) * frame_bytes : (first - 1 + n) * frame_bytes],
    )

    assert read_failures(tmp_path) == ["deaf"]
    starts_ms = [final.start_ms for final in received.finals]
    assert starts_ms == list(range(0, n_frames * 20, 1_000))
    assert received.gaps == []


def test_translations_come_with_the_id_of_their_final(tmp_path: Path) -> None:
    """Early, late or missing (cases 02, 03, 05): never with another segment's text."""
    script = """
    segment_ms = 1000
    faults = [
      {kind = "early_translation", language = "es"},
      {kind = "late_translation", language = "de", delay_ms = 1700},
      {kind = "missing_translation", language = "fr"},
    ]
    """
    hello = {"providers": ["palabra"], "language": "en", "target_languages": ["es", "de", "fr"]}
    (received,) = play(tmp_path, {"palabra": script}, hello, n_frames=150)

    assert_exact(received, 150)
    finals = {final.transcription_id: final for final in received.finals}
    translations = [event for event in received.events if isinstance(event, TranslationFinal)]
    assert sorted((t.transcription_id, t.language) for t in translations) == sorted(
        (transcription_id, language) for transcription_id in finals for language in ("de", "es")
    )
    seen: set[str] = set()
    for event in received.events:
        if isinstance(event, SegmentFinal):
            seen.add(event.transcription_id)
        elif isinstance(event, TranslationFinal):
            final = finals[event.transcription_id]
            assert event.transcription_id in seen
            assert event.text == f"[{event.language}] {final.text}"
            assert (event.start_ms, event.end_ms) == (final.start_ms, final.end_ms)
            assert event.source_sequence is not None


def test_client_credentials_mint_a_session_and_delete_it(tmp_path: Path) -> None:
    """The first generation of Palabra's keys (providers.md 3.1)."""
    script = """
    keys = ["another"]
    client_id = "the-id"
    client_secret = "the-secret"
    """
    environment = {
        "PALABRA_API_KEY": "",
        "PALABRA_CLIENT_ID": "the-id",
        "PALABRA_CLIENT_SECRET": "the-secret",
    }
    (received,) = play(
        tmp_path,
        {"palabra": script},
        {"providers": ["palabra"]},
        n_frames=60,
        environment=environment,
    )

    assert_exact(received, 60)
    logs = [path.read_text() for path in (tmp_path / "system").glob("*.log")]
    assert any("stream claimed" in log for log in logs)
    assert not any("the-secret" in log or "token=" in log for log in logs)
