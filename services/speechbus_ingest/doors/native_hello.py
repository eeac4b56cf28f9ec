"""What a client of the native door says, beside audio: its hello, and what follows. Pure.

Specified in docs/native-door.md.
"""

from typing import Annotated, Final, Literal

import msgspec

from speechbus_contracts import ContractError, parse_token
from speechbus_ingest.doors.native_errors import DoorError
from speechbus_ingest.doors.native_resume import Resume
from speechbus_ingest.formats.names import (
    CHANNELS_MAX,
    ENCODED_FORMATS,
    RAW_FORMATS,
    SAMPLE_RATE_HZ_MAX,
    SAMPLE_RATE_HZ_MIN,
    AudioFormat,
    EncodedFormat,
    parse_format,
)
from speechbus_ingest.stream import StreamRequest

__all__ = [
    "Configure",
    "Control",
    "End",
    "Flush",
    "Hello",
    "build_request",
    "parse_control",
    "parse_hello",
]

KEYWORDS_MAX: Final = 1_000
KEYWORD_CHARS_MAX: Final = 64
"""Limits of the provider that takes keywords (providers.md 1.4)."""

_Tags = Annotated[tuple[str, ...], msgspec.Meta(max_length=16)]
_Keyword = Annotated[str, msgspec.Meta(min_length=1, max_length=KEYWORD_CHARS_MAX)]


class Hello(msgspec.Struct, frozen=True):
    """The first message."""

    type: Literal["hello"]  # as a tag it could be missing
    format: str
    sample_rate_hz: int | None = None
    language: str | None = None
    target_languages: _Tags = ()
    providers: _Tags = ()
    channels: Annotated[int, msgspec.Meta(ge=1, le=CHANNELS_MAX)] = 1
    split_channels: bool = False
    filler_filter: bool | None = None
    keywords: Annotated[tuple[_Keyword, ...], msgspec.Meta(max_length=KEYWORDS_MAX)] = ()
    skip_silence: bool = True
    resumable: bool = False
    resume: Resume | None = None


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Finals of everything so far, please."""


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """From here on another language is spoken."""

    language: str | None


class End(msgspec.Struct, frozen=True, tag="end"):
    """No more audio."""


_hello_decoder: Final = msgspec.json.Decoder(Hello)
Control = Flush | Configure | End
_control_decoder: Final[msgspec.json.Decoder[Control]] = msgspec.json.Decoder(Control)


def parse_hello(text: str | None) -> Hello:
    """Read a hello.

    Args:
        text: None: the message was none of text.

    Raises:
        DoorError: it is none.
    """
    if text is None:
        raise DoorError("hello.invalid", "The first message is the hello, a JSON text message.")
    try:
        return _hello_decoder.decode(text)
    except msgspec.ValidationError as error:
        raise DoorError(
            "hello.invalid", f"{_field_problem(error)} See docs/native-door.md for an example."
        ) from None
    except (msgspec.DecodeError, RecursionError):
        raise DoorError("hello.invalid_json", "The hello is no valid JSON object.") from None


def build_request(hello: Hello, tenant: str, *, traceparent: str = "") -> StreamRequest:
    """Return what a client asks for, checked.

    Raises:
        DoorError: that cannot be.
    """
    audio_format, sample_rate_hz = _choose_format(hello)
    try:
        for token in (hello.language, *hello.target_languages, *hello.providers):
            if token is not None:
                parse_token(token)
        if hello.resume is not None:
            for token in (hello.resume.stream_id, *(hello.resume.translations or ())):
                parse_token(token)
    except ContractError:
        raise DoorError(
            "hello.token", "Languages, providers and ids have 1 to 64 of A-Z a-z 0-9 _ -"
        ) from None
    is_resumable = hello.resumable or hello.resume is not None
    if is_resumable and (isinstance(audio_format, str) or hello.split_channels):
        raise DoorError(
            "hello.not_resumable",
            "A stream can be resumed when it is raw audio and not split into channels: leave"
            " 'resumable' out, or choose another 'format'.",
        )
    return StreamRequest(
        tenant=tenant,
        door="native",
        sample_rate_hz=sample_rate_hz,
        language=hello.language,
        target_languages=hello.target_languages,
        providers=hello.providers,
        has_filler_filter=hello.filler_filter,
        keywords=hello.keywords,
        skips_silence=hello.skip_silence,
        audio_format=audio_format,
        split_channels=hello.channels if hello.split_channels else None,
        is_resumable=is_resumable,
        traceparent=traceparent,
    )


def _choose_format(hello: Hello) -> tuple[AudioFormat | EncodedFormat, int | None]:
    """Return the format and, where the audio does not say it itself, the sample rate."""
    try:
        audio_format = parse_format(hello.format, channels=hello.channels)
    except ValueError:
        formats = ", ".join((*RAW_FORMATS, *ENCODED_FORMATS))
        raise DoorError("hello.unknown_format", f"'format' is one of: {formats}.") from None
    if isinstance(audio_format, str):
        return audio_format, None
    rate = hello.sample_rate_hz
    if rate is None or not SAMPLE_RATE_HZ_MIN <= rate <= SAMPLE_RATE_HZ_MAX:
        raise DoorError(
            "hello.sample_rate", "'sample_rate_hz' is between 8000 and 48000, for raw formats."
        )
    return audio_format, rate


def _field_problem(error: msgspec.ValidationError) -> str:
    # msgspec names types and fields here, never values.
    return f"{str(error).rstrip('.')}."


def parse_control(text: str) -> Control:
    """Read a text message behind the hello.

    Raises:
        DoorError: it is none that a client may send.
    """
    try:
        control = _control_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise DoorError(
            "message.invalid",
            'Text messages are {"type":"flush"}, {"type":"configure","language":…} and'
            ' {"type":"end"}.',
        ) from None
    if isinstance(control, Configure) and control.language is not None:
        try:
            parse_token(control.language)
        except ContractError:
            raise DoorError(
                "message.language", "A language has 1 to 64 of A-Z a-z 0-9 _ - (or is null)."
            ) from None
    return control
