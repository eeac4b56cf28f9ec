"""Every subject on the bus, built and parsed in one place.

General to specific, so that wildcards cut usefully. Version 1 is a token of its own: another
version can run beside it.
"""

import zlib
from typing import ClassVar, Final, Literal, get_args

import msgspec

from speechbus_contracts.errors import ContractError
from speechbus_contracts.ids import parse_token

__all__ = [
    "GOVERN_ROOT",
    "JOB_OPEN",
    "PROVIDER_ROOT",
    "ROOT",
    "SHARDS_MAX",
    "TRANSCRIPT_ROOT",
    "WRITE_ROOT",
    "AudioSubject",
    "CaptionSubject",
    "GovernKind",
    "GovernSubject",
    "IngestKind",
    "IngestSubject",
    "JobSubject",
    "LiveKind",
    "LiveSubject",
    "ProviderSubject",
    "SessionSubject",
    "SourceSubject",
    "Subject",
    "TranscriptSubject",
    "WorkerKind",
    "WorkerSubject",
    "WriteKind",
    "WriteSubject",
    "audio_stream_name",
    "build_shard",
    "parse_subject",
]

ROOT: Final = "speech.v1"
JOB_OPEN: Final = f"{ROOT}.job.open"
WRITE_ROOT: Final = f"{ROOT}.write"
TRANSCRIPT_ROOT: Final = f"{ROOT}.transcript"
GOVERN_ROOT: Final = f"{ROOT}.govern"
PROVIDER_ROOT: Final = f"{ROOT}.provider"
SHARDS_MAX: Final = 256
"""More JetStream streams than this on one cluster is beyond what was ever tried."""

WriteKind = Literal[
    "opened",
    "reconfigured",
    "claim",
    "resumed",
    "final",
    "retracted",
    "gap",
    "covered",
    "flushed",
    "closed",
]
LiveKind = Literal["partial", "partial_translation", "turn", "lag", "waiting"]
WorkerKind = Literal["heartbeat", "ping"]
IngestKind = Literal["holds"]
GovernKind = Literal["slots", "pause", "breaker"]

_WRITE_KINDS: Final = frozenset(get_args(WriteKind))
_LIVE_KINDS: Final = frozenset(get_args(LiveKind))
_WORKER_KINDS: Final = frozenset(get_args(WorkerKind))
_GOVERN_KINDS: Final = frozenset(get_args(GovernKind))


def build_shard(stream_id: str, *, shards: int) -> int:
    """Return the audio shard of a stream: crc32 of the id, modulo the number of shards.

    Raises:
        ContractError: the id is not a token, or the number of shards is not 1 to 256.
    """
    if not 1 <= shards <= SHARDS_MAX:
        raise ContractError("the number of shards is between 1 and 256")
    return zlib.crc32(parse_token(stream_id).encode()) % shards


def audio_stream_name(shard: int) -> str:
    """Name the JetStream stream that stores one audio shard."""
    return f"AUDIO_{shard}"


class AudioSubject(msgspec.Struct, frozen=True):
    """Chunks of one stream: binary, see `speechbus_contracts.audio`."""

    shard: int
    tenant: str
    stream_id: str

    def __str__(self) -> str:
        """The subject."""
        if not 0 <= self.shard < SHARDS_MAX:
            raise ContractError("a shard is between 0 and 255")
        return f"{ROOT}.audio.{self.shard}.{parse_token(self.tenant)}.{parse_token(self.stream_id)}"


class JobSubject(msgspec.Struct, frozen=True):
    """Streams that wait for a worker."""

    def __str__(self) -> str:
        """The subject."""
        return JOB_OPEN


class _StreamEventSubject(msgspec.Struct, frozen=True):
    tenant: str
    stream_id: str
    kind: WriteKind | Literal["translation"]
    language: str | None = None
    """Target language; with `translation` only."""

    tree: ClassVar[str]

    def __str__(self) -> str:
        """The subject."""
        head = f"{self.tree}.{parse_token(self.tenant)}.{parse_token(self.stream_id)}"
        if self.kind == "translation":
            if self.language is None:
                raise ContractError("a translation subject names its language")
            return f"{head}.translation.{parse_token(self.language)}"
        if self.kind not in _WRITE_KINDS or self.language is not None:
            raise ContractError("no such kind of transcript subject")
        return f"{head}.{self.kind}"


class WriteSubject(_StreamEventSubject, frozen=True):
    """Where services write a stream's events; JetStream decides what it accepts."""

    tree = WRITE_ROOT


class TranscriptSubject(_StreamEventSubject, frozen=True):
    """Where JetStream republishes what it accepted; everyone reads here."""

    tree = TRANSCRIPT_ROOT


class LiveSubject(msgspec.Struct, frozen=True):
    """Partials, their translations, turns, lag, and that a stream waits: core NATS only."""

    tenant: str
    stream_id: str
    kind: LiveKind

    def __str__(self) -> str:
        """The subject."""
        if self.kind not in _LIVE_KINDS:
            raise ContractError("no such kind of live subject")
        return f"{ROOT}.live.{parse_token(self.tenant)}.{parse_token(self.stream_id)}.{self.kind}"


class CaptionSubject(msgspec.Struct, frozen=True):
    """The correlator's joined output."""

    tenant: str
    stream_id: str

    def __str__(self) -> str:
        """The subject."""
        return f"{ROOT}.caption.{parse_token(self.tenant)}.{parse_token(self.stream_id)}"


class WorkerSubject(msgspec.Struct, frozen=True):
    """A worker's liveness: core NATS only."""

    worker_id: str
    kind: WorkerKind

    def __str__(self) -> str:
        """The subject."""
        if self.kind not in _WORKER_KINDS:
            raise ContractError("no such kind of worker subject")
        return f"{ROOT}.worker.{parse_token(self.worker_id)}.{self.kind}"


class SessionSubject(msgspec.Struct, frozen=True):
    """A session that a client was given a token for: the last word about it."""

    tenant: str
    session_id: str

    def __str__(self) -> str:
        """The subject."""
        return f"{ROOT}.session.{parse_token(self.tenant)}.{parse_token(self.session_id)}"


class IngestSubject(msgspec.Struct, frozen=True):
    """Questions to one ingest: core NATS only."""

    ingest_id: str
    kind: IngestKind

    def __str__(self) -> str:
        """The subject."""
        if self.kind != "holds":
            raise ContractError("no such kind of ingest subject")
        return f"{ROOT}.ingest.{parse_token(self.ingest_id)}.{self.kind}"


class SourceSubject(msgspec.Struct, frozen=True):
    """Asks whichever ingest has a stream's source to let go of it: core NATS only."""

    tenant: str
    stream_id: str

    def __str__(self) -> str:
        """The subject."""
        return f"{ROOT}.source.{parse_token(self.tenant)}.{parse_token(self.stream_id)}.release"


class _GovernorSubject(msgspec.Struct, frozen=True):
    kind: GovernKind
    name: str
    """Of a credential (`slots`, `pause`) or an address (`breaker`): a hash, never the secret."""

    tree: ClassVar[str]

    def __str__(self) -> str:
        """The subject."""
        if self.kind not in _GOVERN_KINDS:
            raise ContractError("no such kind of provider subject")
        return f"{self.tree}.{self.kind}.{parse_token(self.name)}"


class GovernSubject(_GovernorSubject, frozen=True):
    """Where workers write what they share about a provider."""

    tree = GOVERN_ROOT


class ProviderSubject(_GovernorSubject, frozen=True):
    """Where JetStream republishes what it accepted of that."""

    tree = PROVIDER_ROOT


Subject = (
    AudioSubject
    | JobSubject
    | WriteSubject
    | TranscriptSubject
    | LiveSubject
    | CaptionSubject
    | WorkerSubject
    | SessionSubject
    | IngestSubject
    | SourceSubject
    | GovernSubject
    | ProviderSubject
)


def parse_subject(text: str) -> Subject:
    """Return what built `text`.

    Raises:
        ContractError: no subject of this version, or a token with other characters.
    """
    match text.split("."):
        case ["speech", "v1", "audio", shard, tenant, stream_id]:
            if not (shard.isascii() and shard.isdigit() and str(int(shard[:4])) == shard):
                raise ContractError("a shard is a plain decimal number")
            subject: Subject = AudioSubject(int(shard), tenant, stream_id)
        case ["speech", "v1", "job", "open"]:
            subject = JobSubject()
        case ["speech", "v1", "write", *rest]:
            subject = WriteSubject(*_stream_event_parts(rest))
        case ["speech", "v1", "transcript", *rest]:
            subject = TranscriptSubject(*_stream_event_parts(rest))
        case [
            "speech",
            "v1",
            "live",
            tenant,
            stream_id,
            ("partial" | "partial_translation" | "turn" | "lag" | "waiting") as live,
        ]:
            subject = LiveSubject(tenant, stream_id, live)
        case ["speech", "v1", "caption", tenant, stream_id]:
            subject = CaptionSubject(tenant, stream_id)
        case ["speech", "v1", *rest]:
            subject = _parse_between_services(rest)
        case _:
            raise ContractError("no subject of speech.v1")
    str(subject)  # checks every token
    return subject


def _parse_between_services(rest: list[str]) -> Subject:
    match rest:
        case ["worker", worker_id, ("heartbeat" | "ping") as kind]:
            return WorkerSubject(worker_id, kind)
        case ["session", tenant, session_id]:
            return SessionSubject(tenant, session_id)
        case ["ingest", ingest_id, "holds"]:
            return IngestSubject(ingest_id, "holds")
        case ["source", tenant, stream_id, "release"]:
            return SourceSubject(tenant, stream_id)
        case ["govern", ("slots" | "pause" | "breaker") as kind, name]:
            return GovernSubject(kind, name)
        case ["provider", ("slots" | "pause" | "breaker") as kind, name]:
            return ProviderSubject(kind, name)
        case _:
            raise ContractError("no subject of speech.v1")


def _stream_event_parts(
    rest: list[str],
) -> tuple[str, str, WriteKind | Literal["translation"], str | None]:
    match rest:
        case [
            tenant,
            stream_id,
            (
                "opened"
                | "reconfigured"
                | "claim"
                | "resumed"
                | "final"
                | "retracted"
                | "gap"
                | "covered"
                | "flushed"
                | "closed"
            ) as kind,
        ]:
            return tenant, stream_id, kind, None
        case [tenant, stream_id, "translation", language]:
            return tenant, stream_id, "translation", language
        case _:
            raise ContractError("no such transcript subject")
