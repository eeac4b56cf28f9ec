"""The life of a stream, and of the workers that carry streams."""

from collections.abc import Mapping

from speechbus_contracts.events import Event, Integer, StreamEvent

__all__ = [
    "Gap",
    "JobOpen",
    "StreamClaimed",
    "StreamClosed",
    "StreamCovered",
    "StreamFlushed",
    "StreamLag",
    "StreamOpened",
    "StreamReconfigured",
    "StreamResumed",
    "StreamWaiting",
    "TurnEnded",
    "TurnStarted",
    "WorkerHeartbeat",
]


class StreamOpened(StreamEvent, frozen=True, kw_only=True, tag="stream.opened"):
    """A stream exists; its options are all that any worker or ingest needs to carry it."""

    opened_at: Integer
    """ms since 1970, on the ingest's clock."""
    sample_rate_hz: Integer
    """Of the PCM on the audio subject, 8,000 to 48,000."""
    shard: Integer
    """Audio shard: third token of the audio subject."""
    language: str | None = None
    """BCP 47 tag of the speech; null: the provider decides."""
    target_languages: tuple[str, ...] = ()
    """BCP 47 tags that the client wants translations in."""
    providers: tuple[str, ...] = ()
    """Route: provider names in the order to try; empty: the worker's own."""
    door: str = "native"
    """Protocol the audio came in by."""
    has_filler_filter: bool | None = None
    """Whether the client wants fillers ("uh") left out; null: the provider decides."""
    keywords: tuple[str, ...] = ()
    """Terms to listen for, where the provider can."""
    skips_silence: bool = True
    """Whether silence may be left out to catch up, at a provider that takes real time only; times
    stay the stream's."""
    channel: Integer | None = None
    """Which of the source's channels this is, from 0; null: the mean of all."""
    is_resumable: bool = False
    """Whether the client may come back after its connection is lost, to any ingest."""


class StreamClaimed(StreamEvent, frozen=True, kw_only=True, tag="stream.claimed"):
    """A worker owns the stream from here on.

    The sequence under which JetStream stores this event is the fencing token: writes that do not
    name it as the stream's last claim are refused.
    """

    epoch: Integer
    """Generation of ownership, from 1."""
    worker: str
    provider: str
    from_ms: Integer
    """Stream time from which the worker means to read on (its checkpoint may be later)."""
    reason: str
    """Why it was placed: `opened`, `worker_lost`, `worker_frozen`, `drain`."""
    claimed_at: Integer
    """ms since 1970, on the worker's clock."""


class StreamResumed(StreamEvent, frozen=True, kw_only=True, tag="stream.resumed"):
    """The client has come back to another ingest, which numbers the stream's chunks from now on."""

    ingest_epoch: Integer
    """Generation of the ingest, from 2: the first one's is 1."""
    ingest: str
    """Id of the ingest."""
    resumed_at: Integer
    """ms since 1970, on that ingest's clock."""


class StreamCovered(StreamEvent, frozen=True, kw_only=True, tag="stream.covered"):
    """Checkpoint in a long pause: nothing was said between the last final and `covered_ms`."""

    epoch: Integer
    covered_ms: Integer
    next_index: Integer
    """Index of the next segment."""
    audio_received_at: Integer
    """When ingest had the audio at `covered_ms`, ms since 1970."""


class StreamFlushed(StreamEvent, frozen=True, kw_only=True, tag="stream.flushed"):
    """Answer to one flush: the finals of all audio before it have been stored before this."""

    epoch: Integer
    chunk: Integer
    """Number of the flush chunk that is answered."""
    at_ms: Integer
    """Stream time of the flush."""


class StreamReconfigured(StreamEvent, frozen=True, kw_only=True, tag="stream.reconfigured"):
    """The client has changed its settings; of two events of one place the later one counts.

    Stored by ingest before the `reconfigure` chunk is published: who reads that chunk, and who
    comes when AUDIO has forgotten it, finds the language of every place here.
    """

    at_sample: Integer
    """Samples of the stream before the change."""
    at_ms: Integer
    """Stream time of the change."""
    language: str | None
    """BCP 47 tag of the speech from here on; null: the provider decides."""


class Gap(StreamEvent, frozen=True, kw_only=True, tag="gap"):
    """Audio between `from_ms` and `to_ms` was accepted and will not be transcribed."""

    epoch: Integer
    from_ms: Integer
    to_ms: Integer
    reason: str
    """`audio_lost`: neither ingest nor the bus has it any more; `provider`: nobody could
    transcribe it; `lag`: skipped to catch up; `refused`: its final could not be stored."""
    next_index: Integer
    gap_ms_total: Integer
    """Sum over the stream so far, this one included."""
    audio_received_at: Integer
    """When ingest had the audio at `to_ms`, ms since 1970."""


class StreamClosed(StreamEvent, frozen=True, kw_only=True, tag="stream.closed"):
    """The stream's last event."""

    epoch: Integer
    reason: str
    """`end`: the client said so; `client_gone`, `source_lost`, `idle`, `limit`, `revoked`: the
    session that the client came with was deleted, has expired or is another client's by now;
    `shutdown`: ingest went away; `undecodable`: the client's encoded audio could not be decoded any
    further; `no_provider`."""
    audio_ms: Integer
    """Length of the audio accepted."""
    finals: Integer
    """Segments that got a final and were not retracted."""
    gap_ms: Integer
    """Sum of all gaps."""


class JobOpen(StreamEvent, frozen=True, kw_only=True, tag="job.open"):
    """A stream that wants a worker; the worker claims it under `epoch`."""

    epoch: Integer
    reason: str


class TurnStarted(StreamEvent, frozen=True, kw_only=True, tag="turn.started"):
    """Somebody began to speak."""

    epoch: Integer
    at_ms: Integer


class TurnEnded(StreamEvent, frozen=True, kw_only=True, tag="turn.ended"):
    """The speaker stopped."""

    epoch: Integer
    at_ms: Integer


class StreamLag(StreamEvent, frozen=True, kw_only=True, tag="stream.lag"):
    """The stream is behind by more than 3 s, or has just caught up; said again every second."""

    epoch: Integer
    waiting_ms: Integer
    """Audio that was accepted and no provider has got yet: what is said comes so much later than
    usual; 0: it has caught up."""


class StreamWaiting(StreamEvent, frozen=True, kw_only=True, tag="stream.waiting"):
    """The stream's providers have no room for its next session: its audio is kept until one has."""

    epoch: Integer
    providers: tuple[str, ...]
    """Those that would do, in the order of preference."""
    is_over: bool = False
    """It waits no more."""


class WorkerHeartbeat(Event, frozen=True, kw_only=True, tag="worker.heartbeat"):
    """Every 200 ms from each worker; every fifth one tells how far each stream was read."""

    worker: str
    sessions: Integer
    """Streams it carries."""
    capacity: Integer
    """Streams it can carry."""
    draining: bool = False
    """It hands its streams over and takes no more."""
    consumed: Mapping[str, Integer] | None = None
    """Samples read of each stream it carries; null in the heartbeats between."""
