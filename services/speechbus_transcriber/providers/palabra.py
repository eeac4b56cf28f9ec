"""Palabra's realtime speech-to-text as a client (providers.md 3). Pure.

Every text is the whole segment, so messages overwrite; `<fin>` answers a `finalize`. Palabra says
nothing in silence, so the adapter finalizes by itself now and then: the answer covers all audio
before it, and its absence tells a dead session.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

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
    ProviderProtocolError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
    Translated,
    WebSocketConnect,
)
from speechbus_transcriber.providers.session_clock import SessionClock
from speechbus_wire import palabra as wire
from speechbus_wire.palabra_sessions import decode_session, encode_session_request

__all__ = ["CAPABILITIES", "PalabraAccount", "PalabraProtocol"]

CAPABILITIES: Final = Capabilities(
    languages=("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh"),
    has_word_times=False,
    translates=True,
    pace=Pace(rate=1.0, lead_ms=500),
)
"""Languages of its JS client; audio clearly faster than real time is not transcribed, and clients
allow about 0.5 s of lead (providers.md 3.3, 3.4). Any rate from 8 to 48 kHz is taken."""

SESSIONS_PATH: Final = "/session-storage/sessions"
CHUNK_MS: Final = 320
"""Length that Palabra recommends for a message (seed, step 4)."""
QUIET_S: Final = 1.0
"""Without audio of the stream this long, silence is sent as often: Palabra closes after about 10 s
without any, and an open segment becomes final after about 1 s of silence (providers.md 3.6)."""
PROBE_AFTER_MS: Final = 15_000
"""Audio without an open segment after which a finalize asks whether all of it was heard."""
FIN_TIMEOUT_S: Final = 10.0
"""Palabra's own clients wait this long for the marker (providers.md 3.6)."""
TRANSLATIONS_TIMEOUT_S: Final = 5.0
"""At the end, for translations of the last finals (providers.md 3.6, close sequence)."""
FINALS_MAX: Final = 256
"""Finals remembered, for what comes after them: some ten minutes."""
OPEN_MAX: Final = 16
"""Segments open at once; Palabra has one, rarely two."""
HELD_MAX: Final = 64
"""Translations that came before their final."""


class PalabraAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Where Palabra is, and who we are there: a key, or client credentials."""

    stt_url: str
    api_url: str
    api_key: str = ""
    client_id: str = ""
    client_secret: str = ""

    def __repr__(self) -> str:
        """Without the secrets."""
        return "PalabraAccount()"


class _Segment(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    language: str | None
    start_ms: int
    end_ms: int


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A finalize without its answer."""

    purpose: Literal["flush", "finish", "probe"]
    given_ms: int
    """Audio of the stream sent before it."""
    deadline_s: float


class PalabraProtocol:
    """State machine of one session; implements `ProviderProtocol`.

    Args:
        request: what is asked for.
        account: where, and who asks.
    """

    name = "palabra"

    def __init__(self, request: SessionRequest, account: PalabraAccount) -> None:
        self._request = request
        self._account = account
        self._session_id = ""
        self._token = account.api_key
        self._clock = SessionClock(sample_rate_hz=request.sample_rate_hz)
        self._chunk_bytes = request.sample_rate_hz * CHUNK_MS // 1000 * 2
        self._silence = bytes(self._chunk_bytes)
        self._rest = bytearray()
        self._given_at_s: float | None = None
        self._quiet_at_s: float | None = 0.0  # at once: that call tells the session's beginning
        self._asked: deque[_Asked] = deque()
        self._heard_since_asked = False
        self._open: dict[str, _Segment] = {}
        self._finals: dict[str, _Segment] = {}
        self._owed: set[tuple[str, str]] = set()
        self._held: dict[tuple[str, str], str] = {}
        self._covered_ms = 0
        self._translations_at_s: float | None = None
        self._is_finished = False
        self._results: list[Result] = []

    # --- opening and end -----------------------------------------------------------------------

    def connect_request(self) -> ConnectRequest:
        """A session first, when we have client credentials; then the stream."""
        account = self._account
        if not self._token:
            return HttpExchange(
                method="POST",
                url=f"{account.api_url.rstrip('/')}{wire.SESSION_PATH}",
                headers=(*self._credentials(), ("Content-Type", "application/json")),
                body=encode_session_request(),
            )
        query = wire.build_stream_query(self._parameters())
        if account.api_key:
            # In a header: URLs end up in the logs of everything on the way.
            return WebSocketConnect(
                url=_with_query(account.stt_url, query),
                headers=(("Authorization", f"Bearer {account.api_key}"),),
            )
        return WebSocketConnect(url=_with_query(account.stt_url, {"token": self._token, **query}))

    def receive_response(self, response: HttpResponse, *, now_s: float) -> None:
        """Take the new session, or what stands in its way.

        Raises:
            ProviderError: by the status; see `status_error`.
        """
        del now_s
        if self._token or not 200 <= response.status < 300:
            raise status_error(response, provider=self.name)
        try:
            session = decode_session(response.body)
        except wire.PalabraError:
            raise self._confused("bad_session") from None
        self._session_id, self._token = session.session_id, session.publisher

    def messages_to_open(self) -> Sequence[str | bytes]:
        """None: the URL has said everything."""
        return ()

    def farewell_requests(self) -> Sequence[HttpExchange]:
        """Delete the session that this one has made."""
        if not self._session_id:
            return ()
        return (
            HttpExchange(
                method="DELETE",
                url=f"{self._account.api_url.rstrip('/')}{SESSIONS_PATH}/{self._session_id}",
                headers=self._credentials(),
            ),
        )

    def receive_close(self, code: int | None, *, now_s: float) -> None:
        """The connection ended.

        Raises:
            ProviderError: by the code, unless the session had finished.
        """
        del now_s
        if self._translations_at_s is not None:
            self._end()  # all is final; the missing translations are lost
        if not self._is_finished:
            raise close_error(code, provider=self.name)

    # --- audio ---------------------------------------------------------------------------------

    def audio_to_send(self, pcm: memoryview, *, now_s: float) -> Sequence[str | bytes]:
        """Take PCM s16le mono; return it as messages of `CHUNK_MS`."""
        self._clock.give(len(pcm) // 2)
        self._given_at_s = now_s
        self._quiet_at_s = now_s + QUIET_S
        self._rest += pcm
        messages: list[str | bytes] = []
        while len(self._rest) >= self._chunk_bytes:
            messages.append(bytes(self._rest[: self._chunk_bytes]))
            del self._rest[: self._chunk_bytes]
        is_probe_due = self._clock.given_ms - self._covered_ms >= PROBE_AFTER_MS
        if is_probe_due and not self._open and not self._asked:
            messages += self._finalize("probe", now_s=now_s)
        return messages

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        """Ask for finals of everything sent so far; `Flushed` follows among the results."""
        return self._finalize("flush", now_s=now_s)

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Flush and end the session; `Finished` follows among the results."""
        self._quiet_at_s = None
        return self._finalize("finish", now_s=now_s)

    def next_deadline_s(self) -> float | None:
        """The rest of a chunk, silence, an answer that is overdue, or missing translations."""
        if self._is_finished:
            return None
        rest_at_s = None
        if self._rest and self._given_at_s is not None:
            rest_at_s = self._given_at_s + CHUNK_MS / 1000
        fin_at_s = self._asked[0].deadline_s if self._asked else None
        deadlines = (rest_at_s, self._quiet_at_s, fin_at_s, self._translations_at_s)
        return min((at_s for at_s in deadlines if at_s is not None), default=None)

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Do what is due.

        Raises:
            ProviderUnavailableError: a finalize was not answered.
        """
        messages: list[str | bytes] = []
        if self._given_at_s is not None and now_s >= self._given_at_s + CHUNK_MS / 1000:
            messages += self._take_rest()
        if self._quiet_at_s is not None and now_s >= self._quiet_at_s:
            if self._quiet_at_s:
                messages += [*self._take_rest(), self._silence]
                self._clock.insert(len(self._silence) // 2)
            self._quiet_at_s = now_s + QUIET_S
        if self._asked and now_s >= self._asked[0].deadline_s:
            self._give_up_fin(now_s)
        if self._translations_at_s is not None and now_s >= self._translations_at_s:
            self._end()
        return messages

    # --- messages ------------------------------------------------------------------------------

    def receive_message(self, message: str | bytes, *, now_s: float) -> Sequence[str | bytes]:
        """Take one message; nothing is answered.

        Raises:
            ProviderProtocolError: binary, no JSON, or a known type with wrong fields.
        """
        if not isinstance(message, str):
            raise self._confused("binary_message")
        try:
            received = wire.decode_server_message(message)
        except wire.PalabraError:
            raise self._confused("bad_message") from None
        match received:
            case wire.Transcription():
                self._heard_since_asked = True
                self._take_transcription(received, now_s)
            case wire.TranslatedTranscription():
                self._take_translation(received)
            case None:
                pass  # later additions to the protocol, and warnings of its shared parser
        return ()

    def results_received(self) -> list[Result]:
        """Results since the last call, in order; the list is the caller's."""
        results, self._results = self._results, []
        return results

    def _take_transcription(self, message: wire.Transcription, now_s: float) -> None:
        text, has_fin = wire.split_fin(message.segment.text)
        start_ms, end_ms = (
            wire.to_ms(message.segment.start_time),
            wire.to_ms(message.segment.end_time),
        )
        if not 0 <= start_ms <= end_ms:
            raise self._confused("time_runs_backwards")
        segment = _Segment(
            text=text,
            language=message.language if message.language != "auto" else None,
            start_ms=self._clock.to_stream_ms(start_ms),
            end_ms=self._clock.to_stream_ms(end_ms),
        )
        if text or message.is_eos:
            self._update(message.transcription_id, segment, is_final=message.is_eos or has_fin)
        if has_fin:
            self._answer(now_s)

    def _update(self, segment_id: str, segment: _Segment, *, is_final: bool) -> None:
        known = self._finals.get(segment_id)
        if known is not None:
            # After a final only a corrected final counts, and only of the newest (case 06).
            is_newest = segment_id == next(reversed(self._finals))
            if is_final and is_newest and segment.text and segment.text != known.text:
                self._finals[segment_id] = segment
                self._hear(segment_id, segment, is_final=True)
            return
        if is_final:
            self._close_before(segment_id, segment)
            self._open.pop(segment_id, None)
            self._make_final(segment_id, segment)
            return
        is_same = self._open.get(segment_id) == segment
        self._open[segment_id] = segment
        if len(self._open) > OPEN_MAX:
            self._promote(next(iter(self._open)))
        # One segment is shown at a time: a later one when the one before it is final.
        if not is_same and next(iter(self._open)) == segment_id:
            self._hear(segment_id, segment, is_final=False)

    def _close_before(self, segment_id: str, segment: _Segment) -> None:
        """A segment is final: those still open before it get no word any more (case 07)."""
        was_open = segment_id in self._open
        for open_id, earlier in list(self._open.items()):
            if open_id == segment_id:
                return
            if was_open or earlier.start_ms <= segment.start_ms:
                self._promote(open_id)

    def _promote(self, segment_id: str) -> None:
        """Make a final of what was last heard of a segment."""
        self._make_final(segment_id, self._open.pop(segment_id))

    def _make_final(self, segment_id: str, segment: _Segment) -> None:
        self._finals[segment_id] = segment
        if len(self._finals) > FINALS_MAX:
            oldest = next(iter(self._finals))
            del self._finals[oldest]
            self._owed -= {(oldest, target) for target in self._request.target_languages}
        self._covered_ms = max(self._covered_ms, segment.end_ms)
        self._hear(segment_id, segment, is_final=True)
        if not segment.text:
            return
        for target in self._request.target_languages:
            text = self._held.pop((segment_id, target), None)
            if text is None:
                self._owed.add((segment_id, target))
            else:
                self._results.append(
                    Translated(provider_transcription_id=segment_id, language=target, text=text)
                )

    def _hear(self, segment_id: str, segment: _Segment, *, is_final: bool) -> None:
        self._results.append(
            Heard(
                text=segment.text,
                is_final=is_final,
                start_ms=segment.start_ms,
                end_ms=segment.end_ms,
                language=segment.language,
                provider_transcription_id=segment_id,
            )
        )

    def _take_translation(self, message: wire.TranslatedTranscription) -> None:
        target = self._find_target(message.language)
        if target is None:
            return  # nobody asked for it
        key = (message.transcription_id, target)
        if message.transcription_id not in self._finals:
            # Before its final (case 02); when none comes it is forgotten with the session.
            self._held[key] = message.segment.text
            if len(self._held) > HELD_MAX:
                del self._held[next(iter(self._held))]
            return
        self._owed.discard(key)
        self._results.append(
            Translated(
                provider_transcription_id=message.transcription_id,
                language=target,
                text=message.segment.text,
            )
        )
        if self._translations_at_s is not None and not self._owed:
            self._end()

    def _find_target(self, language: str) -> str | None:
        """Return the target as it was asked for: Palabra may spell it with or without a region."""
        spelled = language.lower()
        for target in self._request.target_languages:
            if target.lower() == spelled:
                return target
        for target in self._request.target_languages:
            if target.lower().partition("-")[0] == spelled.partition("-")[0]:
                return target
        return None

    # --- finalize ------------------------------------------------------------------------------

    def _finalize(
        self, purpose: Literal["flush", "finish", "probe"], *, now_s: float
    ) -> list[str | bytes]:
        self._heard_since_asked = False
        self._asked.append(
            _Asked(
                purpose=purpose,
                given_ms=self._clock.given_ms,
                deadline_s=now_s + FIN_TIMEOUT_S,
            )
        )
        return [*self._take_rest(), wire.encode_message(wire.Finalize())]

    def _take_rest(self) -> list[str | bytes]:
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest else []

    def _give_up_fin(self, now_s: float) -> None:
        """The oldest finalize is overdue.

        Raises:
            ProviderUnavailableError: nothing at all has come since: the session is dead, and a new
                one hears the audio again.
        """
        if not self._heard_since_asked:
            raise ProviderUnavailableError("finalize_unanswered", provider=self.name)
        self._answer(now_s)  # it speaks, and does not know the marker

    def _answer(self, now_s: float) -> None:
        """All audio before the oldest finalize has been answered."""
        if not self._asked:
            return  # the marker came late, or by itself (`finalization_mode=auto`)
        asked = self._asked.popleft()
        for segment_id in list(self._open):
            if self._open[segment_id].start_ms < asked.given_ms:
                self._promote(segment_id)
        if asked.given_ms > self._covered_ms and not self._open:
            self._covered_ms = asked.given_ms
            self._results.append(Covered(asked.given_ms))
        if asked.purpose == "flush":
            self._results.append(Flushed())
        elif asked.purpose == "finish":
            self._translations_at_s = now_s + TRANSLATIONS_TIMEOUT_S
            if not self._owed:
                self._end()

    def _end(self) -> None:
        self._translations_at_s = None
        if not self._is_finished:
            self._is_finished = True
            self._results.append(Finished())

    # --- small things --------------------------------------------------------------------------

    def _parameters(self) -> wire.StreamParameters:
        language = self._request.language
        primary = None if language is None else language.partition("-")[0].lower()
        default = primary != "ja"
        has_filter = self._request.has_filler_filter
        return wire.StreamParameters(
            format=wire.PCM_S16LE,
            sample_rate_hz=self._request.sample_rate_hz,
            language=primary,
            target_languages=self._request.target_languages,
            has_filler_filter=default if has_filter is None else has_filter,
        )

    def _credentials(self) -> tuple[tuple[str, str], ...]:
        return (
            ("ClientId", self._account.client_id),
            ("ClientSecret", self._account.client_secret),
        )

    def _confused(self, code: str) -> ProviderProtocolError:
        return ProviderProtocolError(code, provider=self.name)


def _with_query(url: str, query: dict[str, str]) -> str:
    """Return the URL with its own query, if it has one, and this one behind it."""
    parts = urlsplit(url)
    joined = "&".join(part for part in (parts.query, urlencode(query)) if part)
    return urlunsplit(parts._replace(query=joined))
