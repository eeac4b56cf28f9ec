"""Settings of the translator, from SPEECHBUS_TRANSLATOR_* variables."""

from typing import Annotated, Final, Literal

import msgspec

from speechbus_runtime.bus_settings import BusSettings
from speechbus_runtime.secret import Secret

__all__ = ["SETTINGS_PREFIX", "Settings"]

SETTINGS_PREFIX: Final = "SPEECHBUS_TRANSLATOR_"


class Settings(BusSettings, frozen=True, kw_only=True):
    """What one translator process needs to know."""

    engines: tuple[Literal["ctranslate2", "libretranslate", "apertium"], ...] = (
        "ctranslate2",
        "libretranslate",
        "apertium",
    )
    """Engines in the order to try them; those that are not set up are left out."""
    ctranslate2_dir: str = ""
    """Folder of CTranslate2 models, one folder for each pair (`en-es`); empty: none."""
    libretranslate_url: str = ""
    """A server that speaks LibreTranslate's API, up to `/translate`; empty: none."""
    libretranslate_api_key: Secret | None = None
    """Its API key; empty: it wants none."""
    apertium_modes: str = "/usr/share/apertium/modes"
    """Folder of Apertium's mode files, where it is installed."""
    timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=7)] = 3.0
    """An engine that has not translated a text after this many seconds has failed."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=32)] = 8
    """Texts at one engine at the same time."""
    retry_for_s: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 60.0
    """A final is tried for so long while no engine answers; then it is named as missing."""
    health_host: str = "127.0.0.1"
    """Address of /healthz, /readyz and /metrics."""
    health_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8083
    """Port of /healthz, /readyz and /metrics; 0: any free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    log_format: Literal["json", "pretty"] = "json"
    """`json` lines for machines, `pretty` for people."""
