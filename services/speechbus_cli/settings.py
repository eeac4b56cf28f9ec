"""The one place of the command line that reads the environment (beside click's `envvar=`)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from speechbus_cli.errors import SettingsMistakeError
from speechbus_runtime.bus_login import BusLogin
from speechbus_runtime.bus_settings import BusSettings
from speechbus_runtime.settings import SettingsError, describe_settings, read_settings

__all__ = [
    "API_KEYS",
    "DEV_KEY",
    "DEV_TENANT",
    "INGEST_URL",
    "KEY",
    "NATS_PREFIX",
    "NATS_URL",
    "default_providers",
    "read_environment",
    "read_first_key",
    "read_nats_login",
]

NATS_PREFIX: Final = "SPEECHBUS_"
NATS_URL: Final = f"{NATS_PREFIX}NATS_URL"
INGEST_URL: Final = "SPEECHBUS_URL"
KEY: Final = "SPEECHBUS_KEY"
API_KEYS: Final = "SPEECHBUS_INGEST_API_KEYS"
DEV_TENANT: Final = "dev"
DEV_KEY: Final = "dev"
"""Not a secret: `speechbus dev` listens on loopback unless told otherwise."""


def read_environment() -> dict[str, str]:
    """Return a copy of this process's environment, for the processes it starts."""
    return dict(os.environ)


def default_providers(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return what `speechbus dev` gives its transcribers: those with an account first."""

    def has(name: str) -> bool:
        return bool(environment.get(name) or environment.get(f"{name}_FILE"))

    has_palabra = has("PALABRA_API_KEY") or (
        has("PALABRA_CLIENT_ID") and has("PALABRA_CLIENT_SECRET")
    )
    cloud = {"palabra": has_palabra, "kotoba": has("KOTOBA_API_KEY")}
    return (*(name for name, is_there in cloud.items() if is_there), "local", "echo")


def read_nats_login() -> BusLogin:
    """Read who commands are to NATS: `SPEECHBUS_NATS_USER` and those beside it.

    Raises:
        SettingsMistakeError: with all mistakes together.
    """
    known = {
        f"{described.variable}{suffix}"
        for described in describe_settings(BusSettings, NATS_PREFIX)
        for suffix in ("", "_FILE")
    }
    try:
        return read_settings(
            BusSettings,
            prefix=NATS_PREFIX,
            # The server's own variables may be here as well (deploy/nats/speechbus.conf).
            environ={name: value for name, value in os.environ.items() if name in known},
        ).nats_login
    except SettingsError as error:
        raise SettingsMistakeError(str(error)) from None


def read_first_key(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return tenant and key of the first entry of `SPEECHBUS_INGEST_API_KEYS` (or its `_FILE`).

    Returns:
        None when neither variable is set.

    Raises:
        SettingsMistakeError: the file cannot be read, or the entry is not `tenant:key`.
    """
    keys = environment.get(API_KEYS)
    if not keys:  # services take an empty variable for one that is not set, too
        path = environment.get(f"{API_KEYS}_FILE")
        if not path:
            return None
        try:
            keys = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise SettingsMistakeError(
                f"{API_KEYS}_FILE names a file that cannot be read: correct the path or its rights."
            ) from None
    tenant, colon, key = keys.strip().split(",")[0].strip().partition(":")
    if not (tenant and colon and key):
        raise SettingsMistakeError(f"{API_KEYS} holds no `tenant:key`: write for example dev:dev.")
    return tenant, key
