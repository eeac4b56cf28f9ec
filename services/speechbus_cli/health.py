"""`speechbus health`: the probe of a container that has no curl."""

import asyncio
import http
import importlib
from typing import Any, Final

import click
import msgspec

from speechbus_cli.errors import ExitCode, FailedError, SettingsMistakeError
from speechbus_cli.http_probe import probe_http
from speechbus_cli.settings import SERVICE
from speechbus_runtime.health import Failure
from speechbus_runtime.settings import SettingsError, read_settings

__all__ = ["health"]

SERVICES: Final = ("ingest", "transcriber", "translator", "correlator")
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (asked, not bound)
"""Where to ask a service that listens everywhere."""


class _Answer(msgspec.Struct, frozen=True):
    failing: tuple[Failure, ...] = ()


@click.command(
    epilog="""\b
Examples:
  speechbus health ingest
  docker inspect --format '{{json .State.Health}}' CONTAINER    what it said in a container
\b
Environment: SPEECHBUS_SERVICE names the service where no argument does, as in our images; host and
port are those of the service's own variables.
\b
Exit codes: 0 well, 1 not well or no answer, 2 wrong arguments or settings.
"""
)
@click.argument("service", type=click.Choice(SERVICES), envvar=SERVICE)
@click.option(
    "--live", is_flag=True, help="Ask whether it should be restarted, not whether it is ready."
)
def health(*, service: str, live: bool) -> int:
    """Ask a service on this machine whether it is ready.

    Ready: it takes work, NATS is there, its objects exist, its user may do what it does.
    """
    url = f"{_find_address(service)}{'/healthz' if live else '/readyz'}"
    answer = asyncio.run(probe_http(url))
    if answer is None:
        raise FailedError(f"Nobody answers at {url}.")
    if answer.status != http.HTTPStatus.OK:
        raise FailedError(f"{service} is not well: {_explain(answer.body)}.")
    return ExitCode.DONE


def _find_address(service: str) -> str:
    """Return where the service answers, by the settings that it would start with here."""
    module = importlib.import_module(f"speechbus_{service}.settings")
    try:
        settings: Any = read_settings(module.Settings, prefix=module.SETTINGS_PREFIX)
    except SettingsError as error:
        raise SettingsMistakeError(str(error)) from None
    named: str = settings.health_host
    port: int | None = settings.health_port
    if port is None:  # only ingest may have none: its doors answer, too
        named, port = settings.listen_host, settings.listen_port
    host = _ANY_ADDRESS.get(named, named)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _explain(body: bytes) -> str:
    try:
        failing = msgspec.json.decode(body, type=_Answer).failing
    except msgspec.DecodeError:
        return "its answer cannot be read"
    return "; ".join(f"{failure.name}: {failure.reason}" for failure in failing)
