"""Streams at simulated providers, through what goes wrong there, and on along their route."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.provider_streams import assert_exact, play, read_failures

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

PALABRA: Final = """
segment_ms = 1000
faults = [
  {kind = "reset", session = 1, after_ms = 1500},
  {kind = "refuse", session = 2, status = 503},
  {kind = "close", session = 3, after_ms = 1500, code = 1011},
  {kind = "refuse", session = 4, status = 409, retry_after_s = 1},
  {kind = "half_open", session = 5, after_ms = 1500},
  {kind = "garbage", session = 6, after_ms = 1500},
  {kind = "duplicate_final"},
  {kind = "tail_rewrite"},
]
"""
KOTOBA: Final = """
segment_ms = 1000
faults = [
  {kind = "reset", session = 1, after_ms = 1500},
  {kind = "string_error", session = 2, after_ms = 1500},
  {kind = "refuse", session = 3, status = 429, retry_after_s = 1},
  {kind = "close", session = 4, after_ms = 1500, code = 1011},
  {kind = "rate_limit_error", session = 5},
  {kind = "garbage", session = 6, after_ms = 1500},
  {kind = "duplicate_final"},
]
"""


def test_case_09_streams_stay_exact_through_every_fault_of_their_providers(tmp_path: Path) -> None:
    """Each session ends in another way; the next one goes on where finals end (cases 09, 10, 13).

    Times begin at zero in every session, and audio that is sent again is not said twice. Kotoba's
    empty deltas come all the time (case 19), and every final twice.
    """
    n_frames = 600
    hellos = ({"providers": ["palabra"]}, {"providers": ["kotoba"], "language": "ja"})
    streams = play(tmp_path, {"palabra": PALABRA, "kotoba": KOTOBA}, *hellos, n_frames=n_frames)

    for received, provider in zip(streams, ("palabra", "kotoba"), strict=True):
        assert_exact(received, n_frames)
        assert {final.provider for final in received.finals} == {provider}
    assert read_failures(tmp_path, "palabra") == [
        "connection_lost",
        "http_503",
        "closed_1011",
        "http_409",
        "connection_lost",
        "bad_message",
    ]
    assert read_failures(tmp_path, "kotoba") == [
        "connection_lost",
        "rate_limit_error",
        "http_429",
        "closed_1011",
        "rate_limit_error",
        "bad_message",
    ]


def test_a_stream_moves_from_kotoba_to_palabra_and_on(tmp_path: Path) -> None:
    """When each fails, another one goes on; ids and times are those of one stream.

    Kotoba, which had no room before, comes first again when Palabra has ended its session.
    """
    kotoba = """
    segment_ms = 1000
    faults = [
      {kind = "reset", session = 1, after_ms = 2500},
      {kind = "rate_limit_error", session = 2},
      {kind = "refuse", session = 3, status = 400},
    ]
    """
    palabra = """
    segment_ms = 1000
    faults = [
      {kind = "close", session = 1, after_ms = 2500, code = 1008},
    ]
    """
    n_frames = 400
    hello = {"providers": ["kotoba", "palabra", "echo"], "language": "ja"}
    (received,) = play(tmp_path, {"kotoba": kotoba, "palabra": palabra}, hello, n_frames=n_frames)

    assert_exact(received, n_frames)
    providers = [final.provider for final in received.finals]
    assert list(dict.fromkeys(providers)) == ["kotoba", "palabra", "echo"]
    assert read_failures(tmp_path) == [
        "connection_lost",
        "rate_limit_error",
        "closed_1008",
        "http_400",
    ]
