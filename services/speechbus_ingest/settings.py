"""Settings of ingest, from SPEECHBUS_INGEST_* variables."""

from typing import Annotated, Final, Literal

import msgspec

from speechbus_contracts import ContractError, parse_token
from speechbus_runtime.bus_settings import BusSettings
from speechbus_runtime.secret import Secret

__all__ = ["SETTINGS_PREFIX", "Settings"]

SETTINGS_PREFIX: Final = "SPEECHBUS_INGEST_"
SECRET_CHARS_MIN: Final = 32
"""Shorter ones can be guessed from a single token."""


class Settings(BusSettings, frozen=True, kw_only=True):
    """What one ingest process needs to know."""

    api_keys: tuple[tuple[str, Secret], ...]
    """Who may send audio: `tenant:key,tenant:key`. A tenant may have several keys; its name has 1
    to 64 of `A-Z a-z 0-9 _ -`."""
    listen_host: str = "127.0.0.1"
    """Address of the one port, for WebSocket and HTTP."""
    listen_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8080
    """Port; 0: any free one."""
    health_host: str = "127.0.0.1"
    """Address of the port below."""
    health_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] | None = None
    """Port of /metrics, which clients need not reach, and once more of /healthz and /readyz; 0: any
    free one; empty: no metrics."""
    viewer: Literal["key", "open"] = "key"
    """Who may read transcripts over HTTP: holders of a key (their own tenant), or everyone."""
    chunk_ms: Annotated[int, msgspec.Meta(ge=20, le=320)] = 100
    """Audio of one bus message; longer costs less and adds as much delay."""
    shards: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    """Number of AUDIO stores; the same in all services."""
    streams_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000
    """Streams this process carries at once."""
    streams_per_key_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    """Streams of one key at once, in this process."""
    decoders_max: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 200
    """Streams with compressed audio (`webm`, `mp3`, `aac`, `ogg`, `flac`) at once, in this process;
    each has a decoder process of 5 MB. 0: none, and nothing is loaded for them."""
    palabra_sessions_per_key_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Clients at once that use a tenant's key as their Palabra token, in this process (a session
    token has one, among all)."""
    token_secret: Secret | None = None
    """Signs session tokens and client secrets, at least 32 characters. Needed where tokens
    shall outlive a restart, or clients may reach several ingest processes; without it each process
    takes only its own tokens, until it restarts."""
    idle_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 600.0
    """A stream whose client sends no audio (Palabra's and Kotoba's doors: nothing at all) for this
    long is ended."""
    duration_s: Annotated[float, msgspec.Meta(ge=1, le=80_000)] = 43_200.0
    """Longest stream; must stay below the retention of TRANSCRIPT (24 h)."""
    resume_s: Annotated[float, msgspec.Meta(ge=1, le=600)] = 8.0
    """A client that can resume its stream (native door) may be away this long; 8 s and no longer
    when this process has died meanwhile."""
    drain_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0
    """After SIGTERM, open streams may take this long to get their last finals."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    log_format: Literal["json", "pretty"] = "json"
    """`json` lines for machines, `pretty` for people."""

    def __post_init__(self) -> None:
        """Check what spans characters and fields."""
        super().__post_init__()
        for tenant, key in self.api_keys:
            try:
                parse_token(tenant)
            except ContractError as error:
                raise ValueError(f"a tenant of API_KEYS is no token: {error}") from None
            if not key.reveal():
                raise ValueError("a key of API_KEYS is empty")
        if self.token_secret is not None and len(self.token_secret.reveal()) < SECRET_CHARS_MIN:
            raise ValueError(f"TOKEN_SECRET has fewer than {SECRET_CHARS_MIN} characters")
