"""Settings of the transcriber, from SPEECHBUS_TRANSCRIBER_* variables."""

from typing import Annotated, Final, Literal

import msgspec

from speechbus_contracts import ContractError, parse_token
from speechbus_transcriber.providers.registry import PROVIDERS

__all__ = ["SETTINGS_PREFIX", "Settings"]

SETTINGS_PREFIX: Final = "SPEECHBUS_TRANSCRIBER_"
SESSIONS_DEFAULT: Final = 100
"""A tenth of what one process was measured to carry; raise it when cores are free."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker process needs to know."""

    nats_url: str = "nats://127.0.0.1:4222"
    """NATS server, or several separated by commas."""
    worker_id: str = ""
    """Name of this worker, unique in the pool; empty: one is made up."""
    sessions_max: Annotated[int, msgspec.Meta(ge=1, le=2_000)] | None = None
    """Streams it carries at once; empty: LOCAL_SESSIONS_MAX with `local` first, else 100.

    Further streams wait for another worker.
    """
    providers: tuple[str, ...] = ("local",)
    """Providers it can reach, in the order to try them."""
    local_sessions_max: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    """Sessions of the local engine; one core carries 8 to 10."""
    local_vad: Literal["silero", "webrtc"] = "silero"
    """Turn detection of the local engine: `silero` stands noise, `webrtc` costs less."""
    shards: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    """Number of AUDIO stores; the same in all services."""
    drain_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 20.0
    """After SIGTERM, streams may stay this long until another worker has taken them."""
    health_host: str = "127.0.0.1"
    """Address of /healthz and /readyz."""
    health_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8081
    """Port of /healthz and /readyz; 0: any free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    log_format: Literal["json", "pretty"] = "json"
    """`json` lines for machines, `pretty` for people."""

    @property
    def capacity(self) -> int:
        """Streams this worker offers to carry."""
        if self.sessions_max is not None:
            return self.sessions_max
        return self.local_sessions_max if self.providers[0] == "local" else SESSIONS_DEFAULT

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: an unknown provider, none at all, or a worker id that is no token.
        """
        unknown = [name for name in self.providers if name not in PROVIDERS]
        if unknown or not self.providers:
            raise ValueError(f"PROVIDERS needs one or more of: {', '.join(PROVIDERS)}")
        if self.worker_id:
            try:
                parse_token(self.worker_id)
            except ContractError as error:
                raise ValueError(f"WORKER_ID is no token: {error}") from None
