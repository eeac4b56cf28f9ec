"""Which providers a worker has, from the environment."""

from pathlib import Path

import pytest

from speechbus_contracts import parse_token
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_transcriber.providers.kotoba import KotobaAccount
from speechbus_transcriber.providers.palabra import PalabraAccount
from speechbus_transcriber.providers.registry import (
    PROVIDER_NAMES,
    Accounts,
    build_providers,
    default_route,
    plan_route,
)
from speechbus_transcriber.settings import (
    PALABRA_CLIENT_URL,
    PALABRA_KEY_URL,
    SETTINGS_PREFIX,
    Settings,
)

KEY = {"PALABRA_API_KEY": "the-key"}
CREDENTIALS = {"PALABRA_CLIENT_ID": "me", "PALABRA_CLIENT_SECRET": "the-secret"}
API = "https://api.palabra.ai"


def read(**variables: str) -> Settings:
    """Settings from these variables alone."""
    return read_settings(Settings, prefix=SETTINGS_PREFIX, environ=variables)


def test_an_account_puts_its_provider_first() -> None:
    """Whoever sets a key wants it used; without any there is the local engine."""
    assert read().route == ("local",)
    assert read(**KEY).route == ("palabra", "local")
    assert read(**KEY, KOTOBA_API_KEY="k").route == ("palabra", "kotoba", "local")
    assert read(**KEY, SPEECHBUS_TRANSCRIBER_PROVIDERS="echo").route == ("echo",)


def test_a_default_image_has_no_local_engine_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker without a provider would take streams and fail each; better it does not start."""
    monkeypatch.setattr("speechbus_transcriber.settings.LOCAL_PACKAGE", "no_such_package")
    assert read(**KEY).route == ("palabra",)

    with pytest.raises(SettingsError, match="set PALABRA_API_KEY or KOTOBA_API_KEY, or install"):
        read()
    with pytest.raises(SettingsError, match="SPEECHBUS_TRANSCRIBER_PROVIDERS with local needs"):
        read(SPEECHBUS_TRANSCRIBER_PROVIDERS="local")


def test_a_key_and_client_credentials_lead_to_their_own_addresses() -> None:
    """The two generations of keys have different hosts (providers.md 3.1)."""
    assert read(**KEY).accounts.palabra == (
        PalabraAccount(stt_url=PALABRA_KEY_URL, api_url=API, api_key="the-key", sessions_max=1),
    )
    assert read(**CREDENTIALS).accounts.palabra == (
        PalabraAccount(
            stt_url=PALABRA_CLIENT_URL, api_url=API, client_id="me", client_secret="the-secret"
        ),
    )
    moved = read(**KEY, PALABRA_STT_URL="ws://here", PALABRA_API_URL="http://there")
    assert moved.accounts.palabra == (
        PalabraAccount(
            stt_url="ws://here", api_url="http://there", api_key="the-key", sessions_max=1
        ),
    )


def test_several_keys_are_several_accounts_each_with_the_limit(tmp_path: Path) -> None:
    """In a list or in the lines of a file; one that is named twice is one."""
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\n\none\n")
    settings = read(
        PALABRA_API_KEY_FILE=str(keys),
        PALABRA_SESSIONS_MAX="3",
        KOTOBA_API_KEY="a, b",
        KOTOBA_SESSIONS_MAX="0",
    )
    palabra, kotoba = settings.accounts.palabra, settings.accounts.kotoba

    assert [(one.api_key, one.sessions_max) for one in palabra] == [("one", 3), ("two", 3)]
    assert [(one.api_key, one.sessions_max) for one in kotoba] == [("a", None), ("b", None)]
    assert read(**KEY, PALABRA_SESSIONS_MAX="0").accounts.palabra[0].sessions_max is None
    assert read(**CREDENTIALS, PALABRA_SESSIONS_MAX="7").accounts.palabra[0].sessions_max == 7


def test_an_account_has_a_name_that_tells_nothing_about_its_secret() -> None:
    """It is a subject on the bus; the same credential at another address is another account."""

    def name(key: str, url: str = "wss://a") -> str:
        accounts = Accounts(kotoba=(KotobaAccount(api_key=key, url=url),))
        (account,) = build_providers(["kotoba"], accounts)["kotoba"].accounts
        return parse_token(account.id)

    assert name("secret") == name("secret")
    assert len({name("secret"), name("another"), name("secret", "wss://b")}) == 3
    assert "secret" not in name("secret")


@pytest.mark.parametrize(
    ("variables", "hint"),
    [
        ({"SPEECHBUS_TRANSCRIBER_PROVIDERS": "palabra"}, "PALABRA_API_KEY"),
        ({"PALABRA_CLIENT_ID": "me"}, "come together"),
        ({"PALABRA_CLIENT_SECRET": "the-secret"}, "come together"),
        ({"SPEECHBUS_TRANSCRIBER_PROVIDERS": "nobody"}, "palabra, kotoba, local, echo"),
        ({"SPEECHBUS_TRANSCRIBER_PROVIDERS": "kotoba"}, "KOTOBA_API_KEY"),
        ({"KOTOBA_ASR_URL": "http://kotoba.example"}, "KOTOBA_ASR_URL begins with wss:// or ws://"),
        ({"PALABRA_STT_URL": "palabra.example"}, "PALABRA_STT_URL begins with"),
        ({"PALABRA_API_URL": "ftp://palabra.example"}, "PALABRA_API_URL begins with https://"),
    ],
)
def test_a_mistake_says_which_variable_to_set(variables: dict[str, str], hint: str) -> None:
    """And shows no secret."""
    with pytest.raises(SettingsError) as caught:
        read(**variables)

    assert hint in str(caught.value)
    assert "the-secret" not in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    """Nobody has to start a service five times to learn of five."""
    with pytest.raises(SettingsError) as caught:
        read(
            SPEECHBUS_TRANSCRIBER_PROVIDERS="palabra,kotoba,nobody",
            SPEECHBUS_TRANSCRIBER_WORKER_ID="no token",
        )

    for hint in ("PALABRA_API_KEY", "KOTOBA_API_KEY", "PROVIDERS takes only", "WORKER_ID"):
        assert hint in str(caught.value)


def test_a_route_has_what_the_worker_has_and_the_language_needs() -> None:
    """In the order that the stream asks for."""
    accounts = Accounts(
        palabra=(PalabraAccount(stt_url="", api_url="", api_key="k"),),
        kotoba=(KotobaAccount(api_key="k", url=""),),
    )
    providers = build_providers(PROVIDER_NAMES, accounts)

    assert tuple(providers) == PROVIDER_NAMES
    assert default_route(PROVIDER_NAMES) == ["palabra", "kotoba", "local"]
    wanted = ["local", "palabra", "unknown", "palabra", "echo"]
    assert plan_route(wanted, available=providers, language=None) == ["local", "palabra", "echo"]
    assert plan_route(wanted, available=providers, language="ja-JP") == ["palabra", "echo"]
    # Kotoba writes in a language that it is told; to guess one would be worse than nothing.
    assert plan_route(["kotoba", "echo"], available=providers, language=None) == ["echo"]
    assert plan_route(["kotoba"], available=providers, language="ja-JP") == ["kotoba"]
    assert plan_route(wanted, available=providers, language="sw") == ["echo"]
