"""Palabra's realtime speech-to-text: its messages, their JSON, and the stream's query parameters.

Pure, and for both sides: the front door and the simulator speak as the server, the adapter as the
client. Times on this wire are seconds from the session's start; ours are integer milliseconds.
Sources: providers.md sections 3 and 7; transcripts in tests/transcripts/palabra.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec

__all__ = [
    "CONTAINER_FORMATS",
    "FIN",
    "PCM_S16LE",
    "RAW_FORMATS",
    "SAMPLE_RATE_HZ_DEFAULT",
    "SESSION_PATH",
    "STREAM_PATH",
    "TARGETS_MAX",
    "ClientMessage",
    "FinalizationMode",
    "Finalize",
    "PalabraError",
    "ParameterError",
    "ServerMessage",
    "Span",
    "StreamParameters",
    "Transcription",
    "TranslatedTranscription",
    "append_fin",
    "build_stream_query",
    "build_stream_url",
    "decode_client_message",
    "decode_server_message",
    "encode_message",
    "parse_stream_parameters",
    "split_fin",
    "to_ms",
    "to_seconds",
]

SESSION_PATH: Final = "/session-storage/session"
STREAM_PATH: Final = "/asr/v1/speech-to-text/stream"

FIN: Final = "<fin>"
"""Stands at the end of the text that answers a `finalize`, or is all of it."""

PCM_S16LE: Final = "pcm_s16le"
RAW_FORMATS: Final = (
    PCM_S16LE,
    "pcm_f32le",
    "pcm_f32be",
    "pcm_s32le",
    "pcm_s32be",
    "mulaw",
    "alaw",
)
CONTAINER_FORMATS: Final = ("webm", "mp3", "aac", "ogg", "flac", "wav")
SAMPLE_RATE_HZ_DEFAULT: Final = 16_000
"""Of `pcm_s16le`; the other raw formats name their rate."""
SAMPLE_RATE_HZ_MIN: Final = 8_000
SAMPLE_RATE_HZ_MAX: Final = 48_000
"""Rates in use (providers.md 3.3)."""
FINALIZATION_TIMEOUT_S_MAX: Final = 60.0
"""Longer pauses end nothing: the client can."""
TARGETS_MAX: Final = 16
"""More than the languages Palabra has besides the source (13, providers.md 3.3)."""

_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8}){0,4}\Z")
_SECONDS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?\Z")
_SAMPLE_RATE: Final = re.compile(r"[0-9]{1,6}\Z")


class PalabraError(Exception):
    """A message is not what this protocol allows; the text never repeats it."""


class ParameterError(PalabraError):
    """A query parameter is missing or wrong: HTTP 400, with the text as its explanation."""


# --- messages --------------------------------------------------------------------------------


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A text and when it was said, in seconds from the session's start."""

    text: str
    start_time: float
    end_time: float


class Transcription(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="message_type",
    tag="transcription",
):
    """What is understood of one segment."""

    transcription_id: str
    language: str
    is_eos: bool
    """False: a partial, replaced by the next message of this id. True: the segment's last word."""
    segment: Span
    """The whole segment so far."""
    delta: Span | None = None
    """What was added since the message before; left out where nothing was merely added."""


class TranslatedTranscription(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="message_type",
    tag="translated_transcription",
):
    """The translation of a final, of the same id and times."""

    transcription_id: str
    language: str
    """Target language."""
    is_eos: bool
    """Always true."""
    segment: Span


class Finalize(msgspec.Struct, frozen=True, tag_field="message_type", tag="finalize"):
    """Client: give a final of what was sent so far; the stream goes on."""


class _Typed(msgspec.Struct, frozen=True):
    message_type: str


ServerMessage = Transcription | TranslatedTranscription
ClientMessage = Finalize

_encoder: Final = msgspec.json.Encoder()
_server_decoder: Final[msgspec.json.Decoder[ServerMessage]] = msgspec.json.Decoder(ServerMessage)
_type_decoder: Final = msgspec.json.Decoder(_Typed)
_fields_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SERVER_TYPES: Final = frozenset({"transcription", "translated_transcription"})


def encode_message(message: ServerMessage | ClientMessage) -> str:
    """Return the text message of either side.

    Raises:
        PalabraError: a text holds half a surrogate pair, which UTF-8 cannot spell.
    """
    try:
        return _encoder.encode(message).decode()
    except UnicodeEncodeError:
        # `from None`: the error carries the text, which is speech.
        raise PalabraError("a text is not valid Unicode") from None


def decode_client_message(text: str) -> ClientMessage | None:
    """Read what a client sent; None: no message that this protocol has, to be ignored."""
    try:
        # Not by a decoder of the struct: for one alone, msgspec takes a missing tag as well.
        is_finalize = _type_decoder.decode(text).message_type == "finalize"
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    return Finalize() if is_finalize else None


def decode_server_message(text: str) -> ServerMessage | None:
    """Read what a server sent; None: a type that is not known, to be ignored.

    Raises:
        PalabraError: no JSON object with a `message_type`, or a known type with wrong fields.
    """
    try:
        if _type_decoder.decode(text).message_type not in _SERVER_TYPES:
            return None
        try:
            return _server_decoder.decode(text)
        except msgspec.ValidationError:
            # `delta` is only a hint, and has come empty: no text is lost for its sake.
            fields = _fields_decoder.decode(text)
            fields.pop("delta", None)
            return _server_decoder.decode(_encoder.encode(fields))
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        # `from None`: the decoder's text may quote speech.
        raise PalabraError("not a valid message of the stream") from None


def append_fin(message: Transcription) -> Transcription:
    """Return the message as the answer to a `finalize`: with the marker behind its text."""
    delta = message.delta
    return msgspec.structs.replace(
        message,
        segment=msgspec.structs.replace(message.segment, text=message.segment.text + FIN),
        delta=delta and msgspec.structs.replace(delta, text=delta.text + FIN),
    )


def split_fin(text: str) -> tuple[str, bool]:
    """Return a segment's text without the marker, and whether it was there.

    `is_eos` does not tell: the marker has been seen on partials too (providers.md 3.6). It stands
    at the end there; wherever it stands, nobody has said it.
    """
    if FIN not in text:
        return text, False
    return text.replace(FIN, "").rstrip(), True


def to_seconds(ms: int) -> float:
    """Return milliseconds as seconds that print with three decimals at most."""
    return ms / 1000


def to_ms(seconds: float) -> int:
    """Return seconds as the nearest whole millisecond."""
    return round(seconds * 1000)


# --- the stream's query parameters ----------------------------------------------------------


FinalizationMode = Literal["auto", "manual"]
"""`auto`: the recognizer ends segments, and the client may. `manual`: only the client does."""


class StreamParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for in the stream's URL, besides its token."""

    format: str
    """One of `RAW_FORMATS` or `CONTAINER_FORMATS`."""
    sample_rate_hz: int | None
    """None: a container, which tells its rate itself."""
    language: str | None = None
    """BCP 47 tag as it was spelled; None: `auto`."""
    target_languages: tuple[str, ...] = ()
    has_filler_filter: bool = True
    """False: `delta` is append-only."""
    finalization_mode: FinalizationMode = "auto"
    finalization_timeout_s: float | None = None
    """A segment that has not changed for so long is made final; None: the recognizer decides."""


def parse_stream_parameters(query: Mapping[str, str]) -> StreamParameters:
    """Read the query of the stream's URL; unknown parameters are ignored.

    Raises:
        ParameterError: one is missing or wrong; the text says which, and what is allowed.
    """
    audio_format = _parse_format(query.get("format"))
    language = _parse_language(query.get("language", ""))
    return StreamParameters(
        format=audio_format,
        sample_rate_hz=_parse_sample_rate(query.get("sample_rate", ""), audio_format),
        language=language,
        target_languages=_parse_targets(query.get("translate_languages", "")),
        has_filler_filter=_parse_filler_filter(query.get("enable_filler_filter", ""), language),
        finalization_mode=_parse_finalization_mode(query.get("finalization_mode", "")),
        finalization_timeout_s=_parse_finalization_timeout(query.get("finalization_timeout", "")),
    )


def _parse_format(text: str | None) -> str:
    formats = (*RAW_FORMATS, *CONTAINER_FORMATS)
    if not text:
        raise ParameterError(f'missing parameter "format": one of: {", ".join(formats)}')
    if text not in formats:
        raise ParameterError(f'invalid parameter "format": one of: {", ".join(formats)}')
    return text


def _parse_sample_rate(text: str, audio_format: str) -> int | None:
    if audio_format in CONTAINER_FORMATS:
        return None
    if not text:
        if audio_format == PCM_S16LE:
            return SAMPLE_RATE_HZ_DEFAULT
        raise ParameterError(f'missing parameter "sample_rate": required for {audio_format}')
    rate_hz = int(text) if _SAMPLE_RATE.match(text) else 0
    if not SAMPLE_RATE_HZ_MIN <= rate_hz <= SAMPLE_RATE_HZ_MAX:
        raise ParameterError(
            f'invalid parameter "sample_rate": {SAMPLE_RATE_HZ_MIN} to {SAMPLE_RATE_HZ_MAX}'
        )
    return rate_hz


def _parse_language(text: str) -> str | None:
    if not text or text.lower() == "auto":
        return None
    if _LANGUAGE.match(text) is None:
        raise ParameterError('invalid parameter "language": auto, or a tag such as en or en-US')
    return text


def _parse_targets(text: str) -> tuple[str, ...]:
    # A language named twice is translated once; an empty place is a comma too many.
    targets = tuple(dict.fromkeys(part for part in map(str.strip, text.split(",")) if part))
    if len(targets) > TARGETS_MAX or not all(map(_LANGUAGE.match, targets)):
        raise ParameterError(
            f'invalid parameter "translate_languages": at most {TARGETS_MAX} tags such as es or'
            " fr-CA, separated by commas"
        )
    return targets


def _parse_filler_filter(text: str, language: str | None) -> bool:
    value: Literal["true", "false"] | str = text.lower()
    match value:
        case "":
            return (language or "").lower().partition("-")[0] != "ja"
        case "true" | "false":
            return value == "true"
        case _:
            raise ParameterError('invalid parameter "enable_filler_filter": true or false')


def _parse_finalization_mode(text: str) -> FinalizationMode:
    match text.lower():
        case "" | "auto":
            return "auto"
        case "manual":
            return "manual"
        case _:
            raise ParameterError('invalid parameter "finalization_mode": auto or manual')


def _parse_finalization_timeout(text: str) -> float | None:
    if not text:
        return None
    seconds = float(text) if _SECONDS.match(text) else 0.0
    if not 0 < seconds <= FINALIZATION_TIMEOUT_S_MAX:
        raise ParameterError(
            'invalid parameter "finalization_timeout": seconds, more than 0, at most'
            f" {FINALIZATION_TIMEOUT_S_MAX:.0f}"
        )
    return seconds


def build_stream_query(parameters: StreamParameters) -> dict[str, str]:
    """Return the query that `parse_stream_parameters` reads as these parameters.

    The filler filter is named only where it is not what Palabra does by itself.
    """
    query = {"format": parameters.format}
    if parameters.sample_rate_hz is not None:
        query["sample_rate"] = str(parameters.sample_rate_hz)
    if parameters.language is not None:
        query["language"] = parameters.language
    if parameters.target_languages:
        query["translate_languages"] = ",".join(parameters.target_languages)
    if parameters.has_filler_filter != _parse_filler_filter("", parameters.language):
        query["enable_filler_filter"] = "true" if parameters.has_filler_filter else "false"
    if parameters.finalization_mode != "auto":
        query["finalization_mode"] = parameters.finalization_mode
    if parameters.finalization_timeout_s is not None:
        query["finalization_timeout"] = f"{parameters.finalization_timeout_s:g}"
    return query


def build_stream_url(url: str, parameters: StreamParameters, *, token: str = "") -> str:
    """Return the stream's URL.

    Args:
        url: of the endpoint; it keeps a query of its own.
        parameters: what is asked for.
        token: as Palabra's clients send it, first; empty: it goes in a header.
    """
    query = ({"token": token} if token else {}) | build_stream_query(parameters)
    parts = urlsplit(url)
    joined = "&".join(part for part in (parts.query, urlencode(query)) if part)
    return urlunsplit(parts._replace(query=joined))
