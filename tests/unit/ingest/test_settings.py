"""Settings of ingest that only make sense together, or not at all."""

import pytest

from speechbus_ingest.settings import SETTINGS_PREFIX, Settings
from speechbus_runtime.settings import SettingsError, read_settings

HASH = "a" * 64


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"API_KEYS": "acme:sha256:abc"}, "API_KEYS: a hashed key is"),
        ({"API_KEYS": "acme:k,bolt:k"}, "API_KEYS: two tenants have the same key"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, "TRUSTED_PROXIES: entry 2"),
        ({"ALLOWED_ORIGINS": "app.example"}, "ALLOWED_ORIGINS: entry 1"),
        ({"TLS_KEY_PATH": "/key.pem"}, "TLS_CERTIFICATE_PATH and"),
        ({"TOKEN_SECRET_FORMER": "x" * 32}, "needs SPEECHBUS_INGEST_TOKEN_SECRET"),
        ({"TOKEN_SECRET": "x" * 32, "TOKEN_SECRET_FORMER": "short"}, "FORMER has fewer than 32"),
    ],
)
def test_a_mistake_is_told_by_its_variable(wrong: dict[str, str], said: str) -> None:
    """Before anything listens, and without what stands there."""
    environ = {
        f"{SETTINGS_PREFIX}{name}": value for name, value in {"API_KEYS": "a:b", **wrong}.items()
    }
    with pytest.raises(SettingsError, match=said) as raised:
        read_settings(Settings, prefix=SETTINGS_PREFIX, environ=environ)

    assert not any(secret in str(raised.value) for secret in ("short", "proxy,", "abc"))


def test_all_of_it_can_be_set() -> None:
    """As an operator would."""
    environ = {
        "API_KEYS": f"acme:sha256:{HASH},acme:plain",
        "TRUSTED_PROXIES": "10.0.0.0/8,fd00::1",
        "ALLOWED_ORIGINS": "https://app.example",
        "TLS_CERTIFICATE_PATH": "/tls.pem",
        "TLS_KEY_PATH": "/key.pem",
        "TOKEN_SECRET": "x" * 32,
        "TOKEN_SECRET_FORMER": "y" * 32,
    }
    settings = read_settings(
        Settings,
        prefix=SETTINGS_PREFIX,
        environ={f"{SETTINGS_PREFIX}{name}": value for name, value in environ.items()},
    )

    assert HASH not in repr(settings)
