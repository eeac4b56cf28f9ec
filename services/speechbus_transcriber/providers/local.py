"""The local engine's protocol: PocketSphinx in a process of this worker, behind a Unix socket."""

from collections.abc import Sequence
from typing import Final

from speechbus_transcriber.providers import local_wire as wire
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ConnectRequest,
    Covered,
    EngineConnect,
    Finished,
    Flushed,
    Heard,
    HeardWord,
    HttpExchange,
    HttpResponse,
    ProviderProtocolError,
    ProviderRejectedError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
    TurnEnded,
    TurnStarted,
)

__all__ = ["CAPABILITIES", "LocalProtocol", "open_protocol"]

CAPABILITIES: Final = Capabilities(languages=("en",), has_word_times=True, translates=False)
"""PocketSphinx's wheel carries one model, US English."""

ENGINE: Final = "local"
"""Name of the engine process to connect to."""

TURN_STOP_MS: Final = 600
"""Pauses inside a sentence are shorter; 0.6 s kept 10 of 10 test utterances whole."""

AUDIO_BYTES_MAX: Final = 64_000
"""2 s at 16 kHz in one frame: a replayed backlog is cut into pieces that the engine decodes in
about 0.2 s each, so that results are never held up behind a large frame."""

READY_TIMEOUT_S: Final = 10.0
"""A session is ready within milliseconds; this long only if the machine is badly overloaded."""

FLUSH_TIMEOUT_S: Final = 30.0
"""The engine first decodes what waits in the socket; it does that about ten times faster than real
time, so 30 s is room for several minutes of backlog."""


class LocalProtocol:
    """State machine of one session with the local engine; implements `ProviderProtocol`."""

    def __init__(self, request: SessionRequest) -> None:
        """Prepare a session.

        Args:
            request: Its sample rate; the language must be one of `CAPABILITIES` or None, which
                routing has seen to.
        """
        self._request = request
        self._results: list[Result] = []
        self._is_ready = False
        self._is_finishing = False
        self._is_finished = False
        self._ready_deadline_s: float | None = None
        # Deadlines of flushes not yet answered, oldest first. One per call of `flush`, and each is
        # removed by its answer or ends the session, so the list stays as short as the timeout.
        self._flush_deadlines_s: list[float] = []
        self._finish_deadline_s: float | None = None

    @property
    def name(self) -> str:
        """The provider's name as routes and events spell it."""
        return "local"

    def connect_request(self) -> ConnectRequest:
        """Where to connect: the worker's engine process."""
        return EngineConnect(engine=ENGINE)

    def messages_to_open(self) -> Sequence[str | bytes]:
        """Say what audio will come; the engine takes it before it has answered `ready`."""
        opening = wire.Open(sample_rate_hz=self._request.sample_rate_hz, turn_stop_ms=TURN_STOP_MS)
        return [wire.encode_message(opening)]

    def audio_to_send(self, pcm: memoryview, *, now_s: float) -> Sequence[str | bytes]:
        """Take PCM s16le mono, whole samples; return it as messages of bounded size."""
        self._start_waiting(now_s)
        octets = pcm.cast("B")
        return [
            bytes(octets[at : at + AUDIO_BYTES_MAX])
            for at in range(0, len(octets), AUDIO_BYTES_MAX)
        ]

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        """Ask for finals of everything sent so far; `Flushed` follows among the results."""
        self._start_waiting(now_s)
        self._flush_deadlines_s.append(now_s + FLUSH_TIMEOUT_S)
        return [wire.encode_message(wire.Flush())]

    def end_turn(self, *, now_s: float) -> None:
        """No silence is left out at this engine."""

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Flush and end the session; `Finished` follows among the results."""
        self._start_waiting(now_s)
        self._is_finishing = True
        self._finish_deadline_s = now_s + FLUSH_TIMEOUT_S
        return [wire.encode_message(wire.Finish())]

    def receive_response(self, response: HttpResponse, *, now_s: float) -> None:
        """Nobody asks over HTTP.

        Raises:
            ProviderProtocolError: always.
        """
        raise self._confused("unasked_response")

    def receive_message(self, message: str | bytes, *, now_s: float) -> Sequence[str | bytes]:
        """Take one message from the engine; nothing is answered.

        Raises:
            ProviderUnavailableError: The engine is full or failed; a new session may work.
            ProviderRejectedError: The engine cannot serve this sample rate.
            ProviderProtocolError: The message makes no sense here.
        """
        if not isinstance(message, str):
            raise self._confused("audio_from_engine")
        try:
            received = wire.decode_engine_message(message)
        except wire.MessageError:
            raise self._confused("unknown_message") from None
        if self._is_finished:
            raise self._confused("message_after_finished")
        match received:
            case wire.Error():
                raise self._refused(received.code)
            case wire.Ready():
                self._receive_ready()
            case _ if not self._is_ready:
                raise self._confused("message_before_ready")
            case wire.Flushed() | wire.Finished():
                self._receive_answer(received)
            case _:
                self._results.append(self._result(received))
        return ()

    def receive_close(self, code: int | None, *, now_s: float) -> None:
        """The connection ended.

        Raises:
            ProviderUnavailableError: Unless the session had finished; the engine's process died.
        """
        if not self._is_finished:
            raise ProviderUnavailableError("engine_closed", provider=self.name)

    def next_deadline_s(self) -> float | None:
        """When the oldest unanswered request is overdue; None: the engine owes no answer."""
        pending = [self._ready_deadline_s, *self._flush_deadlines_s[:1], self._finish_deadline_s]
        return min((at_s for at_s in pending if at_s is not None), default=None)

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Give the engine up when it owes an answer.

        Raises:
            ProviderUnavailableError: The engine did not answer in time.
        """
        deadline_s = self.next_deadline_s()
        if deadline_s is not None and deadline_s <= now_s:
            raise ProviderUnavailableError("engine_silent", provider=self.name)
        return []

    def results_received(self) -> list[Result]:
        """Results since the last call, in order; the list is the caller's."""
        results, self._results = self._results, []
        return results

    def farewell_requests(self) -> Sequence[HttpExchange]:
        """None: the session ends with its connection."""
        return ()

    def _start_waiting(self, now_s: float) -> None:
        # The interface tells no time at `messages_to_open`; the first call after it is soon enough.
        if not self._is_ready and self._ready_deadline_s is None:
            self._ready_deadline_s = now_s + READY_TIMEOUT_S

    def _receive_ready(self) -> None:
        if self._is_ready:
            raise self._confused("ready_twice")
        self._is_ready = True
        self._ready_deadline_s = None

    def _receive_answer(self, received: wire.Flushed | wire.Finished) -> None:
        match received:
            case wire.Flushed():
                if not self._flush_deadlines_s:
                    raise self._confused("flushed_unasked")
                del self._flush_deadlines_s[0]
                self._results.append(Flushed())
            case wire.Finished():
                if not self._is_finishing or self._flush_deadlines_s:
                    raise self._confused("finished_unasked")
                self._is_finished = True
                self._finish_deadline_s = None
                self._results.append(Finished())

    def _result(
        self,
        received: wire.TurnStarted | wire.TurnEnded | wire.Covered | wire.Partial | wire.Final,
    ) -> Result:
        match received:
            case wire.TurnStarted():
                return TurnStarted(received.at_ms)
            case wire.TurnEnded():
                return TurnEnded(received.at_ms)
            case wire.Covered():
                return Covered(received.covered_ms)
            case wire.Partial():
                self._check_span(received.start_ms, received.end_ms)
                return Heard(
                    text=received.text,
                    is_final=False,
                    start_ms=received.start_ms,
                    end_ms=received.end_ms,
                    language="en",
                )
            case wire.Final():
                return self._heard_final(received)

    def _heard_final(self, received: wire.Final) -> Heard:
        self._check_span(received.start_ms, received.end_ms)
        self._check_span(received.end_ms, received.covered_ms)
        for word in received.words:
            self._check_span(word.start_ms, word.end_ms)
        return Heard(
            text=received.text,
            is_final=True,
            start_ms=received.start_ms,
            end_ms=received.end_ms,
            covered_ms=received.covered_ms,
            language="en",
            words=tuple(
                HeardWord(
                    text=word.text,
                    start_ms=word.start_ms,
                    end_ms=word.end_ms,
                    confidence=word.confidence,
                )
                for word in received.words
            ),
        )

    def _check_span(self, start_ms: int, end_ms: int) -> None:
        if start_ms > end_ms:
            raise self._confused("time_runs_backwards")

    def _confused(self, code: str) -> ProviderProtocolError:
        return ProviderProtocolError(code, provider=self.name)

    def _refused(
        self, code: wire.EngineErrorCode
    ) -> ProviderUnavailableError | ProviderRejectedError | ProviderProtocolError:
        match code:
            case "engine_full" | "internal":
                return ProviderUnavailableError(code, provider=self.name)
            case "bad_request":
                return ProviderRejectedError(code, provider=self.name)
            case "bad_message":
                return ProviderProtocolError(code, provider=self.name)


def open_protocol(request: SessionRequest) -> LocalProtocol:
    """Return the state machine of a new session."""
    return LocalProtocol(request)
