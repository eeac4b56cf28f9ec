"""Palabra's realtime speech-to-text as a client (providers.md 3). Pure.

Every text is the whole segment, so messages overwrite; `<fin>` answers a `finalize`. Palabra says
nothing in silence, so the adapter finalizes by itself now and then: the answer covers all audio
before it, and its absence tells a dead session.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from speechbus_transcriber.providers.closing import close_error, status_error
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ConnectRequest,
    Finished,
    Flushed,
    HttpExchange,
    HttpResponse,
    Pace,
    ProviderProtocolError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
    WebSocketConnect,
)
from speechbus_transcriber.providers.palabra_finalizes import Asked, PalabraFinalizes, Purpose
from speechbus_transcriber.providers.palabra_segments import PalabraSegments, Segment
from speechbus_transcriber.providers.palabra_translations import PalabraTranslations
from speechbus_transcriber.providers.session_clock import SessionClock
from speechbus_wire import palabra as wire
from speechbus_wire.palabra_sessions import decode_session, encode_session_request

__all__ = ["CAPABILITIES", "PalabraAccount", "PalabraProtocol"]

CAPABILITIES: Final = Capabilities(
    languages=("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh"),
    has_word_times=False,
    translates=True,
    pace=Pace(rate=1.0, lead_ms=500),
    turn_pause_ms=1_200,
    deaf_after_s=3.5,
)
"""Languages of its JS client; audio clearly faster than real time is not transcribed, and clients
allow about 0.5 s of lead (providers.md 3.3, 3.4). Any rate from 8 to 48 kHz is taken. A segment's
final comes after about 1 s of silence (3.6)."""

SESSIONS_PATH: Final = "/session-storage/sessions"
CHUNK_MS: Final = 320
"""Length that Palabra recommends for a message (seed, step 4)."""
QUIET_S: Final = 1.0
"""Without audio of the stream this long, silence is sent as often: Palabra closes after about 10 s
without any, and an open segment becomes final after about 1 s of silence (providers.md 3.6)."""
PROBE_AFTER_MS: Final = 15_000
"""Audio without a word after which a finalize asks whether all of it was heard."""
FIN_TIMEOUT_S: Final = 10.0
"""Palabra's own clients wait this long for the marker (providers.md 3.6)."""
TRANSLATIONS_TIMEOUT_S: Final = 5.0
"""At the end, for translations of the last finals (providers.md 3.6, close sequence)."""
FORMER_S: Final = 1.0
"""A final waits so long for that of the segment before it. They come in order, as far as is known;
one that came behind would be put in the wrong place, or lose its last words."""
SESSION_S_MAX: Final = 1e7
"""Longer than any session lives: a time beyond is no time."""


class PalabraAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Where Palabra is, and who we are there: a key, or client credentials."""

    stt_url: str
    api_url: str
    api_key: str = ""
    client_id: str = ""
    client_secret: str = ""
    sessions_max: int | None = None
    """Sessions at once; None: no limit is known."""

    def __repr__(self) -> str:
        """Without the secrets."""
        return "PalabraAccount()"


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
        self._quiet_at_s = 0.0  # at once: that call tells the session's beginning
        self._finalizes = PalabraFinalizes()
        self._has_paused = False  # and nobody knows yet whether the server has `finalize`
        self._translations = PalabraTranslations(request.target_languages)
        self._segments = PalabraSegments(self._translations)
        self._heard_ms = 0  # audio of the stream when the provider last spoke
        self._former_at_s: float | None = None
        self._translations_at_s: float | None = None
        self._is_finished = False
        self._is_end_sure = True
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
        parameters = self._parameters()
        if account.api_key:
            # In a header: URLs end up in the logs of everything on the way.
            return WebSocketConnect(
                url=wire.build_stream_url(account.stt_url, parameters),
                headers=(("Authorization", f"Bearer {account.api_key}"),),
            )
        return WebSocketConnect(
            url=wire.build_stream_url(account.stt_url, parameters, token=self._token)
        )

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
        if not session.publisher:
            raise self._confused("bad_session")  # without a token, it would be asked for for ever
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
                url=f"{self._account.api_url.rstrip('/')}{SESSIONS_PATH}/"
                f"{quote(self._session_id, safe='')}",
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
        if self._is_probe_due():
            messages += self._finalize("probe", now_s=now_s)
        return messages

    def _is_probe_due(self) -> bool:
        # Inside a segment only after a long silence of the provider: a finalize would cut it.
        segments = self._segments
        since_ms = self._heard_ms if segments.is_any_open else segments.covered_ms
        is_long = self._clock.given_ms - since_ms >= PROBE_AFTER_MS
        return (is_long or self._has_paused) and self._finalizes.may_probe

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        """Ask for finals of everything sent so far; `Flushed` follows among the results."""
        return self._finalize("flush", now_s=now_s)

    def end_turn(self, *, now_s: float) -> Sequence[str | bytes] | None:
        """Finalize, once it is known that the server has that; the first pause asks and waits."""
        if self._finalizes.is_known:
            return self._finalize("probe", now_s=now_s)
        self._has_paused = True
        return None

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Flush and end the session; `Finished` follows among the results.

        Silence goes on until then: it keeps the session for the last translations, and ends the
        open segment at a server that does not know `finalize` (the seed has none).
        """
        return self._finalize("finish", now_s=now_s)

    def next_deadline_s(self) -> float | None:
        """The rest of a chunk, silence, or something of the provider's that is overdue."""
        if self._is_finished:
            return None
        rest_at_s = None
        if self._rest and self._given_at_s is not None:
            rest_at_s = self._given_at_s + CHUNK_MS / 1000
        deadlines = (
            rest_at_s,
            self._quiet_at_s,
            self._finalizes.deadline_s,
            self._former_at_s,
            self._translations_at_s,
        )
        return min((at_s for at_s in deadlines if at_s is not None), default=None)

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Do what is due.

        Raises:
            ProviderUnavailableError: a finalize was not answered.
        """
        messages: list[str | bytes] = []
        if self._given_at_s is not None and now_s >= self._given_at_s + CHUNK_MS / 1000:
            messages += self._take_rest()
        if now_s >= self._quiet_at_s:
            if self._quiet_at_s:
                messages += [*self._take_rest(), self._silence]
                self._clock.insert(len(self._silence) // 2)
            self._quiet_at_s = now_s + QUIET_S
        if self._former_at_s is not None and now_s >= self._former_at_s:
            self._former_at_s = None
            self._results += self._segments.stop_holding()
        fin_at_s = self._finalizes.deadline_s
        if fin_at_s is not None and now_s >= fin_at_s:
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
        if self._is_finished:
            return ()
        try:
            received = wire.decode_server_message(message)
        except wire.PalabraError:
            raise self._confused("bad_message") from None
        match received:
            case wire.Transcription():
                self._finalizes.hear()
                self._heard_ms = self._clock.given_ms
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
        segment_id = message.transcription_id
        text, has_fin = wire.split_fin(message.segment.text)
        if not text.strip():
            self._results += self._take_empty(message, has_fin=has_fin)
        else:
            segment = self._read(message, text)
            self._finalizes.hear_words(segment.start_ms)
            is_final = message.is_eos or has_fin
            take = self._segments.end if is_final else self._segments.update
            self._results += take(segment_id, segment)
        if has_fin:
            self._take_marker(now_s)
        if not self._segments.is_any_held:
            self._former_at_s = None
        elif self._former_at_s is None:
            self._former_at_s = now_s + FORMER_S

    def _take_empty(self, message: wire.Transcription, *, has_fin: bool) -> list[Result]:
        if not message.is_eos:
            return []
        if has_fin:
            # The marker alone takes no word back: what is open ends as it was last heard.
            return self._segments.end_as_heard(message.transcription_id)
        return self._segments.end(message.transcription_id, self._read(message, ""))

    def _read(self, message: wire.Transcription, text: str) -> Segment:
        start_s = max(0.0, message.segment.start_time)
        end_s = max(start_s, message.segment.end_time)
        if end_s > SESSION_S_MAX:
            raise self._confused("impossible_times")
        return Segment(
            text=text,
            language=message.language if message.language != "auto" else None,
            start_ms=self._clock.to_stream_ms(wire.to_ms(start_s)),
            end_ms=self._clock.to_stream_ms(wire.to_ms(end_s)),
        )

    def _take_translation(self, message: wire.TranslatedTranscription) -> None:
        text, _ = wire.split_fin(message.segment.text)  # the marker may be translated along
        self._results += self._translations.take(
            message.transcription_id,
            message.language,
            text,
            has_final=self._segments.has_final(message.transcription_id),
        )
        is_waiting = self._translations.is_waiting(now_ms=self._clock.given_ms)
        if self._translations_at_s is not None and not is_waiting:
            self._end()

    # --- finalize ------------------------------------------------------------------------------

    def _finalize(self, purpose: Purpose, *, now_s: float) -> list[str | bytes]:
        self._has_paused = False
        self._finalizes.ask(
            purpose, given_ms=self._clock.given_ms, deadline_s=now_s + FIN_TIMEOUT_S
        )
        return [*self._take_rest(), wire.encode_message(wire.Finalize())]

    def _take_rest(self) -> list[str | bytes]:
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest else []

    def _give_up_fin(self, now_s: float) -> None:
        """The oldest finalize is overdue.

        Raises:
            ProviderUnavailableError: the session is dead, and a new one hears the audio again.
        """
        asked = self._finalizes.give_up(is_any_open=self._segments.is_any_open)
        if asked is None:
            raise ProviderUnavailableError("finalize_unanswered", provider=self.name)
        self._settle(asked, is_marked=False)
        self._answer(asked, now_s, is_marked=False)

    def _take_marker(self, now_s: float) -> None:
        answered = self._finalizes.take_marker()
        if answered is None:
            return
        asked, is_late = answered
        self._settle(asked, is_marked=True)
        if not is_late:
            self._answer(asked, now_s, is_marked=True)

    def _answer(self, asked: Asked, now_s: float, *, is_marked: bool) -> None:
        """Tell that a finalize is answered: by the marker, or by waiting long enough."""
        if asked.purpose == "flush":
            self._results.append(Flushed())
        elif asked.purpose == "finish":
            self._is_end_sure = is_marked
            self._translations_at_s = now_s + TRANSLATIONS_TIMEOUT_S
            if not self._translations.is_waiting(now_ms=self._clock.given_ms):
                self._end()

    def _settle(self, asked: Asked, *, is_marked: bool) -> None:
        """End what began before a finalize.

        Only the marker tells that all audio before the finalize was heard. Without it nothing is
        covered beyond the finals, so that a broken session is repeated from there; and a segment
        goes on through a finalize of our own.
        """
        if is_marked or asked.purpose != "probe":
            # Without audio since then, nothing began behind it, even where a time says so.
            is_all = asked.given_ms == self._clock.given_ms
            self._results += self._segments.settle(asked.given_ms + is_all)
        if is_marked:
            self._results += self._segments.cover(asked.given_ms)

    def _end(self) -> None:
        self._translations_at_s = None
        if not self._is_finished:
            self._is_finished = True
            self._results.append(Finished(is_sure=self._is_end_sure))

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
            # Lower case is the one spelling of regions that was seen (providers.md 3.3).
            target_languages=tuple(map(str.lower, self._request.target_languages)),
            has_filler_filter=default if has_filter is None else has_filter,
        )

    def _credentials(self) -> tuple[tuple[str, str], ...]:
        return (
            ("ClientId", self._account.client_id),
            ("ClientSecret", self._account.client_secret),
        )

    def _confused(self, code: str) -> ProviderProtocolError:
        return ProviderProtocolError(code, provider=self.name)
