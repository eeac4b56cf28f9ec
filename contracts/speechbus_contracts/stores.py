"""Which JetStream streams keep the bus's subjects, how long, and who reads them.

Plain data: `speechbus bootstrap` creates the objects, `speechbus doctor` compares.
"""

from collections.abc import Mapping
from typing import Any, Final

from speechbus_contracts.ids import parse_token
from speechbus_contracts.subjects import (
    GOVERN_ROOT,
    JOB_OPEN,
    PROVIDER_ROOT,
    ROOT,
    TRANSCRIPT_ROOT,
    WRITE_ROOT,
)
from speechbus_contracts.subjects import audio_stream_name as _audio_stream_name

__all__ = [
    "AUDIO_BYTES_MAX",
    "AUDIO_MAX_AGE_S",
    "CAPTION_STORE",
    "CORRELATOR_CONSUMER",
    "JOBS_CONSUMER",
    "JOBS_PRIORITY_GROUP",
    "JOBS_STORE",
    "PROVIDER_STORE",
    "SESSIONS_MAX",
    "SESSION_STORE",
    "TRANSCRIPT_STORE",
    "TRANSLATOR_CONSUMER",
    "build_audio_store",
    "build_caption_store",
    "build_correlator_consumer",
    "build_jobs_consumer",
    "build_jobs_store",
    "build_provider_store",
    "build_reader_consumers",
    "build_session_store",
    "build_transcript_store",
    "build_translator_consumer",
]

TRANSCRIPT_STORE: Final = "TRANSCRIPT"
JOBS_STORE: Final = "JOBS"
CAPTION_STORE: Final = "CAPTION"
SESSION_STORE: Final = "SESSION"
PROVIDER_STORE: Final = "PROVIDER"
JOBS_CONSUMER: Final = "pool"
JOBS_PRIORITY_GROUP: Final = "pool"
CORRELATOR_CONSUMER: Final = "correlator-segments"
TRANSLATOR_CONSUMER: Final = "translator-segments"

_S: Final = 1_000_000_000
AUDIO_MAX_AGE_S: Final = 90
"""Longest time a stream may wait for a worker and still lose nothing."""
AUDIO_BYTES_MAX: Final = 512 << 20
"""Default of one shard: 180 streams at 16 kHz for 90 s. JetStream reserves it when it creates the
store, so a server needs memory for all shards together."""
SESSIONS_MAX: Final = 100_000
"""Sessions of all tenants; each takes some 300 bytes."""


def build_audio_store(
    shard: int, *, replicas: int = 1, bytes_max: int = AUDIO_BYTES_MAX
) -> tuple[str, Mapping[str, Any]]:
    """Audio of one shard: in memory, for catching up."""
    return _audio_stream_name(shard), {
        "subjects": [f"{ROOT}.audio.{shard}.*.*"],
        "storage": "memory",
        "retention": "limits",
        "discard": "old",
        "max_age": AUDIO_MAX_AGE_S * _S,
        "max_bytes": bytes_max,
        "allow_direct": True,
        "num_replicas": replicas,
    }


def build_jobs_store(*, replicas: int = 1) -> tuple[str, Mapping[str, Any]]:
    """Streams that wait for a worker."""
    return JOBS_STORE, {
        "subjects": [JOB_OPEN],
        "storage": "file",
        "retention": "workqueue",
        "discard": "old",
        "duplicate_window": 120 * _S,
        "num_replicas": replicas,
    }


def build_transcript_store(
    *, replicas: int = 1, retention_s: int = 86_400
) -> tuple[str, Mapping[str, Any]]:
    """Everything known about streams; what it accepts is republished for the readers.

    Args:
        replicas: 1, 3 or 5.
        retention_s: must exceed the longest stream, whose claim would vanish otherwise.
    """
    return TRANSCRIPT_STORE, {
        "subjects": [f"{WRITE_ROOT}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": retention_s * _S,
        "duplicate_window": 120 * _S,
        "allow_direct": True,
        "republish": {"src": f"{WRITE_ROOT}.>", "dest": f"{TRANSCRIPT_ROOT}.>"},
        "num_replicas": replicas,
    }


def build_caption_store(
    *, replicas: int = 1, retention_s: int = 86_400
) -> tuple[str, Mapping[str, Any]]:
    """The correlator's output."""
    return CAPTION_STORE, {
        "subjects": [f"{ROOT}.caption.*.*"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": retention_s * _S,
        "duplicate_window": 120 * _S,
        "allow_direct": True,
        "num_replicas": replicas,
    }


def build_session_store(*, replicas: int = 1) -> tuple[str, Mapping[str, Any]]:
    """Sessions that clients were given tokens for: one message each, which expires with it."""
    return SESSION_STORE, {
        "subjects": [f"{ROOT}.session.*.*"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs": SESSIONS_MAX,
        "max_msgs_per_subject": 1,
        "duplicate_window": 120 * _S,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "num_replicas": replicas,
    }


def build_provider_store(*, replicas: int = 1) -> tuple[str, Mapping[str, Any]]:
    """What workers share about providers: the last word on each matter."""
    return PROVIDER_STORE, {
        "subjects": [f"{GOVERN_ROOT}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": 1,
        "duplicate_window": 120 * _S,
        "allow_direct": True,
        "republish": {"src": f"{GOVERN_ROOT}.>", "dest": f"{PROVIDER_ROOT}.>"},
        "num_replicas": replicas,
    }


def build_jobs_consumer() -> Mapping[str, Any]:
    """One consumer for all workers: whoever has most relative room gets the next stream."""
    return {
        "ack_policy": "explicit",
        # Jobs handed to a worker that froze come back after this long (nats.md 3).
        "ack_wait": _S // 2,
        "max_ack_pending": -1,
        "max_deliver": -1,
        "max_waiting": 4_096,
        "priority_policy": "prioritized",
        "priority_groups": [JOBS_PRIORITY_GROUP],
    }


def build_correlator_consumer() -> Mapping[str, Any]:
    """Finals, what takes them back, and translations, for any number of correlators."""
    return {
        "ack_policy": "explicit",
        "ack_wait": 10 * _S,
        # Finals stay unacknowledged until the deadline of their translations: 10,000 a second.
        "max_ack_pending": 50_000,
        "max_deliver": -1,
        "filter_subjects": [
            f"{WRITE_ROOT}.*.*.final",
            f"{WRITE_ROOT}.*.*.retracted",
            f"{WRITE_ROOT}.*.*.translation.*",
        ],
    }


def build_translator_consumer() -> Mapping[str, Any]:
    """Finals, for any number of translators."""
    return {
        "ack_policy": "explicit",
        "ack_wait": 10 * _S,
        # Those that wait for an engine to come back are among them.
        "max_ack_pending": 10_000,
        "max_deliver": -1,
        "filter_subject": f"{WRITE_ROOT}.*.*.final",
    }


def build_reader_consumers(tenant: str) -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
    """What a tenant's own programs read by: store, name and configuration of each consumer.

    They are made for the tenant: who may make consumers could read, and send, anything
    (deploy/nats/tenants.conf).

    Raises:
        ContractError: the tenant is no token.
    """
    config = {
        "ack_policy": "explicit",
        "ack_wait": 30 * _S,
        "max_ack_pending": 10_000,
        "max_deliver": -1,
    }
    trees = ((TRANSCRIPT_STORE, WRITE_ROOT), (CAPTION_STORE, f"{ROOT}.caption"))
    return tuple(
        (store, f"reader-{tenant}", {**config, "filter_subject": f"{tree}.{parse_token(tenant)}.>"})
        for store, tree in trees
    )
