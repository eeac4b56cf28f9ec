"""Kotoba's realtime speech recognition as a client (providers.md 1). Pure.

Text comes as deltas to append, turns end by the server's judgment or, where it has none, by ours.
`commit` ends the session, so a flush cannot use it: silence brings a turn to its end instead.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from speechbus_transcriber.providers.closing import close_error, status_error
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ConnectRequest,
    Covered,
    Finished,
    Flushed,
    Heard,
    HttpExchange,
    HttpResponse,
    Pace,
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
    WebSocketConnect,
)
from speechbus_transcriber.providers.session_clock import SessionClock
from speechbus_wire import kotoba as wire

__all__ = ["CAPABILITIES", "KotobaAccount", "KotobaProtocol"]

CAPABILITIES: Final = Capabilities(
    languages=("en", "ja", "ko", "zh"),
    needs_language=True,
    has_word_times=False,
    translates=False,
    sample_rates_hz=(24_000, 16_000, 44_100, 48_000),
    pace=Pace(rate=1.0, lead_ms=1_000),
    deaf_after_s=3.5,
)
"""Languages of its AsyncAPI document, rates of its samples' table (24 kHz is the model's). Samples
and SDK send in real time, and nothing says that faster is taken (providers.md 1.1, 1.4, 1.7)."""

CHUNK_MS: Final = 100
"""Its samples send 80 ms, its SDK 200 (providers.md 1.1)."""
SILENCE_MS: Final = 600
"""Of `server_vad`: a pause inside a sentence is shorter."""
SETUP_TIMEOUT_S: Final = 10.0
"""The server itself waits this long for the update (providers.md 1.4)."""
QUIET_S: Final = 0.5
"""Without audio of the stream this long, silence goes on in its place: a turn does not end while no
audio arrives (providers.md 1.4)."""
IDLE_S: Final = 5.0
"""Between two signs of life when no turn is open: no time-out is documented, gateways have one."""
FLUSH_SETTLE_S: Final = 2.0
"""Silence after a flush in which an unfinished turn would have ended, and text would have come."""
FLUSH_TIMEOUT_S: Final = 10.0
COMMIT_TIMEOUT_S: Final = 30.0
"""The sample client allows this from commit to committed (providers.md 1.7)."""
LAG_MS: Final = 5_000
"""Behind what was sent, where the server does not tell how far it has heard."""
SELF_PAUSE_MS: Final = 1_000
SELF_LENGTH_MS: Final = 15_000
"""Where the server ends no turns: a segment ends with a sentence, with this much audio without a
new word, or when it is this long (providers.md case 26)."""
SENTENCE_ENDS: Final = (".", "!", "?", "\u3002", "\uff01", "\uff1f")
"""Also the wide ones of Japanese and Chinese."""
ITEMS_MAX: Final = 16
"""Turns open at once: one, and those whose `completed` comes out of order."""
MARKS_MAX: Final = 4_096
"""Appends whose place is remembered: some seven minutes."""
_CHUNK_ID: Final = "chunk-"


class KotobaAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Where Kotoba is, and our key there."""

    api_key: str
    url: str

    def __repr__(self) -> str:
        """Without the key."""
        return "KotobaAccount()"


class _Item(msgspec.Struct, kw_only=True):
    """A turn that is not final, or waits for an earlier one."""

    text: str = ""
    start_ms: int
    end_ms: int
    is_final: bool = False
    processed_ms: int | None = None


class _Flush(msgspec.Struct, frozen=True):
    given_ms: int
    settles_at_s: float
    deadline_s: float


class KotobaProtocol:
    """State machine of one session; implements `ProviderProtocol`.

    Args:
        request: what is asked for.
        account: where, and who asks.
    """

    name = "kotoba"

    def __init__(self, request: SessionRequest, account: KotobaAccount) -> None:
        self._request = request
        self._account = account
        self._clock = SessionClock(sample_rate_hz=request.sample_rate_hz)
        self._chunk_bytes = request.sample_rate_hz * CHUNK_MS // 1000 * 2
        self._silence = bytes(self._chunk_bytes)
        self._rest = bytearray()
        self._is_ready = False
        self._ends_turns = True
        # A session opens within a second, and the pace lets through little more until then.
        self._held: list[str | bytes] = []
        self._setup_at_s: float | None = None
        self._given_at_s: float | None = None
        self._quiet_at_s: float | None = None
        self._n_chunks = 0
        self._marks: deque[tuple[int, int]] = deque(maxlen=MARKS_MAX)
        self._items: dict[str, _Item] = {}
        self._last_end_ms = 0
        self._covered_ms = 0
        self._processed_ms = 0
        self._words_at_ms = 0
        self._heard_at_s = 0.0
        self._flushes: deque[_Flush] = deque()
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
        raise status_error(response, provider=self.name)

    def messages_to_open(self) -> Sequence[str | bytes]:
        """The update, without waiting for `created`, as the vendor's SDK does."""
        language = self._request.language
        primary = None if language is None else language.partition("-")[0].lower()
        session = wire.Session(
            input_audio_format="pcm16",
            input_audio_sample_rate=self._request.sample_rate_hz,
            input_audio_transcription=wire.TranscriptionSettings(
                language=primary,
                target_language=primary,
                keywords=self._request.keywords,
                timestamps=True,
            ),
            turn_detection=wire.ServerVad(silence_duration_ms=SILENCE_MS),
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
        self._given_at_s = now_s
        self._quiet_at_s = now_s + QUIET_S
        self._rest += pcm
        messages: list[str | bytes] = []
        while len(self._rest) >= self._chunk_bytes:
            messages.append(self._append(bytes(self._rest[: self._chunk_bytes])))
            del self._rest[: self._chunk_bytes]
        self._clock.give(len(pcm) // 2)
        self._cut_by_ourselves()
        return self._when_ready(messages, now_s)

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        """Bring the open turn to its end with silence; `Flushed` follows among the results."""
        self._flushes.append(
            _Flush(
                given_ms=self._clock.given_ms,
                settles_at_s=now_s + FLUSH_SETTLE_S,
                deadline_s=now_s + FLUSH_TIMEOUT_S,
            )
        )
        return self._when_ready([*self._take_rest(), *self._be_silent(now_s)], now_s)

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Commit: the end of all audio; `Finished` follows among the results."""
        self._quiet_at_s = None
        self._committed_by_s = now_s + COMMIT_TIMEOUT_S
        return self._when_ready([*self._take_rest(), wire.encode_message(wire.Commit())], now_s)

    def next_deadline_s(self) -> float | None:
        """The handshake, the rest of a chunk, silence, a flush, or the last answer."""
        if self._is_finished:
            return None
        rest_at_s = None
        if self._rest and self._given_at_s is not None:
            rest_at_s = self._given_at_s + CHUNK_MS / 1000
        flush_at_s = None
        if self._flushes:
            oldest = self._flushes[0]
            flush_at_s = oldest.deadline_s if self._items else oldest.settles_at_s
        deadlines = (
            self._setup_at_s,
            rest_at_s,
            self._quiet_at_s,
            flush_at_s,
            self._committed_by_s,
        )
        return min((at_s for at_s in deadlines if at_s is not None), default=None)

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Do what is due.

        Raises:
            ProviderUnavailableError: the server owes an answer.
        """
        if self._setup_at_s is not None and now_s >= self._setup_at_s:
            raise ProviderUnavailableError("not_updated", provider=self.name)
        if self._committed_by_s is not None and now_s >= self._committed_by_s:
            raise ProviderUnavailableError("not_committed", provider=self.name)
        messages: list[str | bytes] = []
        if self._given_at_s is not None and now_s >= self._given_at_s + CHUNK_MS / 1000:
            messages += self._take_rest()
        if self._quiet_at_s is not None and now_s >= self._quiet_at_s:
            messages += [*self._take_rest(), *self._be_silent(now_s)]
        self._check_flush(now_s)
        return self._when_ready(messages, now_s)

    # --- messages ------------------------------------------------------------------------------

    def receive_message(self, message: str | bytes, *, now_s: float) -> Sequence[str | bytes]:
        """Take one message; the answer to `updated` is the audio that waited for it.

        Raises:
            ProviderError: by the kind of an `error` event.
            ProviderProtocolError: binary, no JSON, or a known type with wrong fields.
        """
        if not isinstance(message, str):
            raise self._confused("binary_message")
        try:
            received = wire.decode_server_message(message)
        except wire.KotobaError:
            raise self._confused("bad_message") from None
        self._heard_at_s = now_s
        match received:
            case wire.Updated():
                return self._begin(received.session)
            case wire.Delta():
                self._take_delta(received)
            case wire.Completed():
                self._take_completed(received)
            case wire.Committed():
                self._take_committed()
            case wire.Failure():
                raise self._failure(received)
            case wire.Created() | wire.ItemCreated() | None:
                pass
        self._check_flush(now_s)
        return ()

    def results_received(self) -> list[Result]:
        """Results since the last call, in order; the list is the caller's."""
        results, self._results = self._results, []
        return results

    def _begin(self, session: wire.Session) -> Sequence[str | bytes]:
        self._is_ready = True
        self._setup_at_s = None
        self._ends_turns = isinstance(session.turn_detection, wire.ServerVad)
        held, self._held = self._held, []
        return held

    def _take_delta(self, delta: wire.Delta) -> None:
        self._note_processed(delta.audio_processed_ms)
        if not delta.delta:
            self._cut_by_ourselves()
            self._cover_silence(delta.audio_processed_ms)
            return
        key = self._key(delta.item_id)
        item = self._items.get(key)
        start_ms, end_ms = self._span(delta)
        if item is None:
            item = self._items[key] = _Item(
                start_ms=max(start_ms, self._last_end_ms), end_ms=end_ms
            )
            if len(self._items) > ITEMS_MAX:
                self._finalize(next(iter(self._items)))
        item.text += delta.delta
        item.end_ms = max(item.end_ms, end_ms, item.start_ms)
        self._words_at_ms = self._clock.given_ms
        if self._items and next(iter(self._items)) == key:
            self._hear(item, is_final=False)
        if not self._ends_turns and item.text.rstrip().endswith(SENTENCE_ENDS):
            self._finalize(key)

    def _take_completed(self, completed: wire.Completed) -> None:
        self._ends_turns = True
        self._note_processed(completed.audio_processed_ms)
        key = self._key(completed.item_id)
        item = self._items.get(key)
        if item is None:
            if not completed.transcript:
                return
            start_ms, end_ms = self._span(completed)
            item = self._items[key] = _Item(
                start_ms=max(start_ms, self._last_end_ms), end_ms=max(end_ms, self._last_end_ms)
            )
        elif completed.end_ms is not None:
            item.end_ms = max(item.start_ms, self._clock.to_stream_ms(completed.end_ms))
        item.text = completed.transcript
        item.is_final = True
        item.processed_ms = completed.audio_processed_ms
        # In the order in which the turns began: `completed` may come out of it (case 18).
        while self._items and next(iter(self._items.values())).is_final:
            self._finalize(next(iter(self._items)))

    def _take_committed(self) -> None:
        while self._items:
            self._finalize(next(iter(self._items)))
        if self._clock.given_ms > self._covered_ms:
            self._results.append(Covered(self._clock.given_ms))
        self._committed_by_s = None
        self._is_finished = True
        self._results.append(Finished())

    def _finalize(self, key: str) -> None:
        item = self._items.pop(key)
        # Turns follow each other, whatever their times say.
        item.start_ms = max(item.start_ms, self._last_end_ms)
        item.end_ms = max(item.end_ms, item.start_ms)
        self._last_end_ms = item.end_ms
        covered_ms = item.end_ms
        if item.processed_ms is not None and not self._items:
            covered_ms = max(covered_ms, self._clock.to_stream_ms(item.processed_ms))
        self._covered_ms = max(self._covered_ms, covered_ms)
        self._hear(item, is_final=True, covered_ms=covered_ms)

    def _hear(self, item: _Item, *, is_final: bool, covered_ms: int | None = None) -> None:
        language = self._request.language
        self._results.append(
            Heard(
                text=item.text.strip(),
                is_final=is_final,
                start_ms=item.start_ms,
                end_ms=item.end_ms,
                covered_ms=covered_ms,
                language=None if language is None else language.partition("-")[0].lower(),
            )
        )

    # --- places in the audio -------------------------------------------------------------------

    def _key(self, item_id: str | None) -> str:
        """Return what a turn is known by; an id that echoes our append names none."""
        return "" if item_id is None or item_id.startswith(_CHUNK_ID) else item_id

    def _span(self, told: wire.Delta | wire.Completed) -> tuple[int, int]:
        if told.start_ms is not None and told.end_ms is not None:
            if not 0 <= told.start_ms <= told.end_ms:
                raise self._confused("time_runs_backwards")
            return self._clock.to_stream_ms(told.start_ms), self._clock.to_stream_ms(told.end_ms)
        # Without times: the append that the text came from, or all that was sent.
        end_ms = self._clock.given_ms
        if told.item_id is not None and told.item_id.startswith(_CHUNK_ID):
            number = told.item_id.removeprefix(_CHUNK_ID)
            start_ms = dict(self._marks).get(int(number) if number.isdecimal() else -1, end_ms)
            return start_ms, min(end_ms, start_ms + CHUNK_MS)
        return max(0, end_ms - CHUNK_MS), end_ms

    def _note_processed(self, processed_ms: int | None) -> None:
        if processed_ms is not None:
            self._processed_ms = max(self._processed_ms, processed_ms)

    def _cover_silence(self, processed_ms: int | None) -> None:
        """An empty delta tells how far the server has heard, exactly or nearly (case 19)."""
        if self._items:
            return
        heard_ms = (
            self._clock.given_ms - LAG_MS
            if processed_ms is None
            else self._clock.to_stream_ms(processed_ms)
        )
        if heard_ms >= self._covered_ms + 1_000:
            self._covered_ms = heard_ms
            self._results.append(Covered(heard_ms))

    def _cut_by_ourselves(self) -> None:
        """End a segment where the server ends no turns."""
        if self._ends_turns or not self._items:
            return
        key, item = next(iter(self._items.items()))
        given_ms = self._clock.given_ms
        if (
            given_ms - self._words_at_ms >= SELF_PAUSE_MS
            or item.end_ms - item.start_ms >= SELF_LENGTH_MS
        ):
            self._finalize(key)

    # --- flush ---------------------------------------------------------------------------------

    def _check_flush(self, now_s: float) -> None:
        """Answer flushes whose audio is all heard.

        Raises:
            ProviderUnavailableError: the server is silent: its audio must be heard again.
        """
        while self._flushes:
            flush = self._flushes[0]
            if now_s >= flush.deadline_s:
                if self._heard_at_s < flush.deadline_s - FLUSH_TIMEOUT_S:
                    raise ProviderUnavailableError("flush_unanswered", provider=self.name)
                while self._items:
                    self._finalize(next(iter(self._items)))
            is_settled = now_s >= flush.settles_at_s or (
                self._processed_ms > 0
                and self._clock.to_stream_ms(self._processed_ms) >= flush.given_ms
            )
            if self._items or not is_settled:
                return
            self._flushes.popleft()
            self._results.append(Flushed())

    # --- small things --------------------------------------------------------------------------

    def _append(self, pcm: bytes) -> str:
        self._n_chunks += 1
        self._marks.append((self._n_chunks, self._clock.given_ms))
        return wire.encode_message(
            wire.Append(audio=wire.encode_audio(pcm), event_id=f"{_CHUNK_ID}{self._n_chunks:07d}")
        )

    def _take_rest(self) -> list[str | bytes]:
        rest, self._rest = bytes(self._rest), bytearray()
        return [self._append(rest)] if rest else []

    def _be_silent(self, now_s: float) -> list[str | bytes]:
        """Send silence, and plan the next: in real time while somebody waits for a turn's end."""
        is_waiting = bool(self._items or self._flushes)
        self._quiet_at_s = now_s + (CHUNK_MS / 1000 if is_waiting else IDLE_S)
        message = self._append(self._silence)
        self._clock.insert(len(self._silence) // 2)
        return [message]

    def _when_ready(self, messages: list[str | bytes], now_s: float) -> Sequence[str | bytes]:
        if self._is_ready:
            return messages
        if self._setup_at_s is None:
            self._setup_at_s = now_s + SETUP_TIMEOUT_S
        self._held += messages
        return ()

    def _failure(self, failure: wire.Failure) -> ProviderError:
        code = failure.code or failure.kind or "error"
        if code == "rate_limit_error" or failure.is_capacity:
            return ProviderRateLimitedError("rate_limit_error", provider=self.name)
        if code in {"invalid_api_key", "session_expired"} or code.startswith("invalid_"):
            return ProviderRejectedError(code, provider=self.name)
        return ProviderUnavailableError(code, provider=self.name)

    def _confused(self, code: str) -> ProviderProtocolError:
        return ProviderProtocolError(code, provider=self.name)
