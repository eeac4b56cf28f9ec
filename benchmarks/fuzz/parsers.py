"""Every parser of what comes from outside: what it takes, and how it may say no."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, cast
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import HTTPConnection

from benchmarks.fuzz.inputs import damage, damage_text
from speechbus_contracts import (
    ContractError,
    decode_chunk,
    decode_event,
    parse_subject,
    parse_transcription_id,
)
from speechbus_ingest.doors import native_hello
from speechbus_ingest.doors.credentials import find_credential, find_realtime_credential
from speechbus_ingest.doors.native_errors import DoorError
from speechbus_ingest.formats.framing import (
    AdtsFraming,
    Framing,
    Mp3Framing,
    OggFraming,
    WebmFraming,
)
from speechbus_ingest.formats.names import CHANNELS_MAX, CONTAINERS, RAW_FORMATS, parse_format
from speechbus_ingest.formats.raw import RawConverter
from speechbus_ingest.formats.undecodable import UndecodableError
from speechbus_ingest.formats.wav import WavReader
from speechbus_ingest.gate.addresses import Proxies
from speechbus_ingest.gate.origins import Origins
from speechbus_ingest.settings import SETTINGS_PREFIX, Settings
from speechbus_ingest.viewer.tokens import (
    ViewerClaims,
    ViewerTokenRequest,
    sign_viewer_token,
    verify_viewer_token,
)
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_runtime.tracing import Tracing, read_traceparent
from speechbus_translator.engines.interface import EngineUnavailableError
from speechbus_translator.engines.libretranslate import read_pairs, read_translation
from speechbus_wire import kotoba, palabra
from speechbus_wire.kotoba_door import decode_door_message
from speechbus_wire.kotoba_errors import read_error_body
from speechbus_wire.kotoba_secrets import (
    SecretClaims,
    decode_client_secret_request,
    decode_transcription_session_request,
    read_remembered_session,
    sign_secret,
    verify_secret,
)
from speechbus_wire.kotoba_sessions import Dialect
from speechbus_wire.palabra_sessions import (
    SessionClaims,
    decode_session,
    decode_session_request,
    sign_token,
    verify_token,
)
from speechbus_wire.palabra_storage import parse_page, parse_ttl
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, build_wav, encode

__all__ = ["TARGETS", "Target"]

SECRET: Final = b"thirty-two characters at the least"
ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "contracts" / "speechbus_contracts" / "examples"
TRANSCRIPTS: Final = ROOT / "tests" / "transcripts"
DIALECTS: Final[tuple[Dialect, ...]] = ("kotoba", "beta", "general")

Try = Callable[[bytes, random.Random], None]


class Target(msgspec.Struct, frozen=True):
    """One parser.

    Attributes:
        corpus: good inputs, to be damaged.
        attempt: damages one and parses it.
        refusals: how the parser may say no; anything else is a mistake of ours.
    """

    corpus: Callable[[], Sequence[bytes]]
    attempt: Try
    refusals: tuple[type[Exception], ...] = ()


def _of_text(parse: Callable[[str], object]) -> Try:
    return lambda data, chance: void(parse(damage_text(data, chance)))


def _of_bytes(parse: Callable[[bytes], object]) -> Try:
    return lambda data, chance: void(parse(damage(data, chance)))


def void(_value: object) -> None:
    """Do nothing with what a parser made."""


# --- what is good ------------------------------------------------------------------------------


def _read_examples() -> list[bytes]:
    return [path.read_bytes() for path in sorted(EXAMPLES.glob("*/*.json"))]


def _read_chunks() -> list[bytes]:
    return [path.read_bytes() for path in sorted(EXAMPLES.glob("audio/*.bin"))]


def _read_wire(vendor: str) -> Callable[[], Sequence[bytes]]:
    def read() -> list[bytes]:
        found: list[bytes] = []
        for path in sorted((TRANSCRIPTS / vendor).rglob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                found += _find_messages(line)
        assert found, vendor
        return found

    return read


def _find_messages(line: bytes) -> list[bytes]:
    """Return the line, and the texts in it that are JSON themselves."""
    found = [line]
    entry: object = msgspec.json.decode(line)
    values = list(cast("dict[str, object]", entry).values()) if isinstance(entry, dict) else []
    for value in values:
        if isinstance(value, dict):
            found.append(msgspec.json.encode(value))
        elif isinstance(value, str) and value.startswith("{"):
            found.append(value.encode())
    return found


_HELLOS: Final = (
    b'{"type":"hello","format":"pcm_s16le","sample_rate_hz":16000,"language":"ja",'
    b'"target_languages":["en"],"providers":["echo"],"keywords":["one"],"channels":2,'
    b'"split_channels":true,"resumable":true,"resume":{"stream_id":"s","samples":5}}',
    b'{"type":"hello","format":"webm"}',
)
_CONTROLS: Final = (
    b'{"type":"flush"}',
    b'{"type":"configure","language":"ja"}',
    b'{"type":"end"}',
)
_SESSIONS: Final = (
    b'{"data":{"subscriber_count":1,"publisher_count":1,"publisher_can_subscribe":true}}',
    b'{"ok":true,"data":{"id":"s","publisher":"t","subscriber":["t"]}}',
    b'{"expires_after":{"anchor":"created_at","seconds":60},"session":{"type":"transcription",'
    b'"audio":{"input":{"format":{"type":"audio/pcm","rate":24000},"transcription":'
    b'{"model":"whisper-1","language":"en","prompt":"one, two"},'
    b'"turn_detection":{"type":"server_vad"}}}}}',
    b'{"input_audio_format":"pcm16","input_audio_sample_rate":16000,"input_audio_transcription":'
    b'{"language":"ja","keywords":["one"]},"turn_detection":{"type":"server_vad"}}',
    b'{"ttl_s":60}',
)
_QUERIES: Final = (
    b"language=en&sample_rate=16000&format=pcm_s16le&translate_to=es,de&enable_filler_filter=true",
    b"page_size=5&page_token=YWJj",
    b"ttl_seconds=60",
    b"token=abc&intent=transcription",
)


def _tokens() -> list[bytes]:
    claims = SessionClaims(tenant="acme", session_id="s", expires_at_s=9)
    secret = SecretClaims(tenant="acme", stream_id="s", expires_at_s=9, remembered='{"a":1}')
    viewer = ViewerClaims(tenant="acme", stream_id="s", expires_at_s=9)
    return [
        sign_token(claims, SECRET).encode(),
        sign_secret(secret, SECRET).encode(),
        sign_viewer_token(viewer, SECRET).encode(),
    ]


def _recordings() -> list[bytes]:
    found = [build_wav(build_tone(16_000, 0.2), sample_rate_hz=16_000)]
    for container in CONTAINERS:
        rate = SAMPLE_RATES_HZ[container]
        for is_live in (True, False):
            found.append(
                encode(container, build_tone(rate, 0.2), sample_rate_hz=rate, is_live=is_live)
            )
    return found


# --- what is tried -----------------------------------------------------------------------------


def _read_query(data: bytes, chance: random.Random) -> None:
    query = dict(parse_qsl(damage_text(data, chance), keep_blank_values=True))
    for parse in (palabra.parse_stream_parameters, parse_page, parse_ttl):
        try:
            parse(query)
        except palabra.ParameterError:
            continue


def _read_head(data: bytes, chance: random.Random) -> None:
    damaged = damage(data, chance)
    spelt = damaged.replace(b"\r", b"").replace(b"\n", b"")
    headers = [(name, spelt) for name in (b"authorization", b"x-forwarded-for", b"clientsecret")]
    scope = {
        "type": "http",
        "path": "/",
        "headers": headers,
        "query_string": damaged,
        "subprotocols": damaged.decode("latin-1").split(","),
    }
    connection = HTTPConnection(scope)
    find_credential(connection)
    find_realtime_credential(connection)
    Proxies(["0.0.0.0/0", "::/0"]).find_client("192.0.2.1", headers)
    text = damaged.decode("latin-1")
    Origins(["https://app.example"]).allows(text, host=text, is_secure=True)
    Origins(["*"]).may_be_called(text)


def _open_token(data: bytes, chance: random.Random) -> None:
    token = damage_text(data, chance)
    for found in (
        verify_token(token, SECRET, now_s=0),
        verify_secret(token, SECRET),
        verify_viewer_token(token, [SECRET], now_s=0),
    ):
        # A damaged token that is still one would be a forged one.
        assert found is None or token.encode() in _tokens()


def _read_kotoba(data: bytes, chance: random.Random) -> None:
    dialect, text = chance.choice(DIALECTS), damage_text(data, chance)
    decode_door_message(text, dialect, is_fal=chance.random() < 0.1)


def _read_secret_request(data: bytes, chance: random.Random) -> None:
    body = damage(data, chance)
    match chance.randrange(3):
        case 0:
            asked = decode_client_secret_request(body)
        case 1:
            asked = decode_transcription_session_request(body, "kotoba")
        case _:
            asked = decode_transcription_session_request(body, "beta")
    for dialect in DIALECTS:
        try:
            read_remembered_session(asked.remembered, dialect)
        except kotoba.RequestError:
            continue


def _read_wav(data: bytes, chance: random.Random) -> None:
    damaged, reader = damage(data, chance), WavReader()
    step = chance.choice([1_000_000, 700, 13])
    for at in range(0, len(damaged), step):
        reader.feed(damaged[at : at + step])
    reader.finish()


def _follow(data: bytes, chance: random.Random) -> None:
    kinds: tuple[type[Framing], ...] = (WebmFraming, Mp3Framing, AdtsFraming, OggFraming)
    damaged, framing = damage(data, chance), chance.choice(kinds)()
    step = chance.choice([1_000_000, 700, 13])
    for at in range(0, len(damaged), step):
        framing.feed(damaged[at : at + step])
    framing.finish()


def _convert(data: bytes, chance: random.Random) -> None:
    channels = chance.randint(1, CHANNELS_MAX)
    audio_format = parse_format(chance.choice(RAW_FORMATS), channels=channels)
    assert not isinstance(audio_format, str)
    converter = RawConverter(
        audio_format.encoding, audio_format.channels, is_split=chance.random() < 0.5
    )
    damaged, step = damage(data, chance), chance.choice([1, 7, 1_000, 100_000])
    for at in range(0, min(len(damaged), 200 * step), step):
        converter.convert(damaged[at : at + step])


_SETTINGS: Final = (
    b"API_KEYS=acme:one,bolt:two,acme:sha256:" + b"a" * 64,
    b"TRUSTED_PROXIES=10.0.0.0/8,fd00::/8",
    b"ALLOWED_ORIGINS=https://app.example,*",
    b"LISTEN_PORT=8080",
    b"IDLE_S=1.5",
    b"VIEWER=open",
)


def _read_settings(data: bytes, chance: random.Random) -> None:
    name, _, value = damage_text(data, chance).partition("=")
    environ = {f"{SETTINGS_PREFIX}API_KEYS": "acme:key", f"{SETTINGS_PREFIX}{name}": value}
    read_settings(Settings, prefix=SETTINGS_PREFIX, environ=environ)


def _follow_context(data: bytes, chance: random.Random) -> None:
    damaged = damage(data, chance)
    told = Tracing().start("any", kind="server", parent=read_traceparent(damaged)).traceparent
    assert len(told) in {0, 55}, told


def _read_translation(data: bytes, chance: random.Random) -> None:
    damaged = damage(data, chance)
    with suppress(EngineUnavailableError):
        read_pairs(damaged)
    read_translation(damaged)


_CONTEXTS: Final = (
    b"NATS/1.0\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
)
_TRANSLATED: Final = (
    '{"translatedText": "buenos días"}'.encode(),
    b'[{"code": "en", "targets": ["en", "es"]}, {"code": "es"}]',
)
_REQUEST: Final = msgspec.json.Decoder(ViewerTokenRequest)
_SUBJECTS: Final = (
    b"speech.v1.write.acme.s1.final",
    b"speech.v1.audio.3.acme.s1",
    b"speech.v1.write.acme.s1.translation.es",
    b"speech.v1.live.acme.s1.partial",
    b"s1-12",
)

TARGETS: Final[Mapping[str, Target]] = {
    "events": Target(_read_examples, _of_bytes(decode_event), (ContractError,)),
    "chunks": Target(_read_chunks, _of_bytes(decode_chunk), (ContractError,)),
    "subjects": Target(lambda: _SUBJECTS, _of_text(parse_subject), (ContractError,)),
    "ids": Target(lambda: _SUBJECTS, _of_text(parse_transcription_id), (ContractError,)),
    "native-hello": Target(
        lambda: _HELLOS,
        _of_text(native_hello.parse_hello),
        (DoorError,),
    ),
    "native-control": Target(
        lambda: _CONTROLS,
        _of_text(native_hello.parse_control),
        (DoorError,),
    ),
    "palabra-client": Target(_read_wire("palabra"), _of_text(palabra.decode_client_message)),
    "palabra-server": Target(
        _read_wire("palabra"), _of_text(palabra.decode_server_message), (palabra.PalabraError,)
    ),
    "palabra-session": Target(
        lambda: _SESSIONS, _of_bytes(decode_session_request), (palabra.PalabraError,)
    ),
    "palabra-answer": Target(lambda: _SESSIONS, _of_bytes(decode_session), (palabra.PalabraError,)),
    "kotoba-door": Target(_read_wire("kotoba"), _read_kotoba, (kotoba.RequestError,)),
    "kotoba-client": Target(
        _read_wire("kotoba"), _of_text(kotoba.decode_client_message), (kotoba.RequestError,)
    ),
    "kotoba-server": Target(
        _read_wire("kotoba"), _of_text(kotoba.decode_server_message), (kotoba.KotobaError,)
    ),
    "kotoba-secret": Target(lambda: _SESSIONS, _read_secret_request, (kotoba.RequestError,)),
    "kotoba-errors": Target(_read_wire("kotoba"), _of_bytes(read_error_body)),
    "viewer-token": Target(
        lambda: _SESSIONS,
        _of_bytes(_REQUEST.decode),
        (msgspec.DecodeError, RecursionError, UnicodeError),
    ),
    "queries": Target(lambda: _QUERIES, _read_query),
    "heads": Target(lambda: [*_QUERIES, *_tokens(), b"10.0.0.1, [::1]:5"], _read_head),
    "tokens": Target(_tokens, _open_token),
    "trace-context": Target(lambda: _CONTEXTS, _follow_context),
    "libretranslate": Target(lambda: _TRANSLATED, _read_translation, (EngineUnavailableError,)),
    "settings": Target(lambda: _SETTINGS, _read_settings, (SettingsError,)),
    "wav": Target(_recordings, _read_wav, (UndecodableError,)),
    "framing": Target(_recordings, _follow, (UndecodableError,)),
    "raw": Target(_recordings, _convert),
}
