"""A muted client at a cloud provider: its session lives on, and says nothing."""

from collections.abc import Sequence
from typing import Literal

import pytest

from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.palabra import PalabraStream
from speechbus_simulator.script import parse_script
from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Heard,
    ProviderProtocol,
    Result,
    SessionRequest,
)
from speechbus_transcriber.providers.kotoba import KotobaAccount, KotobaProtocol, KotobaWishes
from speechbus_transcriber.providers.palabra import PalabraProtocol
from speechbus_wire import palabra
from tests.support.frame_numbers import build_frames
from tests.support.palabra_session import RATE_HZ, WITH_KEY

CHUNK_S = 0.1
SILENCE = memoryview(bytes(2 * RATE_HZ // 10))
REQUEST = SessionRequest(sample_rate_hz=RATE_HZ, language="ja")


def _open(
    provider: Literal["palabra", "kotoba"],
) -> tuple[ProviderProtocol, KotobaStream | PalabraStream]:
    script = parse_script(b"", provider=provider)
    if provider == "kotoba":
        account = KotobaAccount(api_key="the-key", url="wss://kotoba.example/v1/realtime")
        adapter = KotobaProtocol(REQUEST, account=account, wishes=KotobaWishes())
        return adapter, KotobaStream(script, session=1, now_s=0.0)
    parameters = palabra.StreamParameters(format=palabra.PCM_S16LE, sample_rate_hz=RATE_HZ)
    server = PalabraStream(script, session=1, parameters=parameters, now_s=0.0)
    return PalabraProtocol(REQUEST, WITH_KEY), server


@pytest.mark.parametrize("provider", ["palabra", "kotoba"])
def test_ten_minutes_of_silence_end_no_session(provider: Literal["palabra", "kotoba"]) -> None:
    """Behind a sentence; what is said afterwards is heard in the same session, at its time."""
    adapter, server = _open(provider)
    now_s = 0.0
    results: list[Result] = []
    is_finishing = False

    def tell(messages: Sequence[str | bytes]) -> None:
        for message in messages:
            server.receive(message, now_s=now_s)
        for action in server.take_due(now_s=now_s):
            if isinstance(action, str):
                tell(adapter.receive_message(action, now_s=now_s))
            else:
                assert is_finishing, "the session has ended"
        results.extend(adapter.results_received())

    adapter.connect_request()
    tell(adapter.messages_to_open())
    sentence = [memoryview(build_frames(first, 5)) for first in range(1, 101, 5)]
    for pcm in (*sentence, *[SILENCE] * 6_000, *sentence, *[SILENCE] * 20):
        now_s += CHUNK_S
        tell(adapter.audio_to_send(pcm, now_s=now_s))
        deadline_s = adapter.next_deadline_s()
        if deadline_s is not None and deadline_s <= now_s:
            tell(adapter.handle_deadline(now_s=now_s))
    is_finishing = True
    tell(adapter.finish(now_s=now_s))
    for _ in range(50):
        now_s += CHUNK_S
        tell([])

    finals = [one for one in results if isinstance(one, Heard) and one.is_final]
    assert " ".join(final.text for final in finals) in ("1-100 1-100", "1-100 1-50 51-100")
    assert finals[-1].start_ms in (602_000, 603_000)
    assert isinstance(results[-1], Finished)
    covered = [one.covered_ms for one in results if isinstance(one, Covered)]
    assert covered == sorted(covered)
