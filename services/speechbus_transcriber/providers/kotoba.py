"""Kotoba's realtime speech recognition as a client (providers.md 1). Pure.

Text comes as deltas to append, turns end by the server's judgment or, where it has none, by ours.
`commit` ends the session, so a flush cannot use it: silence brings a turn to its end instead.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from speechbus_transcriber.providers.closing import close_error
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ConnectRequest,
    Finished,
    HttpExchange,
    HttpResponse,
    Pace,
    ProviderError,
    Result,
    SessionRequest,
    WebSocketConnect,
)
from speechbus_transcriber.providers.kotoba_failures import (
    PROVIDER,
    confused,
    failure_error,
    is_about_settings,
    refusal_error,
    unavailable,
)
from speechbus_transcriber.providers.kotoba_flushes import KotobaFlushes
from speechbus_transcriber.providers.kotoba_hearing import KotobaHearing
from speechbus_transcriber.providers.kotoba_places import KotobaPlaces
from speechbus_transcriber.providers.kotoba_wishes import KotobaWishes
from speechbus_wire import kotoba as wire

__all__ = ["CAPABILITIES", "KotobaAccount", "KotobaProtocol", "KotobaWishes"]

CAPABILITIES: Final = Capabilities(
    languages=("en", "ja", "ko", "zh"),
    needs_language=True,
    has_word_times=False,
    translates=False,
    sample_rates_hz=(24_000, 16_000, 44_100, 48_000),
    pace=Pace(rate=1.0, lead_ms=1_000),
    turn_pause_ms=700,
    deaf_after_s=3.5,
)
"""Languages of its AsyncAPI document, rates of its samples' table (24 kHz is the model's). Samples
and SDK send in real time, and nothing says that faster is taken (providers.md 1.1, 1.4, 1.7)."""

CHUNK_MS: Final = 100
"""Its samples send 80 ms, its SDK 200 (providers.md 1.1)."""
SILENCE_MS: Final = 600
"""Of `server_vad`: a pause inside a sentence is shorter. `turn_pause_ms` is longer, for a server
whose detector starts late."""
SETUP_TIMEOUT_S: Final = 10.0
"""The server itself waits this long for the update (providers.md 1.4)."""
QUIET_S: Final = 0.5
"""Without audio of the stream this long, silence goes on in its place: a turn does not end while no
audio arrives (providers.md 1.4)."""
IDLE_S: Final = 5.0
"""Between two signs of life when no turn is open: no time-out is documented, gateways have one."""
COMMIT_TIMEOUT_S: Final = 30.0
"""The sample client allows this from commit to committed (providers.md 1.7)."""
ANSWER_TIMEOUT_S: Final = 10.0
UNANSWERED_MS: Final = 2_000
"""A server that has told about silence, every 80 ms, or has begun a turn, is left when so much
audio has been sent since its last word, and then this time has passed: it answers pings only."""
FORMER_S: Final = 1.0
"""A turn that is complete waits so long for the `completed` of the one before it: their order is
not guaranteed (providers.md 1.6)."""


class KotobaAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Where Kotoba is, and our key there."""

    api_key: str
    url: str
    sessions_max: int | None = None
    """Sessions at once; None: no limit is known."""

    def __repr__(self) -> str:
        """Without the key."""
        return "KotobaAccount()"


class KotobaProtocol:
    """State machine of one session; implements `ProviderProtocol`.

    Args:
        request: what is asked for.
        account: where, and who asks.
        wishes: of the account's sessions.
    """

    name = PROVIDER

    def __init__(
        self, request: SessionRequest, account: KotobaAccount, wishes: KotobaWishes
    ) -> None:
        self._request = request
        self._account = account
        self._wishes = wishes
        self._wants_all = wishes.are_all
        self._language = None
        if request.language is not None:
            self._language = request.language.partition("-")[0].lower()
        self._places = KotobaPlaces(sample_rate_hz=request.sample_rate_hz, chunk_ms=CHUNK_MS)
        self._hearing = KotobaHearing(self._places, language=self._language)
        self._turns = self._hearing.turns
        self._chunk_bytes = request.sample_rate_hz * CHUNK_MS // 1000 * 2
        self._rest = bytearray()
        self._is_ready = False
        # A session opens within a second, and the pace lets through little more until then.
        self._held: list[str | bytes] = []
        self._setup_at_s: float | None = None
        self._given_at_s: float | None = None
        self._quiet_at_s: float | None = None
        self._former_at_s: float | None = None
        self._heard_at_s = 0.0
        self._heard_sent_ms = 0  # audio sent when the server last spoke
        self._unanswered_at_s: float | None = None
        self._flushes = KotobaFlushes(self._hearing)
        self._committed_by_s: float | None = None
        self._is_finished = False
        self._results: list[Result] = []

    # --- opening and end -----------------------------------------------------------------------

    def connect_request(self) -> ConnectRequest:
        """The one address; `Key` is fal's word for `Bearer`."""
        host = urlsplit(self._account.url).hostname or ""
        scheme = "Key" if host == "fal.run" or host.endswith(".fal.run") else "Bearer"
        return WebSocketConnect(
            url=self._account.url,
            headers=(("Authorization", f"{scheme} {self._account.api_key}"),),
        )

    def receive_response(self, response: HttpResponse, *, now_s: float) -> None:
        """Take the refusal of an upgrade.

        Raises:
            ProviderError: by the status.
        """
        del now_s
        raise refusal_error(response)

    def messages_to_open(self) -> Sequence[str | bytes]:
        """The update, without waiting for `created`, as the vendor's SDK does."""
        session = wire.Session(
            input_audio_format="pcm16",
            input_audio_sample_rate=self._request.sample_rate_hz,
            input_audio_transcription=wire.TranscriptionSettings(
                language=self._language,
                target_language=self._language,
                keywords=self._request.keywords,
                timestamps=True if self._wants_all else msgspec.UNSET,
            ),
            turn_detection=self._wants_all and wire.ServerVad(silence_duration_ms=SILENCE_MS),
        )
        return [wire.encode_message(wire.SessionUpdate(session))]

    def farewell_requests(self) -> Sequence[HttpExchange]:
        """None: the session ends with its connection."""
        return ()

    def receive_close(self, code: int | None, *, now_s: float) -> None:
        """The connection ended.

        Raises:
            ProviderError: by the code, unless the session had finished.
        """
        del now_s
        if not self._is_finished:
            raise close_error(code, provider=self.name)

    # --- audio ---------------------------------------------------------------------------------

    def audio_to_send(self, pcm: memoryview, *, now_s: float) -> Sequence[str | bytes]:
        """Take PCM s16le mono; return it as appends of `CHUNK_MS`."""
        self._places.give(len(pcm) // 2)
        self._given_at_s = now_s
        self._quiet_at_s = now_s + QUIET_S
        self._rest += pcm
        messages: list[str | bytes] = []
        while len(self._rest) >= self._chunk_bytes:
            messages.append(self._append(self._chunk_bytes))
        self._results += self._hearing.note_sent()
        return self._when_ready(messages, now_s)

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        """Bring the open turn to its end with silence; `Flushed` follows among the results."""
        self._flushes.ask(self._places.given_ms, now_s=now_s)
        return self._when_ready([*self._take_rest(), *self._be_silent(now_s)], now_s)

    def end_turn(self, *, now_s: float) -> None:
        """Only silence does: `commit` would end the session."""

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Commit: the end of all audio; `Finished` follows among the results."""
        messages = [*self._take_rest(), wire.encode_message(wire.Commit())]
        self._committed_by_s = now_s + COMMIT_TIMEOUT_S
        return self._when_ready(messages, now_s)

    def next_deadline_s(self) -> float | None:
        """The handshake, the rest of a chunk, silence, a flush, or an answer that is owed."""
        if self._is_finished:
            return None
        if self._committed_by_s is not None:
            deadlines = [self._setup_at_s, self._committed_by_s]
        elif not self._is_ready:
            deadlines = [self._setup_at_s]
        else:
            deadlines = [
                self._rest_at_s,
                self._quiet_at_s,
                self._former_at_s,
                self._answer_by_s,
                self._flushes.due_at_s,
            ]
        return min((at_s for at_s in deadlines if at_s is not None), default=None)

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Do what is due.

        Raises:
            ProviderUnavailableError: the server owes an answer.
        """
        if _is_due(self._setup_at_s, now_s):
            raise unavailable("not_updated")
        if _is_due(self._committed_by_s, now_s):
            raise unavailable("not_committed")
        if not self._is_ready or self._committed_by_s is not None:
            return ()
        if _is_due(self._answer_by_s, now_s):
            raise unavailable("unanswered")
        messages: list[str | bytes] = []
        if _is_due(self._rest_at_s, now_s):
            messages += self._take_rest()
        if _is_due(self._quiet_at_s, now_s):
            messages += [*self._take_rest(), *self._be_silent(now_s)]
        if _is_due(self._former_at_s, now_s):
            self._results += self._turns.stop_holding()
        self._after_turns(now_s)
        return self._when_ready(messages, now_s)

    @property
    def _rest_at_s(self) -> float | None:
        if not self._rest or self._given_at_s is None:
            return None
        return self._given_at_s + CHUNK_MS / 1000

    @property
    def _answer_by_s(self) -> float | None:
        owes_answer = self._hearing.tells_silence or self._turns.is_any_open
        if self._unanswered_at_s is None or not owes_answer:
            return None
        return self._unanswered_at_s + ANSWER_TIMEOUT_S

    # --- messages ------------------------------------------------------------------------------

    def receive_message(self, message: str | bytes, *, now_s: float) -> Sequence[str | bytes]:
        """Take one message; the answer to `updated` is the audio that waited for it.

        Raises:
            ProviderError: by the kind of an `error` event.
            ProviderProtocolError: no JSON, or a known type with wrong fields.
        """
        if self._is_finished or not isinstance(message, str):
            return ()  # binary: ignored, as by the vendor's SDK (providers.md 1.2)
        try:
            received = wire.decode_server_message(message)
        except wire.KotobaError:
            raise confused("bad_message") from None
        self._heard_at_s = now_s
        self._heard_sent_ms = self._places.sent_ms
        self._unanswered_at_s = None
        answer: Sequence[str | bytes] = ()
        match received:
            case wire.Updated():
                answer = self._begin(received.session, now_s)
            case wire.Delta():
                self._results += self._hearing.take_delta(received)
            case wire.Completed():
                self._results += self._hearing.take_completed(received)
            case wire.Committed():
                self._take_committed()
            case wire.Failure():
                raise self._read_failure(received)
            case wire.Created() | wire.ItemCreated() | None:
                pass
        self._after_turns(now_s)
        return [*answer, *self._when_ready([], now_s)]

    def results_received(self) -> list[Result]:
        """Results since the last call, in order; the list is the caller's."""
        results, self._results = self._results, []
        return results

    def _begin(self, session: wire.Session, now_s: float) -> Sequence[str | bytes]:
        self._is_ready = True
        self._setup_at_s = None
        if self._quiet_at_s is None:
            self._quiet_at_s = now_s + IDLE_S  # one that waits to follow another has no audio yet
        self._hearing.ends_turns = isinstance(session.turn_detection, wire.ServerVad)
        self._flushes.restart(now_s=now_s)
        held, self._held = self._held, []
        return held

    def _read_failure(self, failure: wire.Failure) -> ProviderError:
        if (
            not self._is_ready
            and is_about_settings(failure)
            and self._wishes.refuse(are_all=self._wants_all)
        ):
            return unavailable("settings_refused")
        return failure_error(failure, is_open=self._is_ready)

    def _take_committed(self) -> None:
        if self._committed_by_s is None:
            return  # OpenAI's word for the end of a turn; Kotoba says it at the end only (case 16)
        self._results += self._turns.end_all()
        self._results += self._turns.cover(self._places.given_ms)
        self._results += self._flushes.answer_all()
        self._is_finished = True
        self._results.append(Finished())

    def _after_turns(self, now_s: float) -> None:
        if not self._turns.is_any_held:
            self._former_at_s = None
        elif self._former_at_s is None:
            self._former_at_s = now_s + FORMER_S
        if self._is_ready and self._committed_by_s is None:
            self._results += self._flushes.check(now_s=now_s, heard_at_s=self._heard_at_s)

    # --- small things --------------------------------------------------------------------------

    def _append(self, n_bytes: int) -> str:
        audio = wire.encode_audio(bytes(self._rest[:n_bytes]))
        del self._rest[:n_bytes]
        event_id = self._places.append(n_bytes // 2)
        return wire.encode_message(wire.Append(audio=audio, event_id=event_id))

    def _take_rest(self) -> list[str | bytes]:
        return [self._append(len(self._rest))] if self._rest else []

    def _be_silent(self, now_s: float) -> list[str | bytes]:
        """Send silence, and plan the next: in real time while somebody waits for a turn's end."""
        is_waiting = self._turns.is_any_open or self._flushes.is_any_open
        self._quiet_at_s = now_s + (CHUNK_MS / 1000 if is_waiting else IDLE_S)
        event_id = self._places.append_silence(self._chunk_bytes // 2)
        self._results += self._hearing.note_sent()
        silence = wire.encode_audio(bytes(self._chunk_bytes))
        return [wire.encode_message(wire.Append(audio=silence, event_id=event_id))]

    def _when_ready(self, messages: list[str | bytes], now_s: float) -> Sequence[str | bytes]:
        if not self._is_ready:
            if self._setup_at_s is None:
                self._setup_at_s = now_s + SETUP_TIMEOUT_S
            self._held += messages
            return ()
        is_much = self._places.sent_ms - self._heard_sent_ms >= UNANSWERED_MS
        if is_much and self._unanswered_at_s is None:
            self._unanswered_at_s = now_s
        return messages


def _is_due(at_s: float | None, now_s: float) -> bool:
    return at_s is not None and now_s >= at_s
