"""`speechbus doctor`: is this set-up well, and if not, what to do?"""

import importlib
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from speechbus_cli.bootstrap import BootstrapSettings, ensure_objects, read_bootstrap_settings
from speechbus_cli.bus_access import connect_bus_once, connect_reader, hide_password
from speechbus_cli.client import build_door_urls
from speechbus_cli.errors import CommandError, ExitCode
from speechbus_cli.heartbeats import hear_workers
from speechbus_cli.http_probe import probe_http
from speechbus_cli.running import run_until_interrupted
from speechbus_cli.settings import (
    INGEST_URL,
    NATS_URL,
    SERVICE,
    read_environment,
    read_nats_login,
)
from speechbus_correlator.settings import SETTINGS_PREFIX as CORRELATOR_PREFIX
from speechbus_correlator.settings import Settings as CorrelatorSettings
from speechbus_runtime.bus_login import BusLogin
from speechbus_runtime.health import Failure
from speechbus_runtime.jetstream import ObjectReport
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_transcriber.providers.registry import CLOUD_PROVIDERS
from speechbus_transcriber.settings import SETTINGS_PREFIX, Settings
from speechbus_translator.settings import SETTINGS_PREFIX as TRANSLATOR_PREFIX
from speechbus_translator.settings import Settings as TranslatorSettings

__all__ = ["Check", "doctor"]

PYTHON_MIN: Final = (3, 11)
SPEECH_CACHE: Final = Path(".cache/speech")
"""Where `make speech` puts the recordings, below the checkout."""
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""
    """What to do; empty when all is well."""


class _Places(msgspec.Struct, frozen=True, kw_only=True):
    nats_url: str
    nats_login: BusLogin
    ingest_url: str


class _Readiness(msgspec.Struct, frozen=True):
    failing: tuple[Failure, ...] = ()


def _check_python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < PYTHON_MIN:
        remedy = "Install Python 3.11 or newer and run `make setup PYTHON=python3.11`."
        return Check(name="Python", state="fail", found=version, remedy=remedy)
    return Check(name="Python", state="ok", found=version)


def _check_packages() -> Check:
    missing: list[str] = []
    for service in ("ingest", "transcriber", "correlator", "translator"):
        try:
            importlib.import_module(f"speechbus_{service}.service")
        except ImportError as error:
            missing.append(error.name or service)
    if missing:
        return Check(
            name="services",
            state="fail",
            found=f"cannot import {', '.join(sorted(set(missing)))}",
            remedy="Install again: `make setup` in a checkout.",
        )
    return Check(name="services", state="ok", found="ingest, transcriber, correlator, translator")


def _check_accounts() -> Check:
    """Only what a transcriber started here would use: those elsewhere have their own."""
    try:
        settings = read_settings(Settings, prefix=SETTINGS_PREFIX)
    except SettingsError as error:
        found = f"{len(error.mistakes)} wrong variable(s)"
        return Check(name="providers", state="fail", found=found, remedy=str(error))
    accounts = settings.accounts.names
    missing = [name for name in CLOUD_PROVIDERS if name not in accounts]
    found = f"route from here: {', '.join(settings.route)}"
    if missing:
        found += f" (no account in this environment: {', '.join(missing)})"
    return Check(name="providers", state="ok", found=found)


def _check_translations() -> Check:
    """Two services' settings that belong together, as far as they are in this environment."""
    try:
        correlator = read_settings(CorrelatorSettings, prefix=CORRELATOR_PREFIX)
        translator = read_settings(TranslatorSettings, prefix=TRANSLATOR_PREFIX)
    except SettingsError as error:
        found = f"{len(error.mistakes)} wrong variable(s)"
        return Check(name="translations", state="fail", found=found, remedy=str(error))
    deadline_s, step_in_s = correlator.deadline_s, translator.step_in_s
    found = f"promised ones are made up for after {step_in_s:g} s, captions wait {deadline_s:g} s"
    if step_in_s >= deadline_s:
        remedy = (
            f"Set {TRANSLATOR_PREFIX}STEP_IN_S to less than {CORRELATOR_PREFIX}DEADLINE_S: captions"
            " do not wait for translators now."
        )
        return Check(name="translations", state="warn", found=found, remedy=remedy)
    return Check(name="translations", state="ok", found=found)


async def _check_nats(places: _Places, settings: BootstrapSettings) -> Check:
    where = hide_password(places.nats_url)
    try:
        connection = await connect_bus_once(places.nats_url, name="doctor", login=places.nats_login)
    except CommandError as error:
        return Check(name="NATS", state="fail", found=where, remedy=str(error))
    server = connection.connected_server_version
    n_servers = connection.n_servers
    await connection.shut_down()
    found = f"{where}, version {server.major}.{server.minor}.{server.patch}, servers: {n_servers}"
    replicas = max(settings.replicas, settings.audio_replicas)
    if replicas > n_servers:
        remedy = (
            f"{replicas} replicas need as many servers: start more as one cluster, or lower"
            " SPEECHBUS_BOOTSTRAP_REPLICAS and SPEECHBUS_BOOTSTRAP_AUDIO_REPLICAS."
        )
        return Check(name="NATS", state="warn", found=found, remedy=remedy)
    return Check(name="NATS", state="ok", found=found)


async def _check_objects(places: _Places, settings: BootstrapSettings) -> list[Check]:
    try:
        reports = await ensure_objects(
            places.nats_url, settings, login=places.nats_login, create=False
        )
    except CommandError as error:
        return [Check(name="JetStream", state="fail", found="no answer", remedy=str(error))]
    checks = [Check(name="JetStream", state="ok", found="answers")]
    return [*checks, *(_check_object(report) for report in reports)]


def _check_object(report: ObjectReport) -> Check:
    name = f"  {report.name}"
    match report.state:
        case "missing":
            remedy = "Create it: `speechbus bootstrap`."
            return Check(name=name, state="fail", found="missing", remedy=remedy)
        case "drifted":
            remedy = (
                "Set SPEECHBUS_BOOTSTRAP_* as it was made, or `nats stream edit` it; too few"
                " replicas are raised by `speechbus bootstrap`."
            )
            return Check(name=name, state="warn", found="; ".join(report.drift), remedy=remedy)
        case "unchanged" | "created" | "raised":
            return Check(name=name, state="ok", found="present")


async def _check_workers(places: _Places) -> Check:
    denied: list[str] = []

    async def note_denial(error: Exception) -> None:
        if "permissions violation" in str(error).lower():
            denied.append(str(error))

    try:
        connection = await connect_reader(
            places.nats_url, name="doctor", login=places.nats_login, on_error=note_denial
        )
    except CommandError:
        return Check(
            name="transcribers", state="fail", found="not looked for", remedy="First mend NATS."
        )
    try:
        heard = await hear_workers(connection)
    finally:
        await connection.close()
    if denied:
        return Check(
            name="transcribers",
            state="fail",
            found="NATS does not let this user hear heartbeats",
            remedy="Use a user that may: `operator` in deploy/nats/users.conf.",
        )
    if not heard:
        return Check(
            name="transcribers",
            state="fail",
            found="no heartbeat within 1 s",
            remedy="Start one: `speechbus transcriber`, or all at once: `speechbus dev`.",
        )
    sessions = sum(beat.sessions for beat in heard.values())
    capacity = sum(beat.capacity for beat in heard.values() if not beat.draining)
    found = f"{len(heard)} alive, {sessions} of {capacity} streams"
    if sessions >= capacity:
        return Check(
            name="transcribers", state="warn", found=found, remedy="All are full: start another."
        )
    return Check(name="transcribers", state="ok", found=found)


async def _check_ingest(places: _Places) -> Check:
    door = build_door_urls(places.ingest_url)[0]
    address = door.replace("ws", "http", 1).removesuffix("/v1/streams")
    answer = await probe_http(f"{address}/readyz")
    if answer is None:
        return Check(
            name="ingest",
            state="fail",
            found=f"{address} does not answer",
            remedy="Start it: `speechbus ingest` or `speechbus dev`; or name another by --url.",
        )
    if answer.status != 200:
        return Check(
            name="ingest",
            state="fail",
            found=f"{address}/readyz answers {answer.status}{_read_reasons(answer.body)}",
            remedy=f"See why: `curl {address}/readyz`, and look at its log.",
        )
    return Check(name="ingest", state="ok", found=f"{address} is ready")


def _read_reasons(body: bytes) -> str:
    try:
        report = msgspec.json.decode(body, type=_Readiness)
    except msgspec.DecodeError:
        return ""
    return "".join(f"; {failure.name}: {failure.reason}" for failure in report.failing)


def _check_speech() -> Check:
    if any(SPEECH_CACHE.glob("**/*.wav")):
        return Check(name="speech recordings", state="ok", found=str(SPEECH_CACHE))
    return Check(
        name="speech recordings",
        state="warn",
        found=f"none in {SPEECH_CACHE}",
        remedy="Only the demo and some tests need them: `make speech` fetches them.",
    )


def _check_browser() -> Check:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    # Only the browser tests use one, and they are skipped without it.
    return Check(name="browser", state="ok", found=found or "none (only browser tests need one)")


async def _check_all(places: _Places, settings: BootstrapSettings) -> list[Check]:
    # An image of ours has what its one service needs; of a checkout it has nothing.
    is_image = SERVICE in read_environment()
    checks = [_check_python()]
    if not is_image:
        checks += [_check_packages(), _check_accounts(), _check_translations()]
    checks.append(await _check_nats(places, settings))
    if checks[-1].state != "fail":
        checks += await _check_objects(places, settings)
    later: Sequence[Callable[[_Places], Awaitable[Check]]] = (_check_workers, _check_ingest)
    checks += [await check(places) for check in later]
    return checks if is_image else [*checks, _check_speech(), _check_browser()]


@click.command(
    epilog="""\b
Examples:
  speechbus doctor
  speechbus doctor --nats-url nats://nats.example:4222 --url wss://speech.example
\b
Environment:
  SPEECHBUS_NATS_URL      like --nats-url
  SPEECHBUS_NATS_USER, SPEECHBUS_NATS_PASSWORD, SPEECHBUS_NATS_CA …   user and TLS
  SPEECHBUS_URL           like --url
  SPEECHBUS_BOOTSTRAP_*   what the JetStream objects should be: `speechbus bootstrap --help`
\b
Exit codes: 0 all is well (warnings allowed), 1 something is not, 2 wrong arguments,
130 interrupted.
"""
)
@click.option(
    "--nats-url",
    envvar=NATS_URL,
    default="nats://127.0.0.1:4222",
    show_default=True,
    metavar="URL",
    help="NATS server, or several separated by commas.",
)
@click.option(
    "--url",
    envvar=INGEST_URL,
    default="ws://127.0.0.1:8080",
    show_default=True,
    help="Server (ingest).",
)
def doctor(*, nats_url: str, url: str) -> int:
    """Check a set-up and say what to do; changes nothing."""
    settings = read_bootstrap_settings()
    build_door_urls(url)  # a mistake in it should not look like a sick server
    places = _Places(nats_url=nats_url, nats_login=read_nats_login(), ingest_url=url)
    checks = run_until_interrupted(lambda: _check_all(places, settings))
    _print_table(checks)
    return ExitCode.FAILED if any(check.state == "fail" for check in checks) else ExitCode.DONE


def _print_table(checks: Sequence[Check]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("check", "state", "found", "what to do"):
        table.add_column(title, overflow="fold")
    for check in checks:
        state = Text(check.state, style=_STYLES[check.state])
        table.add_row(Text(check.name), state, Text(check.found), Text(check.remedy))
    is_terminal = sys.stdout.isatty()
    Console(
        file=sys.stdout,
        force_terminal=is_terminal,
        # A pipe has no width, and 80 would fold the remedies.
        width=None if is_terminal else 200,
    ).print(table)
