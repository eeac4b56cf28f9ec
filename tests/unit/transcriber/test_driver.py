"""One provider session: order, deadlines, and one end."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from speechbus_transcriber.driver import (
    FINISH_TIMEOUT_S,
    OPEN_TIMEOUT_S,
    STALL_TIMEOUT_S,
    ConnectFunction,
    Connection,
    ConnectionEvents,
    SessionDriver,
)
from speechbus_transcriber.providers.interface import (
    ConnectRequest,
    Covered,
    EngineConnect,
    Finished,
    Flushed,
    InProcess,
    ProviderError,
    ProviderProtocolError,
    ProviderRejectedError,
    ProviderUnavailableError,
    Result,
    TurnStarted,
)
from tests.support.virtual_time import run_virtual

SILENT = ProviderUnavailableError("silent", provider="scripted")


class ScriptedProtocol:
    """Answers each message with what the test planned for it, and records the calls."""

    name = "scripted"

    def __init__(self, *, is_in_process: bool = False) -> None:
        self.is_in_process = is_in_process
        self.answers: dict[str | bytes, list[Result]] = {}
        self.errors: dict[str | bytes, ProviderError] = {}
        self.deadlines_s: list[float] = []
        self.calls: list[tuple[str, float]] = []
        self.is_finished = False
        self._results: list[Result] = []

    def connect_request(self) -> ConnectRequest:
        """Where to connect."""
        return InProcess() if self.is_in_process else EngineConnect(engine="local")

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

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Pass it on."""
        self._meet("finish", now_s)
        return ["finish"]

    def receive_message(self, message: str | bytes, *, now_s: float) -> None:
        """Do what was planned."""
        self._meet(message, now_s)

    def receive_close(self, *, now_s: float) -> None:
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

    def __init__(self, protocol: ScriptedProtocol | None = None) -> None:
        self.protocol = protocol or ScriptedProtocol()
        self.sent: list[str | bytes] = []
        self.n_closed = 0
        self.n_rooms = 0
        self.batches: list[list[Result]] = []
        self.failures: list[ProviderError] = []
        self.on_results: Callable[[], None] | None = None
        self.driver = SessionDriver(
            self.protocol,
            on_results=self._take,
            on_failed=self.failures.append,
            on_room=self._note_room,
        )

    async def connect(self, request: ConnectRequest, events: ConnectionEvents) -> Connection:
        """Open at once."""
        assert request == EngineConnect(engine="local")
        assert events is self.driver
        return self

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


def run(main: Callable[[Session], Coroutine[Any, Any, None]]) -> Session:
    """Play with an open session; wait until nothing is due any more."""

    async def play() -> Session:
        session = Session()
        await session.driver.open(session.connect)
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
                driver.receive_close()
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
            driver.receive_close()
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
        session.driver.receive_close()
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
        session.driver.receive_close()

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
        session = Session(ScriptedProtocol(is_in_process=True))
        session.protocol.answers = {b"ab": [Covered(1)], "finish": [Finished()]}
        await session.driver.open(session.connect)
        session.driver.send_audio(memoryview(b"ab"))
        session.driver.finish()
        return session

    session = run_virtual(play())
    assert (session.sent, session.results()) == ([], [Covered(1), Finished()])


async def never_connect(request: ConnectRequest, events: ConnectionEvents) -> Connection:
    """Hang, as a host that drops packets does."""
    del request, events
    await asyncio.Event().wait()
    raise AssertionError("nobody sets the event")


async def refuse_to_connect(request: ConnectRequest, events: ConnectionEvents) -> Connection:
    """Fail at once."""
    del request, events
    raise ConnectionRefusedError


@pytest.mark.parametrize(
    ("connect", "after_s"), [(never_connect, OPEN_TIMEOUT_S), (refuse_to_connect, 0.0)]
)
def test_a_connection_that_does_not_stand_is_worth_another_try(
    connect: ConnectFunction, after_s: float
) -> None:
    """Refused or silent: the next session may find somebody."""

    async def play() -> None:
        session = Session()
        with pytest.raises(ProviderUnavailableError) as caught:
            await session.driver.open(connect)
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
