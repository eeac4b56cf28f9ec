"""Runs one provider session: owns the connection and the clock, for every provider alike."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from speechbus_transcriber.pacing import Pacer
from speechbus_transcriber.providers.interface import (
    EngineConnect,
    Finished,
    HttpExchange,
    HttpResponse,
    InProcess,
    Pace,
    ProviderError,
    ProviderProtocol,
    ProviderProtocolError,
    ProviderUnavailableError,
    Result,
    WebSocketConnect,
)
from speechbus_transcriber.resampler import Resampler
from speechbus_transcriber.speech_watch import SpeechWatch

__all__ = [
    "Connection",
    "ConnectionEvents",
    "Connections",
    "SessionDriver",
    "UpgradeRefusedError",
]

OPEN_TIMEOUT_S: Final = 10.0
"""Handshakes take milliseconds to about a second; Kotoba itself gives up after 10 s."""
STALL_TIMEOUT_S: Final = 10.0
"""A peer that takes no audio for this long is frozen, not busy."""
FINISH_TIMEOUT_S: Final = 30.0
"""Kotoba's samples allow 30 s from commit to committed (providers.md 1.7)."""


class Connection(Protocol):
    """An open connection to a provider."""

    def send(self, messages: Sequence[str | bytes]) -> None:
        """Queue messages in order; never blocks."""
        ...

    def close(self) -> None:
        """Close at once."""
        ...


class ConnectionEvents(Protocol):
    """What a connection reports; the driver is one."""

    def receive_message(self, message: str | bytes) -> None:
        """A message arrived."""
        ...

    def receive_close(self, code: int | None) -> None:
        """The connection ended; `code` of the WebSocket's close frame, if there was one."""
        ...

    def set_congested(self, *, is_congested: bool) -> None:
        """The peer does not keep up (or does again)."""
        ...

    def receive_end(self) -> None:
        """Nothing is left of the connection, whoever closed it; the last call."""
        ...


class UpgradeRefusedError(Exception):
    """The provider answered the WebSocket's upgrade with something else."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__(response.status)
        self.response = response


class Connections(Protocol):
    """Reaches providers."""

    async def connect(
        self, request: EngineConnect | WebSocketConnect, events: ConnectionEvents
    ) -> Connection:
        """Connect; the connection reports to `events` from then on.

        Raises:
            OSError: nobody there.
            UpgradeRefusedError: somebody there, who does not want to.
        """
        ...

    async def exchange(self, request: HttpExchange) -> HttpResponse:
        """Ask over HTTP.

        Raises:
            OSError: nobody there.
        """
        ...

    def part(self, requests: Sequence[HttpExchange]) -> None:
        """Ask over HTTP in the background, for a limited time; nobody wants the answers."""
        ...


class _Action(Protocol):
    """A call into the state machine that returns messages to send."""

    def __call__(self, *, now_s: float) -> Sequence[str | bytes]:
        """Act at `now_s`."""
        ...


class SessionDriver:
    """One session of one provider.

    Callbacks run inside the call or the event that caused them, so that a result costs no task
    and no queue.

    Args:
        protocol: the provider's state machine.
        connections: how to reach the provider.
        sample_rate_hz: of the stream.
        provider_rate_hz: of what the provider gets.
        pace: how fast it takes audio; None: as fast as the connection does.
        deaf_after_s: speech that no message answers for so long ends the session; None: never.
        on_results: gets results in order; never an empty list.
        on_failed: gets the error that ended the session; called at most once, nothing follows.
        on_room: audio is welcome again after `is_congested`.
        on_gone: the session is over and nothing is left of its connection, nor of the attempt to
            make one; called once.
    """

    def __init__(
        self,
        protocol: ProviderProtocol,
        connections: Connections,
        *,
        sample_rate_hz: int,
        provider_rate_hz: int,
        pace: Pace | None,
        deaf_after_s: float | None,
        on_results: Callable[[list[Result]], None],
        on_failed: Callable[[ProviderError], None],
        on_room: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.protocol = protocol
        self.is_congested = False
        """Whether audio has to wait: for the connection, or for the provider's pace."""
        self._connections = connections
        self._on_results = on_results
        self._on_failed = on_failed
        self._on_room = on_room
        self._on_gone = on_gone
        self._opening: asyncio.Timeout | None = None
        """While it is being opened."""
        self._is_upgrading = False
        """Whether what is waited for then is the connection itself."""
        self._has_connected = False
        self._has_ended = False
        self._is_gone = False
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._bytes_per_ms = sample_rate_hz * 2 / 1000
        self._resampler = (
            None
            if sample_rate_hz == provider_rate_hz
            else Resampler(from_hz=sample_rate_hz, to_hz=provider_rate_hz, quality="MQ")
        )
        self._watch = (
            None
            if deaf_after_s is None
            else SpeechWatch(
                sample_rate_hz=sample_rate_hz,
                deaf_after_s=deaf_after_s,
                now_s=self._loop.time(),
            )
        )
        self._pace = pace
        self._pacer: Pacer | None = None
        self._is_full = False
        self._pace_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s: float | None = None
        self._finish_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_over = False

    async def open(self) -> None:
        """Connect and send what opens the session.

        Raises:
            ProviderUnavailableError: no connection within `OPEN_TIMEOUT_S`, or `close` was called.
            ProviderError: by the provider's answer.
        """
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S) as self._opening:
                await self._connect()
        except (OSError, TimeoutError):
            raise ProviderUnavailableError("no_connection", provider=self.protocol.name) from None
        finally:
            self._opening = None
            if self._is_over:
                self._part()
        if self._pace is not None:
            self._pacer = Pacer(self._pace, now_s=self._loop.time())
        self._after(self.protocol.messages_to_open())

    async def _connect(self) -> None:
        while True:
            request = self.protocol.connect_request()
            if isinstance(request, InProcess):
                return
            if isinstance(request, HttpExchange):
                response = await self._connections.exchange(request)
                self.protocol.receive_response(response, now_s=self._loop.time())
                self._stop_if_over()
                continue
            self._is_upgrading = True
            try:
                self._connection = await self._connections.connect(request, self)
            except UpgradeRefusedError as refused:
                self.protocol.receive_response(refused.response, now_s=self._loop.time())
                raise ProviderProtocolError(
                    "refusal_accepted", provider=self.protocol.name
                ) from None
            else:
                self._has_connected = True
                self._stop_if_over()
                return
            finally:
                self._is_upgrading = False

    def _stop_if_over(self) -> None:
        """Go no further where `close` was called meanwhile.

        Raises:
            ProviderUnavailableError: it was.
        """
        if self._is_over:
            raise ProviderUnavailableError("closed", provider=self.protocol.name)

    def send_audio(self, pcm: memoryview) -> None:
        """Send PCM s16le mono of the stream's rate, whole samples."""
        if self._is_over:
            return
        now_s = self._loop.time()
        if self._watch is not None and self._watch.send(pcm, now_s=now_s):
            self._fail(ProviderUnavailableError("deaf", provider=self.protocol.name))
            return
        if self._pacer is not None:
            self._spend(self._pacer, len(pcm), now_s=now_s)
        if self._resampler is not None:
            pcm = memoryview(self._resampler.feed(pcm))
        try:
            messages = self.protocol.audio_to_send(pcm, now_s=now_s)
        except ProviderError as error:
            self._fail(error)
        else:
            self._after(messages)

    def flush(self) -> None:
        """Ask for finals of everything sent so far."""
        self._call(self.protocol.flush)

    def end_turn(self) -> bool:
        """End the open turn without silence; False: only silence does."""
        if self._is_over:
            return False
        messages = self.protocol.end_turn(now_s=self._loop.time())
        if messages is None:
            return False
        self._after(messages)
        return True

    def finish(self) -> None:
        """Ask for the last finals; `Finished` comes among the results, or the session fails."""
        if self._is_over or self._finish_timer is not None:
            return
        self._finish_timer = self._loop.call_later(FINISH_TIMEOUT_S, self._finish_is_late)
        if self._resampler is not None:
            rest = memoryview(self._resampler.feed(b"", is_last=True))
            self._call(partial(self.protocol.audio_to_send, rest))
        self._call(self.protocol.finish)

    def close(self) -> None:
        """End the session at once; no callback follows but `on_gone`."""
        if self._is_over:
            return
        self._is_over = True
        for timer in (self._timer, self._finish_timer, self._stall_timer, self._pace_timer):
            if timer is not None:
                timer.cancel()
        if self._opening is None:
            self._part()
        elif self._is_upgrading and not self._opening.expired():
            self._opening.reschedule(self._loop.time())
        # Else an answer is on its way that may name a session, which is to be deleted then.

    def _part(self) -> None:
        """Leave nothing at the provider; it is over, and not being opened any more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if requests := self.protocol.farewell_requests():
            self._connections.part(requests)
        if self._has_ended or not self._has_connected:
            self._go()

    def _go(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._on_gone()

    # --- what the connection reports -----------------------------------------------------------

    def receive_message(self, message: str | bytes) -> None:
        """Take one message from the provider."""
        if self._is_over:
            return
        now_s = self._loop.time()
        if self._watch is not None:
            self._watch.hear(now_s=now_s)
        try:
            messages = self.protocol.receive_message(message, now_s=now_s)
        except ProviderError as error:
            self._deliver()
            self._fail(error)
        else:
            self._after(messages)

    def receive_close(self, code: int | None) -> None:
        """The provider's side of the connection ended."""
        if self._is_over:
            return
        self._connection = None
        try:
            self.protocol.receive_close(code, now_s=self._loop.time())
        except ProviderError as error:
            self._deliver()
            self._fail(error)
        else:
            self._deliver()

    def set_congested(self, *, is_congested: bool) -> None:
        """Stop or resume audio."""
        self._is_full = is_congested
        self._weigh()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._is_over:
            return
        if is_congested:
            self._stall_timer = self._loop.call_later(STALL_TIMEOUT_S, self._has_stalled)
        else:
            self._tell_room()

    def receive_end(self) -> None:
        """The connection has ended, on both sides as far as can be known."""
        self._has_ended = True
        if self._is_over and self._has_connected and self._opening is None:
            self._go()

    # --- inside --------------------------------------------------------------------------------

    def _spend(self, pacer: Pacer, n_bytes: int, *, now_s: float) -> None:
        pacer.spend(n_bytes / self._bytes_per_ms, now_s=now_s)
        wait_s = pacer.wait_s(now_s=now_s)
        if wait_s > 0 and self._pace_timer is None:
            self._pace_timer = self._loop.call_later(wait_s, self._pace_allows)
            self._weigh()

    def _pace_allows(self) -> None:
        self._pace_timer = None
        self._weigh()
        self._tell_room()

    def _weigh(self) -> None:
        # Kept rather than derived: it is asked for with every chunk.
        self.is_congested = self._is_full or self._pace_timer is not None

    def _tell_room(self) -> None:
        if not self.is_congested and not self._is_over:
            self._on_room()

    def _call(self, action: _Action) -> None:
        if self._is_over:
            return
        try:
            messages = action(now_s=self._loop.time())
        except ProviderError as error:
            self._deliver()
            self._fail(error)
        else:
            self._after(messages)

    def _after(self, messages: Sequence[str | bytes]) -> None:
        if messages and self._connection is not None:
            self._connection.send(messages)
        self._deliver()
        deadline_s = self.protocol.next_deadline_s()
        if deadline_s != self._timer_at_s and not self._is_over:
            self._set_timer(deadline_s)

    def _deliver(self) -> None:
        results = self.protocol.results_received()
        if not results or self._is_over:
            return
        if self._finish_timer is not None and isinstance(results[-1], Finished):
            self._finish_timer.cancel()
        self._on_results(results)

    def _set_timer(self, deadline_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at_s = deadline_s
        if deadline_s is not None:
            self._timer = self._loop.call_at(deadline_s, self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._timer = None
        self._timer_at_s = None
        self._call(self.protocol.handle_deadline)

    def _has_stalled(self) -> None:
        self._fail(ProviderUnavailableError("stalled", provider=self.protocol.name))

    def _finish_is_late(self) -> None:
        self._fail(ProviderUnavailableError("finish_timeout", provider=self.protocol.name))

    def _fail(self, error: ProviderError) -> None:
        if not self._is_over:
            self.close()
            self._on_failed(error)
