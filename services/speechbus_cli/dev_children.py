"""The services that `speechbus dev` runs: their command lines and their environment."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from speechbus_cli.bootstrap import BootstrapSettings
from speechbus_cli.embedded_nats import choose_port, is_port_free
from speechbus_cli.errors import FailedError, SettingsMistakeError
from speechbus_cli.settings import API_KEYS, DEV_KEY, DEV_TENANT
from speechbus_cli.supervisor import ChildSpec
from speechbus_runtime.settings import SettingsError, read_settings

__all__ = ["DevPlace", "build_service_specs", "check_services", "choose_place", "parse_listen"]

STOP_ORDER: Final = {"ingest": 0, "transcriber": 1, "correlator": 2, "translator": 2}
"""Against the flow of the data: first nothing new comes in, last NATS goes."""
DRAIN_S: Final = "2"
"""Seconds a service gives its streams: everything ends together here, so nobody takes them over."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_WILDCARDS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class DevPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where ingest listens, and who may come in."""

    host: str
    port: int
    tenant: str
    key: str
    is_own_key: bool
    """The well-known development key rather than one from the environment."""

    @property
    def page_url(self) -> str:
        """Where a browser of this machine finds the page."""
        host = _WILDCARDS.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only programs of this machine can connect."""
        return self.host in _LOOPBACK

    @property
    def key_hint(self) -> str:
        """What the person is told about credentials: no key that is a secret."""
        if self.is_own_key:
            return f"{self.tenant}:{self.key}"
        return f"{self.tenant}:... (from {API_KEYS})"


def parse_listen(listen: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (every address).

    Raises:
        SettingsMistakeError: it is none of them.
    """
    host, colon, port = listen.rpartition(":")
    is_number = port.isascii() and port.isdigit() and int(port[:6]) <= 65_535
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not (colon and is_number) or (":" in host and not is_bracketed):
        raise SettingsMistakeError("--listen wants HOST:PORT, for example 127.0.0.1:8080.")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)  # noqa: S104


def choose_place(listen: str, credentials: tuple[str, str] | None) -> DevPlace:
    """Decide where ingest will listen.

    Args:
        listen: `HOST:PORT`; port 0: any free one.
        credentials: tenant and key from the environment; None: the development key.

    Raises:
        SettingsMistakeError: `listen` is no address.
        FailedError: somebody else listens there.
    """
    host, port = parse_listen(listen)
    if port and not is_port_free(host, port):
        raise FailedError(
            f"{listen} is taken: end the program that listens there, or give another address by"
            " --listen (127.0.0.1:0: any free port)."
        )
    tenant, key = credentials or (DEV_TENANT, DEV_KEY)
    return DevPlace(
        host=host,
        port=port or choose_port(host, 0),
        tenant=tenant,
        key=key,
        is_own_key=credentials is None,
    )


def build_service_specs(
    place: DevPlace,
    settings: BootstrapSettings,
    *,
    folder: Path,
    nats_url: str,
    workers: int,
    providers: tuple[str, ...],
    environment: Mapping[str, str],
    translates: bool = False,
) -> list[ChildSpec]:
    """Return how to run the services, in the order to start them: against the flow of the data.

    Args:
        place: where ingest listens.
        settings: how the JetStream objects were made; the services must agree.
        folder: gets the logs.
        nats_url: of the server to use.
        workers: number of transcribers.
        providers: of the transcribers, in the order to try.
        environment: of this process; the services inherit it.
        translates: whether a translator is among them.
    """
    stores = {"SHARDS": str(settings.shards)}
    # The person's own variables win over the second mapping, never over the first.
    ingest = (
        {"NATS_URL": nats_url, "LISTEN_HOST": place.host, "LISTEN_PORT": str(place.port), **stores},
        {
            "DRAIN_S": DRAIN_S,
            # Who can reach a loopback port can read this process's memory, too.
            **({"VIEWER": "open"} if place.is_loopback else {}),
            # Everybody knows that key: a page that the person visits must not use it.
            **(
                {
                    "API_KEYS": f"{place.tenant}:{place.key}",
                    "ALLOWED_ORIGINS": f"http://127.0.0.1:{place.port}",
                }
                if place.is_own_key
                else {}
            ),
        },
    )
    transcriber = (
        {"NATS_URL": nats_url, "PROVIDERS": ",".join(providers), "HEALTH_PORT": "0", **stores},
        {"DRAIN_S": DRAIN_S},
    )
    consumers = ({"NATS_URL": nats_url, "HEALTH_PORT": "0"}, dict[str, str]())

    def build(service: str, name: str, values: tuple[dict[str, str], dict[str, str]]) -> ChildSpec:
        return ChildSpec(
            name=name,
            command=(sys.executable, "-m", "speechbus_cli.main", service),
            environment=_build_environment(service, *values, environment=environment),
            log_path=folder / f"{name}.log",
            stop_order=STOP_ORDER[service],
        )

    return [
        build("correlator", "correlator", consumers),
        *([build("translator", "translator", consumers)] if translates else []),
        *(
            build("transcriber", f"transcriber-{number}", transcriber)
            for number in range(1, workers + 1)
        ),
        build("ingest", "ingest", ingest),
    ]


def check_services(specs: Sequence[ChildSpec]) -> None:
    """Read the settings that the services will read, before anything runs.

    Raises:
        SettingsMistakeError: with all mistakes together, by the name the person knows.
    """
    environments = {spec.command[-1]: spec.environment for spec in specs}
    mistakes: list[str] = []
    for service, environment in environments.items():
        module = importlib.import_module(f"speechbus_{service}.settings")
        try:
            read_settings(module.Settings, prefix=module.SETTINGS_PREFIX, environ=environment)
        except SettingsError as error:
            mistakes.append(str(error))
    if mistakes:
        # What this command sets by itself is right, so it was the option.
        text = "\n".join(mistakes).replace("SPEECHBUS_TRANSCRIBER_PROVIDERS", "--providers")
        raise SettingsMistakeError(text)


def _build_environment(
    service: str,
    fixed: Mapping[str, str],
    defaults: Mapping[str, str],
    *,
    environment: Mapping[str, str],
) -> dict[str, str]:
    prefix = f"SPEECHBUS_{service.upper()}_"
    built = dict(environment)
    for name, value in defaults.items():
        if not built.get(f"{prefix}{name}") and not built.get(f"{prefix}{name}_FILE"):
            built[f"{prefix}{name}"] = value
    for name, value in fixed.items():
        built[f"{prefix}{name}"] = value
        built.pop(f"{prefix}{name}_FILE", None)  # services refuse to be told twice
    return built
