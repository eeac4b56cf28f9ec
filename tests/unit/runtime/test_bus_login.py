"""What a service shows to NATS, from its settings."""

from pathlib import Path

import pytest

from speechbus_runtime.bus_login import BusLogin, is_refusal
from speechbus_runtime.bus_settings import BusSettings
from speechbus_runtime.secret import Secret
from speechbus_runtime.settings import SettingsError, read_settings

PREFIX = "SPEECHBUS_TEST_"


def read(**variables: str) -> BusSettings:
    environ = {f"{PREFIX}{name}": value for name, value in variables.items()}
    return read_settings(BusSettings, prefix=PREFIX, environ=environ)


def test_a_users_inbox_has_its_name() -> None:
    """Rights on inboxes are by user."""
    by_setting = read(NATS_USER="ingest", NATS_PASSWORD="p").nats_login
    by_url = read().nats_login

    assert by_setting.build_options("nats://a:b@h", service="x")["inbox_prefix"] == "_INBOX_ingest"
    assert by_url.build_options("nats://a:b@h", service="x")["inbox_prefix"] == "_INBOX_a"
    assert by_url.build_options("nats://h", service="x")["inbox_prefix"] == "_INBOX_x"
    assert by_url.build_options("nats://a.>:b@h", service="x")["inbox_prefix"] == "_INBOX_x"


def test_a_password_in_a_file_is_read_for_each_connection(tmp_path: Path) -> None:
    """Kubernetes replaces the file of a Secret; nobody has to start the service again."""
    path = tmp_path / "password"
    path.write_text("old\n")
    login = read(NATS_USER="ingest", NATS_PASSWORD_FILE=str(path)).nats_login
    give = login.build_options("nats://h", service="x")["password"]

    assert give() == "old"
    path.write_text("new\n")
    assert give() == "new"
    path.write_text("")  # being written
    assert give() == "old"
    path.unlink()
    assert give() == "old"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"NATS_USER": "ingest"}, "NATS_USER and SPEECHBUS_TEST_NATS_PASSWORD come together"),
        ({"NATS_PASSWORD": "secret"}, "NATS_USER and SPEECHBUS_TEST_NATS_PASSWORD come together"),
        ({"NATS_USER": "a.b", "NATS_PASSWORD": "secret"}, "NATS_USER has other characters"),
        ({"NATS_CERT": "/x.pem"}, "NATS_CERT and SPEECHBUS_TEST_NATS_KEY come together"),
        ({"NATS_CA": "/nowhere.pem"}, "name readable files in PEM form"),
        ({"NATS_CA": __file__}, "name readable files in PEM form"),
    ],
)
def test_a_mistake_is_told_before_anything_is_tried(variables: dict[str, str], said: str) -> None:
    """By the variable, and without its value."""
    with pytest.raises(SettingsError) as caught:
        read(**variables)

    assert (said in str(caught.value), "secret" in str(caught.value)) == (True, False)


def test_what_to_do_about_a_refusal_names_no_password() -> None:
    """It goes to stderr, to readiness and to the log."""
    login = BusLogin(user="ingest", password=Secret("hidden"))
    said = login.explain_refusal("nats://me:hidden@a:4222, nats://hidden@b:4222")

    assert "NATS at a:4222, b:4222 refuses the user ingest" in said
    assert "hidden" not in said + repr(login)


@pytest.mark.parametrize(
    ("text", "is_final"),
    [
        ("nats: 'Authorization Violation'", True),
        ("nats: 'User Authentication Expired'", True),
        ("nats: 'Authentication Timeout'", False),
        ("nats: the server offers no TLS", True),
        ("nats: 'Maximum Connections Exceeded'", False),
        ("nats: stale connection", False),
    ],
)
def test_a_refusal_is_told_from_an_outage(text: str, is_final: bool) -> None:  # noqa: FBT001
    """One needs a person, the other patience."""
    assert is_refusal(Exception(text)) is is_final
