"""The one interface between a provider's protocol and everything that drives it.

An adapter is a pure state machine: it reads no clock, opens no socket and starts no task. The
driver (`speechbus_transcriber.driver`) connects as `connect_request` says, hands every message in,
sends what comes back, and collects what was heard.

All times here are integer milliseconds of audio since the session's first sample; the segmenter
turns them into stream time.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = [
    "Capabilities",
    "ConnectRequest",
    "Covered",
    "EngineConnect",
    "Finished",
    "Flushed",
    "Heard",
    "HeardWord",
    "HttpExchange",
    "HttpResponse",
    "InProcess",
    "Pace",
    "ProviderError",
    "ProviderProtocol",
    "ProviderProtocolError",
    "ProviderRateLimitedError",
    "ProviderRejectedError",
    "ProviderUnavailableError",
    "Result",
    "SessionRequest",
    "Translated",
    "TurnEnded",
    "TurnStarted",
    "WebSocketConnect",
]


class SessionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What one session is asked to do."""

    sample_rate_hz: int
    """Rate of the PCM s16le mono audio that will be sent, 8,000 to 48,000."""
    language: str | None
    """BCP 47 tag of the speech; None: the provider decides."""
    target_languages: tuple[str, ...] = ()
    """BCP 47 tags to translate into; providers that cannot ignore them."""
    has_filler_filter: bool | None = None
    """Whether the client wants fillers ("uh") left out; None: the provider decides."""
    keywords: tuple[str, ...] = ()
    """Terms to listen for; providers that cannot ignore them."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a provider takes audio: `rate` times real time, after a head start of `lead_ms`."""

    rate: float
    lead_ms: int


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a provider that routing and the driver need before a session exists."""

    languages: tuple[str, ...] | None
    """Primary subtags it recognizes; None: any."""
    needs_language: bool = False
    """Whether it must be told the language: streams that name none go elsewhere."""
    has_word_times: bool
    translates: bool
    sample_rates_hz: tuple[int, ...] | None = None
    """Rates it takes, best first; a stream of another rate is resampled to the first of them. None:
    any."""
    pace: Pace | None = None
    """None: as fast as the connection takes it."""
    turn_pause_ms: int | None = None
    """Silence that ends a turn for sure. A stream that is behind leaves out what is beyond it, and
    all of it where `ProviderProtocol.end_turn` ends the turn. None: nothing, which is right where
    audio goes out as fast as it can anyway."""
    session_limit_s: float | None = None
    """Longest session; None: none is known."""
    deaf_after_s: float | None = None
    """Speech that no message answers for so long means that nobody listens; None: it says nothing
    while it listens, or cannot go deaf by itself."""


class EngineConnect(msgspec.Struct, frozen=True, tag="engine"):
    """Connect to an engine process of this worker."""

    engine: str


class InProcess(msgspec.Struct, frozen=True, tag="in_process"):
    """Nothing to connect to: the adapter answers by itself."""


class HttpExchange(msgspec.Struct, frozen=True, kw_only=True, tag="http"):
    """One HTTP request of a session's opening or end; the answer goes to `receive_response`."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def __repr__(self) -> str:
        """Without what may hold a secret."""
        return f"HttpExchange({self.method})"


class HttpResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an `HttpExchange`, or to an upgrade that was refused."""

    status: int
    body: bytes
    """Cut after 64 KiB."""
    retry_after_s: float | None = None
    """From the header of that name, where it gives seconds."""


class WebSocketConnect(msgspec.Struct, frozen=True, kw_only=True, tag="websocket"):
    """Connect to a WebSocket."""

    url: str
    """With its query, which may hold a secret."""
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without what may hold a secret."""
        return "WebSocketConnect()"


ConnectRequest = EngineConnect | HttpExchange | InProcess | WebSocketConnect


class HeardWord(msgspec.Struct, frozen=True, kw_only=True):
    """One recognized word."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float | None = None


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """The provider's current or last word on one utterance."""

    text: str
    """The whole utterance so far, never a piece of it."""
    is_final: bool
    start_ms: int
    end_ms: int
    covered_ms: int | None = None
    """For finals: all audio before this is in finals (or holds no speech). None: `end_ms`."""
    language: str | None = None
    words: tuple[HeardWord, ...] | None = None
    confidence: float | None = None
    provider_transcription_id: str | None = None
    """The provider's id of the utterance. A final with the id of the session's final before it
    corrects that one."""


class Translated(msgspec.Struct, frozen=True, kw_only=True):
    """The translation of one final of this session."""

    provider_transcription_id: str
    """Of the final, which has been among the results before."""
    language: str
    """BCP 47 tag of `text`."""
    text: str


class TurnStarted(msgspec.Struct, frozen=True):
    """Speech began."""

    at_ms: int


class TurnEnded(msgspec.Struct, frozen=True):
    """Speech ended."""

    at_ms: int


class Covered(msgspec.Struct, frozen=True):
    """No speech outside the finals so far before this position; nothing is open before it."""

    covered_ms: int


class Flushed(msgspec.Struct, frozen=True):
    """Everything sent before the matching `flush` has been answered."""


class Finished(msgspec.Struct, frozen=True):
    """Everything sent before `finish` has been answered; the session is over."""

    is_sure: bool = True
    """The provider has said so; else it may have stopped listening at any time since its last
    final."""


Result = Heard | Translated | TurnStarted | TurnEnded | Covered | Flushed | Finished


class ProviderError(Exception):
    """A session cannot go on; the subclass says what the caller should do.

    The text holds a code and never anything the provider said about the audio.
    """

    def __init__(self, code: str, *, provider: str) -> None:
        super().__init__(f"{provider}: {code}")
        self.code = code
        self.provider = provider


class ProviderUnavailableError(ProviderError):
    """Try again later, with a new session."""


class ProviderRateLimitedError(ProviderError):
    """Too many sessions, or too fast: nobody's failure; try again later, here or elsewhere.

    Attributes:
        retry_after_s: what the provider asked for; None: it did not say.
    """

    def __init__(self, code: str, *, provider: str, retry_after_s: float | None = None) -> None:
        super().__init__(code, provider=provider)
        self.retry_after_s = retry_after_s


class ProviderRejectedError(ProviderError):
    """Do not try this provider again with this request (language, format, key)."""


class ProviderProtocolError(ProviderError):
    """Theirs or ours is wrong: a message that cannot be understood. A bug to look at."""


class ProviderProtocol(Protocol):
    """State machine of one session.

    Order of calls: `connect_request`, again after each `HttpExchange` and its `receive_response`;
    once connected `messages_to_open`; then in any order `audio_to_send`, `flush`, `end_turn`,
    `receive_message`, `handle_deadline`; last `finish`. After each call the driver sends the
    returned messages in order and takes `results_received`. However the session ended, the driver
    carries out `farewell_requests` last.

    The provider's times count the samples it got; results count those of `audio_to_send`. An
    adapter that sends silence of its own keeps the two apart.
    """

    @property
    def name(self) -> str:
        """The provider's name as routes and events spell it."""
        ...

    def connect_request(self) -> ConnectRequest:
        """Where to connect, or what to ask over HTTP before that."""
        ...

    def receive_response(self, response: HttpResponse, *, now_s: float) -> None:
        """Take the answer to an `HttpExchange`, or to an upgrade that was refused.

        Raises:
            ProviderUnavailableError: retry with a new session.
            ProviderRateLimitedError: retry, and wait first.
            ProviderRejectedError: go to the next provider.
            ProviderProtocolError: the answer makes no sense here.
        """
        ...

    def messages_to_open(self) -> Sequence[str | bytes]:
        """Messages to send as soon as the connection stands."""
        ...

    def audio_to_send(self, pcm: memoryview, *, now_s: float) -> Sequence[str | bytes]:
        """Take PCM s16le mono, whole samples; return the messages that carry it."""
        ...

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        """Ask for finals of everything sent so far; `Flushed` follows among the results."""
        ...

    def end_turn(self, *, now_s: float) -> Sequence[str | bytes] | None:
        """Somebody paused: end the open turn, behind all audio so far; no result answers this.

        Returns:
            None: the silence of `Capabilities.turn_pause_ms` has to end it.
        """
        ...

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Flush and end the session; `Finished` follows among the results."""
        ...

    def receive_message(self, message: str | bytes, *, now_s: float) -> Sequence[str | bytes]:
        """Take one message from the provider; return messages to send in answer.

        Raises:
            ProviderUnavailableError: retry with a new session.
            ProviderRateLimitedError: retry, and wait first.
            ProviderRejectedError: go to the next provider.
            ProviderProtocolError: the message makes no sense here.
        """
        ...

    def receive_close(self, code: int | None, *, now_s: float) -> None:
        """The connection ended.

        Args:
            code: of the WebSocket's close frame; None: there was none.
            now_s: the driver's clock.

        Raises:
            ProviderError: by the code, unless the session had finished.
        """
        ...

    def next_deadline_s(self) -> float | None:
        """When `handle_deadline` wants to be called, on the driver's clock; None: never."""
        ...

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Act on the deadline that has passed.

        Raises:
            ProviderUnavailableError: the provider did not answer in time.
        """
        ...

    def results_received(self) -> list[Result]:
        """Results since the last call, in order; the list is the caller's."""
        ...

    def farewell_requests(self) -> Sequence[HttpExchange]:
        """What to ask over HTTP when the session is over; the answers interest nobody."""
        ...
