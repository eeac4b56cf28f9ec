"""A stream whose provider was away catches up over its silence, and every time stays right."""

from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import StreamLag
from speechbus_transcriber.lag_watch import BEHIND_S
from tests.support.conversation import build_conversation, check_conversation, sounds
from tests.support.frame_numbers import FRAME_MS, Tiling
from tests.support.metrics import Samples, scrape
from tests.support.provider_streams import EXACT, play, read_log

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

FALLEN_BEHIND: Final = "stream is behind"
CAUGHT_UP: Final = "stream has caught up"
REFUSALS: Final = [
    f'{{kind = "refuse", session = {number}, status = 503}}' for number in range(1, 11)
]
OUTAGE: Final = f"segment_ms = 1000\nfaults = [{', '.join(REFUSALS)}]\n"
"""Sessions and handshakes alike."""
LONG_OUTAGE: Final = """
segment_ms = 1000
faults = [
  {kind = "refuse", session = 1, status = 503},
  {kind = "refuse", session = 2, status = 503},
  {kind = "refuse", session = 3, status = 429, retry_after_s = 6},
]
"""


def test_what_sounds_is_heard_once_and_where_it_was_however_much_silence_is_left_out(
    tmp_path: Path,
) -> None:
    """The provider takes real time only, and was away for the first 5 s."""
    n_frames = 825
    (received,) = play(
        tmp_path,
        {"palabra": OUTAGE},
        {"providers": ["palabra"], "skip_silence": True},
        n_frames=n_frames,
        build=build_conversation,
    )

    assert check_conversation(received.finals, n_frames) == EXACT
    assert received.gaps == []
    assert received.closed is not None
    assert received.closed.audio_ms == n_frames * FRAME_MS
    for final in received.finals:
        # The echo makes a final of each second that it hears, whatever was left out of it.
        within = range(final.start_ms // FRAME_MS + 1, final.end_ms // FRAME_MS + 1)
        assert sum(map(sounds, within)) <= 1_000 // FRAME_MS
    first, *_, last = [event for event in received.events if isinstance(event, StreamLag)]
    assert first.waiting_ms >= BEHIND_S * 1000
    assert last.waiting_ms == 0
    logged = [line["event"] for line in read_log(tmp_path, FALLEN_BEHIND, CAUGHT_UP)]
    assert logged == [FALLEN_BEHIND, CAUGHT_UP] * (len(logged) // 2) != []
    # Long before the end, behind which nothing more would wait in any case.
    assert received.events.index(last) < received.events.index(received.finals[-1])


def test_a_stream_too_far_behind_jumps_and_names_what_it_left_out(tmp_path: Path) -> None:
    """By a setting, for those who need the present more than the whole."""
    n_frames = 450
    measured: list[Samples] = []
    (received,) = play(
        tmp_path,
        {"palabra": LONG_OUTAGE},
        {"providers": ["palabra"]},
        n_frames=n_frames,
        environment={"SPEECHBUS_TRANSCRIBER_LAG_MAX_S": "5"},
        look=lambda system: measured.append(scrape(system.transcribers[0].url)),
    )

    (gap,) = received.gaps
    assert gap.reason == "lag"
    left_out = range(gap.from_ms // FRAME_MS + 1, gap.to_ms // FRAME_MS + 1)
    tiling = received.check_tiling(n_frames)
    assert len(left_out) > 0
    assert tiling == Tiling(missing=len(left_out), doubled=0, time_error_ms_max=0, is_ordered=True)
    assert not any(
        final.start_ms < gap.to_ms and final.end_ms > gap.from_ms for final in received.finals
    )
    (samples,) = measured
    failed = "speechbus_transcriber_sessions_failed_total"
    told = {
        name: samples[f"speechbus_transcriber_{name}"]
        for name in (
            'claims_total{reason="opened"}',
            'gap_duration_seconds_total{reason="lag"}',
            "writes_fenced_total",
        )
    }
    assert told == {
        'claims_total{reason="opened"}': 1,
        'gap_duration_seconds_total{reason="lag"}': (gap.to_ms - gap.from_ms) / 1000,
        "writes_fenced_total": 0,
    }
    assert samples[failed + '{error_type="unavailable",provider="palabra"}'] == 2
    assert samples[failed + '{error_type="rate_limited",provider="palabra"}'] == 1
    assert samples['speechbus_transcriber_sessions_opened_total{provider="palabra"}'] == 2
    lag = "speechbus_transcriber_stream_lag_seconds"
    assert samples[f"{lag}_count"] > samples[lag + '_bucket{le="5.0"}'] > 0
