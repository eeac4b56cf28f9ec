"""One provider session: order, deadlines, and one end."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

from speechbus_transcriber.driver import (
    FINISH_TIMEOUT_S,
    OPEN_TIMEOUT_S,
    STALL_TIMEOUT_S,
    Connection,
    ConnectionEvents,
    SessionDriver,
    UpgradeRefusedError,
)
from speechbus_transcriber.providers.interface import (
    ConnectRequest,
    Covered,
    EngineConnect,
    Finished,
    Flushed,
    HttpExchange,
    HttpResponse,
    InProcess,
    Pace,
    ProviderError,
    ProviderProtocolError,
    ProviderRejectedError,
    ProviderUnavailableError,
    Result,
    TurnStarted,
    WebSocketConnect,
)
from tests.support.virtual_time import run_virtual

RATE_HZ = 16_000
SILENT = ProviderUnavailableError("silent", provider="scripted")


class ScriptedProtocol:
    """Answers each message with what the test planned for it, and records the calls."""

    name = "scripted"

    def __init__(self, *requests: ConnectRequest) -> None:
        self.requests: list[ConnectRequest] = list(requests) or [EngineConnect(engine="local")]
        self.responses: list[HttpResponse] = []
        self.replies: dict[str | bytes, list[str | bytes]] = {}
        self.farewells: list[HttpExchange] = []
        self.answers: dict[str | bytes, list[Result]] = {}
        self.errors: dict[str | bytes, ProviderError] = {}
        self.deadlines_s: list[float] = []
        self.calls: list[tuple[str, float]] = []
        self.is_finished = False
        self._results: list[Result] = []

    def connect_request(self) -> ConnectRequest:
        """What was planned, each once, the last one for ever."""
        return self.requests.pop(0) if len(self.requests) > 1 else self.requests[0]

    def farewell_requests(self) -> Sequence[HttpExchange]:
        """What was planned."""
        return self.farewells

    def messages_to_open(self) -> Sequence[str | bytes]:
        """The opening."""
        return ["open"]

    def audio_to_send(self, pcm: memoryview, *, now_s: float) -> Sequence[str | bytes]:
        """Pass it on."""
        self._meet(bytes(pcm), now_s)
        return [bytes(pcm)]

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        """Pass it on."""
        self._meet("flush", now_s)
        return ["flush"]

    def end_turn(self, *, now_s: float) -> Sequence[str | bytes] | None:
        """Pass it on."""
        self._meet("end_turn", now_s)
        return ["end_turn"]

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Pass it on."""
        self._meet("finish", now_s)
        return ["finish"]

    def receive_response(self, response: HttpResponse, *, now_s: float) -> None:
        """Record it; take what it says, or fail as planned."""
        self.responses.append(response)
        self._meet("response", now_s)

    def receive_message(self, message: str | bytes, *, now_s: float) -> Sequence[str | bytes]:
        """Do what was planned."""
        self._meet(message, now_s)
        return self.replies.get(message, [])

    def receive_close(self, code: int | None, *, now_s: float) -> None:
        """Fail unless finished."""
        self._meet("close", now_s)
        if not self.is_finished:
            raise ProviderUnavailableError("closed", provider=self.name)

    def next_deadline_s(self) -> float | None:
        """The first of those planned."""
        return self.deadlines_s[0] if self.deadlines_s else None

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Pass it on."""
        self.deadlines_s.pop(0)
        self._meet("deadline", now_s)
        return ["ping"]

    def results_received(self) -> list[Result]:
        """Results since the last call."""
        results, self._results = self._results, []
        return results

    def _meet(self, what: str | bytes, now_s: float) -> None:
        self.calls.append((what if isinstance(what, str) else "audio", now_s))
        self._results += self.answers.get(what, [])
        if what in self.errors:
            raise self.errors[what]


class Session:
    """A driver, the connection under it, and what both said."""

    def __init__(
        self,
        protocol: ScriptedProtocol | None = None,
        *,
        pace: Pace | None = None,
        provider_rate_hz: int = RATE_HZ,
    ) -> None:
        self.protocol = protocol or ScriptedProtocol()
        self.obstacle: Callable[[], Awaitable[None]] | None = None
        self.asked: list[ConnectRequest] = []
        self.parted: list[HttpExchange] = []
        self.sent: list[str | bytes] = []
        self.n_closed = 0
        self.n_rooms = 0
        self.n_gone = 0
        self.batches: list[list[Result]] = []
        self.failures: list[ProviderError] = []
        self.on_results: Callable[[], None] | None = None
        self.driver = SessionDriver(
            self.protocol,
            self,
            sample_rate_hz=RATE_HZ,
            provider_rate_hz=provider_rate_hz,
            pace=pace,
            deaf_after_s=None,
            on_results=self._take,
            on_failed=self.failures.append,
            on_room=self._note_room,
            on_gone=self._note_gone,
        )

    async def connect(self, request: ConnectRequest, events: ConnectionEvents) -> Connection:
        """Open at once, unless something is in the way."""
        assert events is self.driver
        self.asked.append(request)
        if self.obstacle is not None:
            await self.obstacle()
        return self

    async def exchange(self, request: HttpExchange) -> HttpResponse:
        """Answer with the number of requests so far."""
        self.asked.append(request)
        if self.obstacle is not None:
            await self.obstacle()
        return HttpResponse(status=200 + len(self.asked), body=b"")

    def part(self, requests: Sequence[HttpExchange]) -> None:
        """Record the farewell."""
        self.parted += requests

    def send(self, messages: Sequence[str | bytes]) -> None:
        """Record what is sent."""
        self.sent += messages

    def close(self) -> None:
        """Count the ends."""
        self.n_closed += 1

    def results(self) -> list[Result]:
        """All results, in order."""
        return [result for batch in self.batches for result in batch]

    def _take(self, results: list[Result]) -> None:
        self.batches.append(results)
        if self.on_results is not None:
            self.on_results()

    def _note_room(self) -> None:
        self.n_rooms += 1

    def _note_gone(self) -> None:
        self.n_gone += 1


def run(main: Callable[[Session], Coroutine[Any, Any, None]]) -> Session:
    """Play with an open session; wait until nothing is due any more."""

    async def play() -> Session:
        session = Session()
        await session.driver.open()
        await main(session)
        await asyncio.sleep(1_000)
        return session

    return run_virtual(play())


def test_messages_go_out_and_results_come_in_order() -> None:
    """The segmenter sees what the provider said, and the provider what the client said."""

    async def main(session: Session) -> None:
        session.protocol.answers = {
            "one": [TurnStarted(1), Covered(2)],
            "two": [Covered(3)],
            "flush": [Flushed()],
        }
        session.driver.send_audio(memoryview(b"ab"))
        session.driver.receive_message("one")
        session.driver.flush()
        session.driver.receive_message("nothing")
        session.driver.receive_message("two")

    session = run(main)
    assert session.sent == ["open", b"ab", "flush"]
    assert session.batches == [[TurnStarted(1), Covered(2)], [Flushed()], [Covered(3)]]
    assert session.failures == []


def test_each_deadline_is_handled_once_and_on_time() -> None:
    """Once too often would be a second ping; never, a half-open connection nobody notices."""

    async def main(session: Session) -> None:
        session.protocol.deadlines_s = [3.0, 5.0, 5.5]
        session.protocol.answers = {"deadline": [Covered(1)]}
        session.driver.receive_message("sets them")

    session = run(main)
    assert session.protocol.calls == [
        ("sets them", 0.0),
        ("deadline", 3.0),
        ("deadline", 5.0),
        ("deadline", 5.5),
    ]
    assert session.sent == ["open", "ping", "ping", "ping"]
    assert session.results() == [Covered(1)] * 3


def test_a_deadline_that_is_taken_back_never_comes() -> None:
    """The provider answered in time."""

    async def main(session: Session) -> None:
        session.protocol.deadlines_s = [3.0]
        session.driver.receive_message("sets it")
        await asyncio.sleep(2)
        session.protocol.deadlines_s = [7.0]
        session.driver.receive_message("moves it")
        await asyncio.sleep(2)
        session.protocol.deadlines_s = []
        session.driver.receive_message("answers")

    assert [what for what, _ in run(main).protocol.calls] == ["sets it", "moves it", "answers"]


@pytest.mark.parametrize("cause", ["message", "close", "flush", "deadline", "audio"])
def test_a_failure_is_reported_once_and_nothing_follows(cause: str) -> None:
    """Reported twice, it would open two sessions in place of one."""

    async def main(session: Session) -> None:
        protocol, driver = session.protocol, session.driver
        protocol.errors = dict.fromkeys(["bad", "flush", "deadline", b"au"], SILENT)
        protocol.answers = {"bad": [Covered(1)], "flush": [Covered(1)]}
        match cause:
            case "message":
                driver.receive_message("bad")
            case "close":
                driver.receive_close(None)
            case "flush":
                driver.flush()
            case "audio":
                driver.send_audio(memoryview(b"au"))
            case _:
                protocol.deadlines_s = [1.0]
                driver.receive_message("sets it")
                await asyncio.sleep(2)
        n_calls = len(protocol.calls)
        protocol.deadlines_s = [1.5, 2.5]
        for _ in range(2):
            driver.receive_message("bad")
            driver.receive_close(None)
            driver.send_audio(memoryview(b"ab"))
            driver.flush()
            driver.finish()
            driver.set_congested(is_congested=False)
        assert len(protocol.calls) == n_calls

    session = run(main)
    assert len(session.failures) == 1
    # What came with the error is heard before it.
    assert session.results() == ([Covered(1)] if cause in ("message", "flush") else [])
    assert session.n_closed == (0 if cause == "close" else 1)
    assert session.n_rooms == 0


def test_the_error_says_what_to_do() -> None:
    """The class of the adapter's error reaches whoever decides."""
    errors = [
        ProviderRejectedError("bad_key", provider="scripted"),
        ProviderProtocolError("unknown", provider="scripted"),
    ]
    for error in errors:

        async def main(session: Session, error: ProviderError = error) -> None:
            session.protocol.errors = {"bad": error}
            session.driver.receive_message("bad")

        assert run(main).failures == [error]


def test_nothing_follows_close() -> None:
    """The stream has moved on: a late result would belong to nobody."""

    async def main(session: Session) -> None:
        session.protocol.answers = {"one": [Covered(1)]}
        session.protocol.deadlines_s = [1.0]
        session.driver.receive_message("sets it")
        session.driver.finish()
        session.driver.close()
        session.driver.receive_message("one")
        session.driver.receive_close(None)
        session.driver.set_congested(is_congested=False)

    session = run(main)
    assert (session.batches, session.failures, session.n_rooms) == ([], [], 0)
    assert session.n_closed == 1


def test_closing_inside_a_result_ends_the_session_there() -> None:
    """The stream may decide to stop while it is being told something."""

    async def main(session: Session) -> None:
        session.protocol.answers = {"bad": [Covered(1)]}
        session.protocol.errors = {"bad": SILENT}
        session.protocol.deadlines_s = [1.0]
        session.on_results = session.driver.close
        session.driver.receive_message("bad")

    session = run(main)
    assert (session.results(), session.failures) == ([Covered(1)], [])
    assert [what for what, _ in session.protocol.calls] == ["bad"]


def test_a_provider_that_never_finishes_is_given_up() -> None:
    """The stream must close one day, by another session."""

    async def main(session: Session) -> None:
        session.driver.finish()
        session.driver.finish()
        await asyncio.sleep(FINISH_TIMEOUT_S - 1)
        assert session.failures == []
        await asyncio.sleep(2)
        assert len(session.failures) == 1

    session = run(main)
    assert [error.code for error in session.failures] == ["finish_timeout"]
    assert session.sent == ["open", "finish"]
    assert session.n_closed == 1


def test_a_provider_that_finishes_is_not_given_up() -> None:
    """And the end of its connection is none of our business then."""

    async def main(session: Session) -> None:
        session.protocol.answers = {"done": [Covered(1), Finished()]}
        session.driver.finish()
        session.driver.receive_message("done")
        session.protocol.is_finished = True
        session.driver.receive_close(None)

    session = run(main)
    assert (session.results(), session.failures) == ([Covered(1), Finished()], [])


def test_audio_is_welcome_again_after_a_congestion() -> None:
    """The stream stops reading meanwhile, and is told when to go on."""

    async def main(session: Session) -> None:
        session.driver.set_congested(is_congested=True)
        assert session.driver.is_congested
        assert session.n_rooms == 0
        session.driver.set_congested(is_congested=False)
        assert not session.driver.is_congested

    assert run(main).n_rooms == 1


def test_an_adapter_in_this_process_needs_no_connection() -> None:
    """Its results come from the calls themselves."""

    async def play() -> Session:
        session = Session(ScriptedProtocol(InProcess()))
        session.protocol.answers = {b"ab": [Covered(1)], "finish": [Finished()]}
        await session.driver.open()
        session.driver.send_audio(memoryview(b"ab"))
        session.driver.finish()
        return session

    session = run_virtual(play())
    assert (session.sent, session.results()) == ([], [Covered(1), Finished()])


async def hang() -> None:
    """As a host that drops packets does."""
    await asyncio.Event().wait()


async def refuse() -> None:
    """As a host without that port does."""
    raise ConnectionRefusedError


SESSION = HttpExchange(method="POST", url="https://provider.example/session")
STREAM = WebSocketConnect(url="wss://provider.example/stream?token=secret")


@pytest.mark.parametrize("first", [EngineConnect(engine="local"), STREAM, SESSION])
@pytest.mark.parametrize(("obstacle", "after_s"), [(hang, OPEN_TIMEOUT_S), (refuse, 0.0)])
def test_a_connection_that_does_not_stand_is_worth_another_try(
    first: ConnectRequest, obstacle: Callable[[], Awaitable[None]], after_s: float
) -> None:
    """Refused or silent, over HTTP or not: the next session may find somebody."""

    async def play() -> None:
        session = Session(ScriptedProtocol(first))
        session.obstacle = obstacle
        with pytest.raises(ProviderUnavailableError) as caught:
            await session.driver.open()
        assert caught.value.code == "no_connection"
        assert asyncio.get_running_loop().time() == after_s
        assert session.failures == []

    run_virtual(play())


def test_a_peer_that_takes_no_audio_for_long_is_given_up_once() -> None:
    """A frozen engine never says so: its stream must go on in another session."""

    async def main(session: Session) -> None:
        session.driver.set_congested(is_congested=True)
        await asyncio.sleep(STALL_TIMEOUT_S - 1)
        assert session.failures == []
        await asyncio.sleep(STALL_TIMEOUT_S)

    session = run(main)
    assert [error.code for error in session.failures] == ["stalled"]


def test_a_peer_that_catches_up_is_kept() -> None:
    """Being slow for a while is no fault."""

    async def main(session: Session) -> None:
        for _ in range(5):
            session.driver.set_congested(is_congested=True)
            await asyncio.sleep(STALL_TIMEOUT_S - 1)
            session.driver.set_congested(is_congested=False)
            await asyncio.sleep(1)

    assert run(main).failures == []


def test_what_must_be_asked_over_http_is_asked_first() -> None:
    """A provider that wants a session minted gets its answer before the stream is opened."""

    async def play() -> Session:
        session = Session(ScriptedProtocol(SESSION, SESSION, STREAM))
        await session.driver.open()
        return session

    session = run_virtual(play())
    assert session.asked == [SESSION, SESSION, STREAM]
    assert [response.status for response in session.protocol.responses] == [201, 202]
    assert session.sent == ["open"]


@pytest.mark.parametrize("is_understood", [True, False])
def test_a_refused_upgrade_is_the_adapters_to_judge(is_understood: bool) -> None:  # noqa: FBT001
    """Only it knows whether 409 means another key, another time, or another provider."""
    refusal = HttpResponse(status=409, body=b"active", retry_after_s=2.0)

    async def conflict() -> None:
        raise UpgradeRefusedError(refusal)

    async def play() -> tuple[Session, ProviderError]:
        session = Session(ScriptedProtocol(STREAM))
        session.obstacle = conflict
        if is_understood:
            session.protocol.errors = {"response": SILENT}
        with pytest.raises(ProviderError) as caught:
            await session.driver.open()
        return session, caught.value

    session, error = run_virtual(play())
    assert session.protocol.responses == [refusal]
    assert error.code == ("silent" if is_understood else "refusal_accepted")


def test_a_message_can_be_answered_at_once() -> None:
    """Handshakes need it."""

    async def main(session: Session) -> None:
        session.protocol.replies = {"created": ["update"]}
        session.driver.receive_message("created")

    assert run(main).sent == ["open", "update"]


@pytest.mark.parametrize("cause", ["close", "failure"])
def test_the_farewell_is_said_once_however_the_session_ends(cause: str) -> None:
    """A session left open at the provider would block the next one."""

    async def main(session: Session) -> None:
        session.protocol.farewells = [SESSION]
        if cause == "failure":
            session.protocol.errors = {"bad": SILENT}
            session.driver.receive_message("bad")
        session.driver.close()
        session.driver.close()

    assert run(main).parted == [SESSION]


def test_case_28_a_backlog_is_held_to_the_providers_pace() -> None:
    """Palabra does not transcribe what comes clearly faster than real time: it would be lost."""
    chunk = bytes(RATE_HZ // 10 * 2)
    sent_at_s: list[float] = []

    async def play() -> Session:
        session = Session(pace=Pace(rate=1.0, lead_ms=500))
        await session.driver.open()
        loop = asyncio.get_running_loop()
        while len(sent_at_s) < 100:
            session.driver.send_audio(memoryview(chunk))
            sent_at_s.append(loop.time())
            while session.driver.is_congested:
                n_rooms = session.n_rooms
                await asyncio.sleep(1)
                assert session.n_rooms == n_rooms + 1
        return session

    run_virtual(play())
    assert all(
        (number + 1) * 0.1 <= at_s - sent_at_s[0] + 0.5 for number, at_s in enumerate(sent_at_s)
    )


def test_case_21_audio_of_another_rate_is_resampled_with_state() -> None:
    """However the audio is cut, the provider gets the same, and all of it."""
    tone = bytes(range(256)) * 25

    def play(n_bytes: int) -> bytes:
        async def main() -> Session:
            session = Session(provider_rate_hz=24_000)
            await session.driver.open()
            for at in range(0, len(tone), n_bytes):
                session.driver.send_audio(memoryview(tone[at : at + n_bytes]))
            session.driver.finish()
            return session

        session = run_virtual(main())
        return b"".join(part for part in session.sent if isinstance(part, bytes))

    whole = play(len(tone))
    assert play(2) == play(202) == whole
    assert abs(len(whole) - len(tone) * 3 // 2) <= 4


def test_a_session_is_gone_when_its_connection_has_ended() -> None:
    """A provider counts a session until it has read the goodbye; another one must wait for that."""

    async def main(session: Session) -> None:
        session.driver.close()
        assert session.n_gone == 0
        session.driver.receive_end()

    assert run(main).n_gone == 1

    async def ended_by_the_provider(session: Session) -> None:
        session.driver.receive_close(1001)
        session.driver.receive_end()
        session.driver.close()

    session = run(ended_by_the_provider)
    assert (session.n_gone, len(session.failures)) == (1, 1)


def test_a_session_that_never_had_a_connection_is_gone_at_once() -> None:
    """Nothing will ever tell of its end."""

    async def play() -> Session:
        session = Session()
        session.obstacle = refuse
        with pytest.raises(ProviderUnavailableError):
            await session.driver.open()
        session.driver.close()
        session.driver.close()
        session.driver.receive_end()  # of the refused upgrade
        return session

    async def refuse() -> None:
        raise ConnectionError

    assert run_virtual(play()).n_gone == 1


def test_a_session_that_is_closed_before_its_connection_stands_leaves_nothing_behind() -> None:
    """Its slot may have gone to another worker, which needs the place at the provider."""

    async def play(*requests: ConnectRequest) -> Session:
        session = Session(ScriptedProtocol(*requests))
        session.obstacle = take_a_second
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(close_soon(session))
            with pytest.raises(ProviderUnavailableError):
                await session.driver.open()
        session.driver.close()
        session.driver.receive_end()
        assert session.n_gone == 1
        assert session.sent == []
        return session

    async def close_soon(session: Session) -> None:
        await asyncio.sleep(0.5)
        session.driver.close()
        # What was made by then is deleted at once, what is being made when it is there.
        session.protocol.farewells = [SESSION]
        assert session.n_gone == 0

    async def take_a_second() -> None:
        await asyncio.sleep(1.0)

    async def time(*requests: ConnectRequest) -> tuple[Session, float]:
        return await play(*requests), asyncio.get_running_loop().time()

    upgrading, after_s = run_virtual(time(STREAM))
    assert (upgrading.asked, upgrading.parted, after_s) == ([STREAM], [SESSION], 0.5)

    asking, after_s = run_virtual(time(SESSION, STREAM))
    assert (asking.asked, asking.parted, after_s) == ([SESSION], [SESSION], 1.0)
