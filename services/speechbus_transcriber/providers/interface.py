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
    "InProcess",
    "ProviderError",
    "ProviderProtocol",
    "ProviderProtocolError",
    "ProviderRejectedError",
    "ProviderUnavailableError",
    "Result",
    "SessionRequest",
    "TurnEnded",
    "TurnStarted",
]


class SessionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What one session is asked to do."""

    sample_rate_hz: int
    """Rate of the PCM s16le mono audio that will be sent, 8,000 to 48,000."""
    language: str | None
    """BCP 47 tag of the speech; None: the provider decides."""
    target_languages: tuple[str, ...] = ()
    """BCP 47 tags to translate into; providers that cannot ignore them."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a provider that routing and the driver need before a session exists."""

    languages: tuple[str, ...] | None
    """Primary subtags it recognizes; None: any."""
    has_word_times: bool
    translates: bool


class EngineConnect(msgspec.Struct, frozen=True, tag="engine"):
    """Connect to an engine process of this worker."""

    engine: str


class InProcess(msgspec.Struct, frozen=True, tag="in_process"):
    """Nothing to connect to: the adapter answers by itself."""


ConnectRequest = EngineConnect | InProcess


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


Result = Heard | TurnStarted | TurnEnded | Covered | Flushed | Finished


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


class ProviderRejectedError(ProviderError):
    """Do not try this provider again with this request (language, format, key)."""


class ProviderProtocolError(ProviderError):
    """Theirs or ours is wrong: a message that cannot be understood. A bug to look at."""


class ProviderProtocol(Protocol):
    """State machine of one session.

    Order of calls: `connect_request`; once connected `messages_to_open`; then in any order
    `audio_to_send`, `flush`, `receive_message`, `handle_deadline`; last `finish`. After each call
    the driver sends the returned messages in order and takes `results_received`.
    """

    @property
    def name(self) -> str:
        """The provider's name as routes and events spell it."""
        ...

    def connect_request(self) -> ConnectRequest:
        """Where to connect."""
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

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Flush and end the session; `Finished` follows among the results."""
        ...

    def receive_message(self, message: str | bytes, *, now_s: float) -> None:
        """Take one message from the provider.

        Raises:
            ProviderUnavailableError: retry with a new session.
            ProviderRejectedError: go to the next provider.
            ProviderProtocolError: the message makes no sense here.
        """
        ...

    def receive_close(self, *, now_s: float) -> None:
        """The connection ended.

        Raises:
            ProviderUnavailableError: unless the session had finished.
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
