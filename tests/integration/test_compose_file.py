"""What docker-compose.yml promises, as Compose itself reads it."""

import stat
import subprocess
from pathlib import Path
from typing import Final

import pytest

from speechbus_correlator.captions import STORE_WITHIN_S
from speechbus_ingest.service import STOP_MARGIN_S as INGEST_MARGIN_S
from speechbus_runtime.lifecycle import CANCEL_WITHIN_S, CLOSE_WITHIN_S
from speechbus_runtime.pull_service import STOP_MARGIN_S
from speechbus_runtime.settings import describe_settings
from speechbus_runtime.telemetry_settings import TELEMETRY_PREFIX, TelemetrySettings
from speechbus_transcriber.service import STOP_MARGIN_S as TRANSCRIBER_MARGIN_S
from speechbus_translator.translator import HANDLE_WITHIN_S
from tests.support.chart_schema import COMPONENTS
from tests.support.compose_file import ComposeError, ComposeFile, read_compose
from tests.support.dockerfile import REPOSITORY

SERVICES: Final = ("ingest", "transcriber", "translator", "correlator")
NEEDS_A_FILE: Final = frozenset(
    {
        *("NATS_CA", "NATS_CERT", "NATS_KEY"),  # NATS is on a network of its own
        *("TLS_CERTIFICATE_PATH", "TLS_KEY_PATH", "CTRANSLATE2_DIR"),
    }
)
"""Settings that take more than a variable: an override file that mounts something."""
MAKE_SECRETS: Final = REPOSITORY / "deploy" / "compose" / "make-secrets.sh"


@pytest.fixture(scope="module")
def file() -> ComposeFile:
    """The file with all profiles."""
    return read_compose(variables={"SPEECHBUS_SECRETS": "/secrets"}, profiles=["*"])


def test_without_secrets_compose_says_what_to_do() -> None:
    """The first thing that anybody does is `docker compose up`, in a fresh checkout."""
    with pytest.raises(ComposeError, match="run `make secrets` first"):
        read_compose(variables={})


def test_all_that_runs_by_default_is_the_system(file: ComposeFile) -> None:
    """Profiles add to it, and nothing else does."""
    default = read_compose(variables={"SPEECHBUS_SECRETS": "/secrets"})

    assert set(default.services) == {"nats", "bootstrap", *SERVICES}
    assert default.services["transcriber"].scale == 2
    assert set(file.services) - set(default.services) == {
        *("simulate-kotoba", "simulate-palabra", "nats-1", "nats-2", "prometheus", "grafana"),
        "operator",
    }


def test_every_container_is_confined(file: ComposeFile) -> None:
    """Who breaks into one can write nowhere but its /tmp and volumes, and gains no right."""
    loose = [
        name
        for name, service in file.services.items()
        if not (
            service.read_only
            and service.init
            and service.cap_drop == ["ALL"]
            and service.security_opt == ["no-new-privileges:true"]
            and int(service.deploy.resources.limits.memory) <= 5 << 30
            and 0 < service.deploy.resources.limits.pids <= 1_024
        )
    ]

    assert loose == []


def test_everything_comes_back_but_the_one_shot(file: ComposeFile) -> None:
    """After a crash and after a restart of the machine."""
    policies = {name: service.restart for name, service in file.services.items()}

    assert [policies.pop(name) for name in ("bootstrap", "operator")] == ["no", "no"]
    assert set(policies.values()) == {"unless-stopped"}


@pytest.mark.parametrize(
    ("name", "longest_stop_s"),
    [
        ("ingest", 10 + INGEST_MARGIN_S),
        ("transcriber", 20 + TRANSCRIBER_MARGIN_S),
        ("translator", HANDLE_WITHIN_S + STOP_MARGIN_S),
        ("correlator", STORE_WITHIN_S + STOP_MARGIN_S),
    ],
)
def test_a_service_ends_by_itself_before_it_is_killed(
    file: ComposeFile, name: str, longest_stop_s: float
) -> None:
    """SIGKILL in the middle of a drain would cost what the drain saves."""
    service = file.services[name]
    drain = service.environment.get(f"SPEECHBUS_{name.upper()}_DRAIN_S")

    assert drain in {None, str(round(longest_stop_s - 5))}
    assert service.grace_s >= longest_stop_s + CANCEL_WITHIN_S + CLOSE_WITHIN_S


def test_transcribers_can_be_scaled(file: ComposeFile) -> None:
    """A name, a port or an id of its own would make the second one fail."""
    service = file.services["transcriber"]

    assert (service.container_name, service.ports) == (None, [])
    assert "SPEECHBUS_TRANSCRIBER_WORKER_ID" not in service.environment


def test_only_doors_and_pages_are_published_and_for_this_machine_only(file: ComposeFile) -> None:
    """NATS takes passwords without TLS here, so nobody outside may reach it."""
    published = {
        (name, port.host_ip) for name, service in file.services.items() for port in service.ports
    }

    assert published == {(name, "127.0.0.1") for name in ("ingest", "prometheus", "grafana")}
    assert file.networks["bus"].internal
    assert all(list(file.services[n].networks) == ["bus"] for n in ("nats", "nats-1", "nats-2"))


def test_each_service_sees_its_own_password_only(file: ComposeFile) -> None:
    """And none in its environment, which `docker inspect` shows."""
    for name in (*SERVICES, "bootstrap", "operator"):
        service = file.services[name]
        seen = {use.source for use in service.secrets if use.source.startswith("nats_")}
        users = {v for k, v in service.environment.items() if k.endswith("_NATS_USER")}
        assert seen == {f"nats_{name}_password"}
        assert users == {name}
    telling = [
        variable
        for service in file.services.values()
        for variable, value in service.environment.items()
        if value and variable.endswith(("KEY", "KEYS", "SECRET", "PASSWORD", "_FILE"))
        if not value.startswith("/run/secrets/")
    ]
    assert telling == []


def test_what_is_mounted_and_built_is_there(file: ComposeFile) -> None:
    """A path that is wrong shows at the first start only, as a folder that the engine has made."""
    mounted = [
        Path(mount.source)
        for service in file.services.values()
        for mount in service.volumes
        if mount.type == "bind"
    ]
    locks = {path.stem for path in (REPOSITORY / "deploy" / "locks").glob("*.lock")}
    builds = [service.build for service in file.services.values() if service.build]
    extras = {
        extra
        for build in builds
        for name in ("SERVICE", "EXTRAS")
        for extra in build.args.get(name, "").split()
    }

    assert [path for path in mounted if not path.exists()] == []
    assert {build.dockerfile for build in builds} == {"deploy/Dockerfile"}
    assert extras == {*SERVICES, "local", "operator", "simulate"}
    assert extras <= locks


@pytest.mark.parametrize("name", [*SERVICES, "bootstrap"])
def test_every_setting_can_be_given(file: ComposeFile, name: str) -> None:
    """One that the file does not hand on could be set in .env, and would do nothing."""
    kind, prefix = COMPONENTS[name]
    given = {variable.removesuffix("_FILE") for variable in file.services[name].environment}
    settings = {described.variable for described in describe_settings(kind, prefix)}

    assert settings - given - {f"{prefix}{own}" for own in NEEDS_A_FILE | {"WORKER_ID"}} == set()


def test_every_service_can_send_its_telemetry(file: ComposeFile) -> None:
    """A collector is elsewhere, and a network without a way out does not lead there."""
    read = {
        described.variable for described in describe_settings(TelemetrySettings, TELEMETRY_PREFIX)
    }
    for name in SERVICES:
        service = file.services[name]
        assert read <= service.environment.keys()
        assert [each for each in service.networks if not file.networks[each].internal] != []


def test_images_of_others_have_a_version(file: ComposeFile) -> None:
    """`latest` is another image tomorrow; a digest nobody could look up is none at all."""
    for service in file.services.values():
        name, _, version = service.image.partition(":")
        assert name, service.image
        assert version not in {"", "latest"}
        assert "@" not in service.image


def test_secrets_are_made_once_and_for_the_owner_of_the_folder_only(tmp_path: Path) -> None:
    """A second `make secrets` must not lock running services out."""
    folder = tmp_path / "secrets"

    def make() -> dict[str, str]:
        subprocess.run(["sh", str(MAKE_SECRETS), str(folder)], check=True, capture_output=True)
        return {path.name: path.read_text() for path in folder.iterdir()}

    made = make()

    assert make() == made
    secrets = [text.strip() for text in made.values() if "\n" not in text.strip()]
    assert len(set(secrets)) == len(secrets) == 14  # `none` is one of them
    assert sorted(len(secret) for secret in secrets)[1] == 32
    assert made["api_keys"] == f"default:{made['api_key']}\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes.pop("api_keys") == 0o644  # appended to by its owner
    assert set(modes.values()) == {0o444}
    used = read_compose(variables={"SPEECHBUS_SECRETS": str(folder)}, profiles=["*"]).secrets
    assert [secret.file for secret in used.values() if not Path(secret.file).exists()] == []
