"""Runs one provider session: owns the connection and the clock, for every provider alike."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from speechbus_transcriber.providers.interface import (
    ConnectRequest,
    Finished,
    InProcess,
    ProviderError,
    ProviderProtocol,
    ProviderUnavailableError,
    Result,
)

__all__ = ["ConnectFunction", "Connection", "ConnectionEvents", "SessionDriver"]

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

    def receive_close(self) -> None:
        """The connection ended."""
        ...

    def set_congested(self, *, is_congested: bool) -> None:
        """The peer does not keep up (or does again)."""
        ...


class ConnectFunction(Protocol):
    """Opens the connection that a provider asks for; reports to `events` from then on."""

    async def __call__(self, request: ConnectRequest, events: ConnectionEvents) -> Connection:
        """Connect.

        Raises:
            OSError: nobody there.
        """
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
        on_results: gets results in order; never an empty list.
        on_failed: gets the error that ended the session; called at most once, nothing follows.
        on_room: audio is welcome again after `is_congested`.
    """

    def __init__(
        self,
        protocol: ProviderProtocol,
        *,
        on_results: Callable[[list[Result]], None],
        on_failed: Callable[[ProviderError], None],
        on_room: Callable[[], None],
    ) -> None:
        self.protocol = protocol
        self.is_congested = False
        self._on_results = on_results
        self._on_failed = on_failed
        self._on_room = on_room
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s: float | None = None
        self._finish_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_over = False

    async def open(self, connect: ConnectFunction) -> None:
        """Connect and send what opens the session.

        Raises:
            ProviderUnavailableError: no connection within `OPEN_TIMEOUT_S`.
        """
        request = self.protocol.connect_request()
        if not isinstance(request, InProcess):
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    self._connection = await connect(request, self)
            except (OSError, TimeoutError):
                raise ProviderUnavailableError(
                    "no_connection", provider=self.protocol.name
                ) from None
        self._after(self.protocol.messages_to_open())

    def send_audio(self, pcm: memoryview) -> None:
        """Send PCM s16le mono, whole samples."""
        if self._is_over:
            return
        try:
            messages = self.protocol.audio_to_send(pcm, now_s=self._loop.time())
        except ProviderError as error:
            self._fail(error)
        else:
            self._after(messages)

    def flush(self) -> None:
        """Ask for finals of everything sent so far."""
        self._call(self.protocol.flush)

    def finish(self) -> None:
        """Ask for the last finals; `Finished` comes among the results, or the session fails."""
        if self._is_over or self._finish_timer is not None:
            return
        self._finish_timer = self._loop.call_later(FINISH_TIMEOUT_S, self._finish_is_late)
        self._call(self.protocol.finish)

    def close(self) -> None:
        """End the session at once; no callback follows."""
        self._is_over = True
        for timer in (self._timer, self._finish_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- what the connection reports -----------------------------------------------------------

    def receive_message(self, message: str | bytes) -> None:
        """Take one message from the provider."""
        if self._is_over:
            return
        try:
            self.protocol.receive_message(message, now_s=self._loop.time())
        except ProviderError as error:
            self._deliver()
            self._fail(error)
        else:
            self._after(())

    def receive_close(self) -> None:
        """The provider's side of the connection ended."""
        if self._is_over:
            return
        self._connection = None
        try:
            self.protocol.receive_close(now_s=self._loop.time())
        except ProviderError as error:
            self._deliver()
            self._fail(error)
        else:
            self._deliver()

    def set_congested(self, *, is_congested: bool) -> None:
        """Stop or resume audio."""
        self.is_congested = is_congested
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._is_over:
            return
        if is_congested:
            self._stall_timer = self._loop.call_later(STALL_TIMEOUT_S, self._has_stalled)
        else:
            self._on_room()

    # --- inside --------------------------------------------------------------------------------

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
