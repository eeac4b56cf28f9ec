import errno
import re
import socket
from pathlib import Path

import pytest

from speechbus_cli.bootstrap import BootstrapSettings
from speechbus_cli.dev_children import DevPlace, build_service_specs, choose_place, parse_listen
from speechbus_cli.embedded_nats import NATS_CONFIG
from speechbus_cli.errors import FailedError, SettingsMistakeError
from speechbus_cli.settings import read_first_key
from speechbus_ingest.settings import Settings as IngestSettings
from speechbus_runtime.settings import read_settings
from speechbus_transcriber.settings import Settings as TranscriberSettings

DEV_CONF = Path(__file__).parents[3] / "deploy" / "nats" / "dev.conf"


def environment_of(service: str, *, is_own_key: bool = True, **variables: str) -> dict[str, str]:
    place = DevPlace(host="127.0.0.1", port=8088, tenant="dev", key="dev", is_own_key=is_own_key)
    specs = build_service_specs(
        place,
        BootstrapSettings(shards=2),
        folder=Path("data"),
        nats_url="nats://127.0.0.1:4333",
        workers=1,
        providers=("echo", "local"),
        environment=variables,
    )
    return dict(next(spec.environment for spec in specs if spec.name.startswith(service)))


def test_ingest_accepts_what_dev_tells_it() -> None:
    """A renamed setting would otherwise first show when somebody starts the demo."""
    settings = read_settings(
        IngestSettings, prefix="SPEECHBUS_INGEST_", environ=environment_of("ingest")
    )

    assert (settings.nats_url, settings.listen_port, settings.shards, settings.viewer) == (
        "nats://127.0.0.1:4333",
        8088,
        2,
        "open",
    )
    assert [(tenant, key.reveal()) for tenant, key in settings.api_keys] == [("dev", "dev")]


def test_transcribers_accept_what_dev_tells_them() -> None:
    """Two of them share a machine, so the health port must be any free one."""
    settings = read_settings(
        TranscriberSettings,
        prefix="SPEECHBUS_TRANSCRIBER_",
        environ=environment_of("transcriber"),
    )

    assert (settings.nats_url, settings.health_port, settings.shards, settings.providers) == (
        "nats://127.0.0.1:4333",
        0,
        2,
        ("echo", "local"),
    )


def test_the_persons_own_variables_reach_the_services_unless_dev_must_decide() -> None:
    """Keys and limits are theirs; where NATS is, is not."""
    environment = environment_of(
        "ingest",
        is_own_key=False,
        SPEECHBUS_INGEST_API_KEYS="acme:k",
        SPEECHBUS_INGEST_DRAIN_S="7",
        SPEECHBUS_INGEST_NATS_URL_FILE="url.txt",
    )

    assert environment["SPEECHBUS_INGEST_API_KEYS"] == "acme:k"
    assert environment["SPEECHBUS_INGEST_DRAIN_S"] == "7"
    assert "SPEECHBUS_INGEST_NATS_URL_FILE" not in environment


def test_the_page_is_open_only_where_nobody_else_can_come() -> None:
    """`--listen 0.0.0.0:8080` must not show transcripts to the whole network."""
    place = DevPlace(host="0.0.0.0", port=80, tenant="dev", key="dev", is_own_key=True)
    specs = build_service_specs(
        place,
        BootstrapSettings(),
        folder=Path("data"),
        nats_url="nats://127.0.0.1:4222",
        workers=0,
        providers=(),
        environment={},
    )

    assert "SPEECHBUS_INGEST_VIEWER" not in specs[-1].environment
    assert place.page_url == "http://127.0.0.1:80"


def test_the_embedded_nats_has_the_settings_of_the_deployed_file() -> None:
    """The file explains them and is not part of the wheel, so they stand twice."""
    text = re.sub(r"#.*", "", DEV_CONF.read_text())

    assert NATS_CONFIG.split() == text.split()


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        (":80", ("0.0.0.0", 80)),
        ("localhost:65535", ("localhost", 65_535)),
    ],
)
def test_listen_addresses(listen: str, address: tuple[str, int]) -> None:
    """Scripts pass them."""
    assert parse_listen(listen) == address


@pytest.mark.parametrize("listen", ["8080", "::1:80", "host:", "host:65536", "host:\u0661", "h:-1"])
def test_a_wrong_listen_address_is_a_settings_mistake(listen: str) -> None:
    """Exit code 2 tells a script that repeating is useless."""
    with pytest.raises(SettingsMistakeError, match="HOST:PORT"):
        parse_listen(listen)


def test_a_port_that_needs_root_is_not_called_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for a program that listens on port 80 would be in vain.

    The refusal is played: tests may run as root, and containers may give away all ports.
    """

    def refuse(_socket: socket.socket, _address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)

    with pytest.raises(FailedError, match=r"127\.0\.0\.1:80: this user may not listen there"):
        choose_place("127.0.0.1:80", None)


def test_the_demo_takes_the_first_key_of_the_environment(tmp_path: Path) -> None:
    """Whoever sets keys of their own still sees the demo."""
    (tmp_path / "keys").write_text("acme:from-file\n")

    assert read_first_key({}) is None
    assert read_first_key({"SPEECHBUS_INGEST_API_KEYS": "a:b:c,d:e"}) == ("a", "b:c")
    assert read_first_key({"SPEECHBUS_INGEST_API_KEYS_FILE": str(tmp_path / "keys")}) == (
        "acme",
        "from-file",
    )
