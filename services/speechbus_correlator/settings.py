"""Settings of the correlator, from SPEECHBUS_CORRELATOR_* variables."""

from typing import Annotated, Final, Literal

import msgspec

from speechbus_runtime.bus_settings import BusSettings

__all__ = ["SETTINGS_PREFIX", "Settings"]

SETTINGS_PREFIX: Final = "SPEECHBUS_CORRELATOR_"


class Settings(BusSettings, frozen=True, kw_only=True):
    """What one correlator process needs to know."""

    deadline_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 5.0
    """How long a final waits for its translations, in seconds; the same in all correlators."""
    health_host: str = "127.0.0.1"
    """Address of /healthz, /readyz and /metrics."""
    health_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8082
    """Port of /healthz, /readyz and /metrics; 0: any free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    log_format: Literal["json", "pretty"] = "json"
    """`json` lines for machines, `pretty` for people."""
