"""One session follows another: before the provider's limit, and with the stream's language."""

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_contracts import Gap, StreamClosed, StreamFlushed, StreamOpened
from speechbus_runtime.telemetry import Telemetry
from speechbus_runtime.tracing import Tracing
from speechbus_transcriber.driver import Connection, ConnectionEvents, Connections
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.provider_session import HELD_MAX, ProviderSession
from speechbus_transcriber.providers.echo import EchoProtocol
from speechbus_transcriber.providers.interface import (
    Capabilities,
    EngineConnect,
    Heard,
    HttpExchange,
    HttpResponse,
    ProviderError,
    ProviderProtocol,
    ProviderRateLimitedError,
    Result,
    SessionRequest,
    WebSocketConnect,
)
from speechbus_transcriber.route import Route
from speechbus_transcriber.segmenter import SegmentContext
from speechbus_transcriber.session_record import SessionRecord
from tests.support.fake_bus import FakeBus
from tests.support.frame_numbers import Tiling, check_tiling
from tests.support.lone_governor import build_governor, build_provider
from tests.support.stream_stage import (
    FRAMES_PER_CHUNK,
    NOWHERE,
    Played,
    SessionPlan,
    lose_stream,
    play_stream,
)
from tests.support.virtual_time import run_virtual

EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_CHUNKS: Final = 120


def check(played: Played, *, changes: Sequence[tuple[int, str]] = ()) -> None:
    """Every frame once and in order, in finals of one language each."""
    finals = played.finals
    assert check_tiling(finals, N_CHUNKS * FRAMES_PER_CHUNK) == EXACT
    assert [final.index for final in finals] == list(range(len(finals)))
    assert not any(isinstance(event, Gap) for event in played.log)
    closed = played.log[-1]
    assert isinstance(closed, StreamClosed)
    assert (closed.reason, closed.audio_ms) == ("end", N_CHUNKS * 100)
    spoken = ["en"] * N_CHUNKS
    for chunk, language in changes:
        spoken[chunk:] = [language] * (N_CHUNKS - chunk)
    for final in finals:
        assert {final.language} == set(spoken[final.start_ms // 100 : -(-final.end_ms // 100)])
        assert final.provider in ("a" if final.language == "fr" else "ab")


def test_sessions_follow_each_other_before_the_limit() -> None:
    """None breaks, and each lives for half of the limit at least."""
    played = run_virtual(play_stream(n_chunks=N_CHUNKS, session_limit_s=6))

    check(played)
    assert 3 <= played.n_sessions <= 6
    assert played.n_broken == 0


def test_the_language_changes_where_the_client_says() -> None:
    """To the sample, there and back, to a provider that takes it."""
    changes = [(33, "fr"), (71, "ja"), (72, "ja"), (100, "en")]
    played = run_virtual(play_stream(n_chunks=N_CHUNKS, changes=changes))

    check(played, changes=changes)
    assert played.n_sessions == 4


class _Talker(EchoProtocol):
    """Says something with each audio, whatever it is."""

    def __init__(self, request: SessionRequest) -> None:
        super().__init__(request)
        self.said: list[Heard] = []

    def results_received(self) -> list[Result]:
        """What the test planned."""
        results, self.said = self.said, []
        return [*results]


class _Owner:
    """Remembers what a session told."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.failures: list[str] = []

    def take_results(self, session: ProviderSession, results: list[Result]) -> None:
        """See `SessionOwner`."""
        del session
        self.results += results

    def note_failure(self, session: ProviderSession, error: ProviderError) -> None:
        """See `SessionOwner`."""
        del session
        self.failures.append(error.code)

    def make_room(self) -> None:
        """See `SessionOwner`."""


def _say(number: int, *, is_final: bool) -> Heard:
    return Heard(text=str(number), is_final=is_final, start_ms=0, end_ms=number)


def _build_session(
    protocol: ProviderProtocol, owner: _Owner, connections: Connections
) -> ProviderSession:
    opened = StreamOpened(stream_id="s1", tenant="acme", opened_at=0, sample_rate_hz=8_000, shard=0)
    context = SegmentContext(
        stream_id="s1",
        tenant="acme",
        epoch=1,
        provider="echo",
        language=None,
        target_languages=(),
    )
    capabilities = Capabilities(languages=None, has_word_times=False, translates=False)
    provider = build_provider(capabilities, lambda _: protocol)
    governor = build_governor(FakeBus(), connections, {"echo": provider})
    lease = governor.ask(["echo"], wake=lambda: None).lease
    assert lease is not None
    return ProviderSession(
        opened,
        context,
        capabilities,
        lease,
        Route(["echo"]),
        governor,
        connections,
        owner,
        SessionRecord(
            Tracing(),
            Measures(Telemetry("transcriber"), capacity=1),
            provider="echo",
            stream_id="s1",
            parent="",
            former=None,
        ),
        now_s=lambda: 0.0,
    )


@pytest.mark.parametrize("n_finals", [HELD_MAX, HELD_MAX + 1])
def test_what_a_session_says_before_its_turn_is_kept_without_what_was_replaced(
    n_finals: int,
) -> None:
    """One that says far too much is left, and nothing of it counts: its audio is heard again."""

    async def run() -> tuple[list[Result], list[Result], list[str]]:
        owner = _Owner()
        talker = _Talker(SessionRequest(sample_rate_hz=8_000, language=None))
        session = _build_session(talker, owner, NOWHERE)
        for number in range(n_finals):
            talker.said = [_say(number, is_final=False), _say(number, is_final=True)]
            session.feed.give(memoryview(bytes(2)), n_behind=0)
        held = session.speak()
        talker.said = [_say(0, is_final=False)]
        session.feed.give(memoryview(bytes(2)), n_behind=0)
        return held, owner.results, owner.failures

    held, said, failures = run_virtual(run())

    if n_finals > HELD_MAX:
        assert (held, said, failures) == ([], [], ["held_too_long"])
    else:
        assert held == [_say(number, is_final=True) for number in range(n_finals)]
        assert (said, failures) == ([_say(0, is_final=False)], [])


class _Remote(EchoProtocol):
    """Echo on the other side of a connection."""

    def connect_request(self) -> EngineConnect:
        """Anywhere."""
        return EngineConnect(engine="remote")


class _Slow(Connections):
    """Connects to nobody, for ever."""

    async def connect(
        self, request: EngineConnect | WebSocketConnect, events: ConnectionEvents
    ) -> Connection:
        """Hang."""
        del request, events
        await asyncio.Event().wait()
        raise AssertionError

    async def exchange(self, request: HttpExchange) -> HttpResponse:
        """Nobody asks."""
        raise AssertionError(request)

    def part(self, requests: Sequence[HttpExchange]) -> None:
        """Nobody asks."""
        raise AssertionError(requests)


def test_a_slot_that_is_lost_while_a_session_connects_is_why_it_ended() -> None:
    """That is nobody's failure, as a connection that cannot be made would be."""

    async def run() -> tuple[list[str], str | None, float]:
        owner = _Owner()
        protocol = _Remote(SessionRequest(sample_rate_hz=8_000, language=None))
        session = _build_session(protocol, owner, _Slow())

        async def lose_slot() -> None:
            await asyncio.sleep(0.5)
            session.lease.is_lost = True
            session.lease.on_lost()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lose_slot())
            with pytest.raises(ProviderRateLimitedError):
                await session.open()
        session.close()
        code = None if session.failure is None else session.failure.code
        return owner.failures, code, asyncio.get_running_loop().time()

    assert run_virtual(run()) == (["slot_lost"], "slot_lost", 0.5)


PLANS: Final = st.lists(
    st.builds(
        SessionPlan,
        opens_after_s=st.sampled_from([0.0, 0.05, 0.5, 3.0]),
        refusal=st.sampled_from([None, None, None, "unavailable", "rate_limited"]),
        breaks_after_s=st.one_of(st.none(), st.none(), st.floats(0.0, 5.0)),
        last_words=st.sampled_from(["said", "said", "said", "broken", "never"]),
        latency_s=st.sampled_from([0.0, 0.2, 1.0]),
    ),
    max_size=8,
)


@settings(max_examples=50)
@given(
    plans=PLANS,
    changes=st.lists(
        st.tuples(st.integers(0, N_CHUNKS - 1), st.sampled_from(["en", "ja", "fr"])), max_size=4
    ).map(lambda changes: sorted(changes, key=lambda change: change[0])),
    flushes=st.lists(st.integers(0, N_CHUNKS - 1), max_size=3),
    kills_s=st.lists(st.floats(0, N_CHUNKS / 10 + 1), max_size=3),
    session_limit_s=st.sampled_from([None, 5.0, 8.0]),
)
def test_nothing_is_lost_doubled_or_in_another_language_whatever_breaks(
    plans: list[SessionPlan],
    changes: list[tuple[int, str]],
    flushes: list[int],
    kills_s: list[float],
    session_limit_s: float | None,
) -> None:
    """Sessions are refused, break and fall silent, and workers die, at any moment."""
    played = run_virtual(
        play_stream(
            n_chunks=N_CHUNKS,
            changes=changes,
            flushes=flushes,
            plans=plans,
            kills_s=kills_s,
            session_limit_s=session_limit_s,
        )
    )

    check(played, changes=changes)
    asked = {chunk * 100 for chunk in flushes}
    answered = [event.at_ms for event in played.log if isinstance(event, StreamFlushed)]
    assert set(answered) <= asked
    if not kills_s:
        assert set(answered) == asked


@pytest.mark.parametrize("after_s", [0.0, 1.0, 6.0])
def test_a_stream_that_another_worker_has_taken_waits_for_no_provider(after_s: float) -> None:
    """Else a drain would: up to 10 s for each provider that accepts and says nothing."""
    plans = [SessionPlan(opens_after_s=5.0), *[SessionPlan(opens_after_s=60.0)] * 9]

    assert run_virtual(lose_stream(plans, after_s=after_s)) == ("superseded", 0.0)
