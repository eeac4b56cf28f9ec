"""`speechbus bootstrap`: the JetStream objects that Speechbus needs."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final

import click
import msgspec

from speechbus_cli.bus_access import connect_bus_once, hide_password
from speechbus_cli.errors import (
    CannotConnectError,
    ExitCode,
    FailedError,
    SettingsMistakeError,
    UnauthorizedError,
)
from speechbus_cli.running import run_until_interrupted
from speechbus_cli.settings import NATS_URL
from speechbus_cli.variables import VariablesCommand
from speechbus_contracts import (
    AUDIO_BYTES_MAX,
    CORRELATOR_CONSUMER,
    JOBS_CONSUMER,
    JOBS_STORE,
    TRANSCRIPT_STORE,
    TRANSLATOR_CONSUMER,
    ContractError,
    build_audio_store,
    build_caption_store,
    build_correlator_consumer,
    build_jobs_consumer,
    build_jobs_store,
    build_provider_store,
    build_reader_consumers,
    build_session_store,
    build_transcript_store,
    build_translator_consumer,
    parse_token,
)
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.bus_login import NO_LOGIN, BusLogin
from speechbus_runtime.bus_settings import BusSettings
from speechbus_runtime.jetstream import (
    ConsumerSpec,
    JetStreamError,
    JetStreamUnavailableError,
    ObjectReport,
    StreamSpec,
    ensure,
)
from speechbus_runtime.replication import raise_replicas
from speechbus_runtime.settings import SettingsError, read_settings

__all__ = [
    "BOOTSTRAP_PREFIX",
    "BootstrapSettings",
    "bootstrap",
    "build_specs",
    "ensure_objects",
    "read_bootstrap_settings",
]

BOOTSTRAP_PREFIX: Final = "SPEECHBUS_BOOTSTRAP_"
ELECTION_S: Final = 20.0
"""A cluster that has just started, or lost its leader, has one after 4 to 9 s, and its servers know
of each other soon after."""
AGAIN_S: Final = 0.5
_NO_ROOM: Final = frozenset({10023, 10028, 10047})
"""Insufficient resources; not enough memory, not enough storage."""
_NO_PEERS: Final = frozenset({10005, 10074})
"""No suitable peers for placement; replicas without a cluster."""
_NO_JETSTREAM: Final = frozenset({10039, 10076})
"""JetStream is off for this account, for this server."""


class BootstrapSettings(BusSettings, frozen=True, kw_only=True):
    """How the JetStream objects are made; the same for every run against one cluster."""

    shards: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    """Number of AUDIO stores; the same in all services."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    """Servers that hold each object beside audio: 1, or 3 in a cluster."""
    audio_replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    """Servers that hold the audio; with 1, a server that dies takes its last seconds along, which
    ingest publishes again."""
    retention_s: Annotated[int, msgspec.Meta(ge=3_600)] = 86_400
    """How long transcripts are kept, in seconds; longer than any stream."""
    audio_bytes_max: Annotated[int, msgspec.Meta(ge=1 << 20)] = AUDIO_BYTES_MAX
    """Memory that each AUDIO store reserves, in bytes; 2.9 MB carry one stream at 16 kHz."""
    readers: tuple[str, ...] = ()
    """Tenants that read the bus themselves: durable consumers `reader-TENANT` are made for each."""

    def __post_init__(self) -> None:
        """Check what spans characters and fields."""
        super().__post_init__()
        for tenant in self.readers:
            try:
                parse_token(tenant)
            except ContractError as error:
                raise ValueError(f"a tenant of READERS is no token: {error}") from None


def read_bootstrap_settings() -> BootstrapSettings:
    """Read `SPEECHBUS_BOOTSTRAP_*`.

    Raises:
        SettingsMistakeError: with all mistakes together.
    """
    try:
        return read_settings(BootstrapSettings, prefix=BOOTSTRAP_PREFIX)
    except SettingsError as error:
        raise SettingsMistakeError(str(error)) from None


def build_specs(
    settings: BootstrapSettings,
) -> tuple[Sequence[StreamSpec], Sequence[ConsumerSpec]]:
    """Return every JetStream stream and every durable consumer that should exist."""
    replicas, retention_s = settings.replicas, settings.retention_s
    stores = [
        *(
            build_audio_store(
                shard, replicas=settings.audio_replicas, bytes_max=settings.audio_bytes_max
            )
            for shard in range(settings.shards)
        ),
        build_jobs_store(replicas=replicas),
        build_transcript_store(replicas=replicas, retention_s=retention_s),
        build_caption_store(replicas=replicas, retention_s=retention_s),
        build_session_store(replicas=replicas),
        build_provider_store(replicas=replicas),
    ]
    consumers = [
        ConsumerSpec(jetstream_name=JOBS_STORE, name=JOBS_CONSUMER, config=build_jobs_consumer()),
        ConsumerSpec(
            jetstream_name=TRANSCRIPT_STORE,
            name=CORRELATOR_CONSUMER,
            config=build_correlator_consumer(),
        ),
        ConsumerSpec(
            jetstream_name=TRANSCRIPT_STORE,
            name=TRANSLATOR_CONSUMER,
            config=build_translator_consumer(),
        ),
        *(
            ConsumerSpec(jetstream_name=store, name=name, config=config)
            for tenant in settings.readers
            for store, name, config in build_reader_consumers(tenant)
        ),
    ]
    return [StreamSpec(name=name, config=config) for name, config in stores], consumers


async def ensure_objects(
    url: str, settings: BootstrapSettings, *, login: BusLogin = NO_LOGIN, create: bool = True
) -> list[ObjectReport]:
    """Create what is missing (or only look) and report each object.

    Raises:
        UnauthorizedError: NATS wants another user.
        CannotConnectError: NATS or its JetStream does not answer.
        FailedError: JetStream refuses; the text says what to change.
    """
    streams, consumers = build_specs(settings)
    bus = await connect_bus_once(url, name="bootstrap", login=login)
    denied: list[str] = []
    bus.on_denied(denied.append)
    try:
        if not create:
            return list(await ensure(bus, streams, consumers, create=False))
        return await _create(bus, streams, consumers, denied)
    except JetStreamUnavailableError:
        if denied:
            raise UnauthorizedError(
                f"NATS at {hide_password(url)} denies {denied[0]}: use a user that may"
                " (deploy/nats/users.conf; `bootstrap` may create, `operator` may look)."
            ) from None
        raise CannotConnectError(
            f"NATS at {hide_password(url)} answers, its JetStream does not: start nats-server with"
            " --jetstream."
        ) from None
    except JetStreamError as error:
        raise _explain_refusal(error, n_servers=bus.n_servers) from None
    finally:
        await bus.shut_down()


async def _create(
    bus: BusConnection,
    streams: Sequence[StreamSpec],
    consumers: Sequence[ConsumerSpec],
    denied: Sequence[str],
) -> list[ObjectReport]:
    """Create what is missing, and wait for a cluster's leader meanwhile."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + ELECTION_S
    while True:
        try:
            raised = await raise_replicas(bus, streams)
            return [
                msgspec.structs.replace(report, state="raised") if report.name in raised else report
                for report in await ensure(bus, streams, consumers, create=True)
            ]
        except JetStreamUnavailableError:
            if bus.n_servers == 1 or denied or loop.time() > deadline_s:
                raise
        except JetStreamError as error:
            if error.err_code not in _NO_PEERS or bus.n_servers == 1 or loop.time() > deadline_s:
                raise
        await asyncio.sleep(AGAIN_S)


def _explain_refusal(error: JetStreamError, *, n_servers: int) -> FailedError:
    if error.err_code in _NO_PEERS:
        return FailedError(
            f"JetStream finds too few servers for so many replicas ({n_servers} here): start more,"
            f" or lower {BOOTSTRAP_PREFIX}REPLICAS and {BOOTSTRAP_PREFIX}AUDIO_REPLICAS."
        )
    if error.err_code in _NO_JETSTREAM:
        return FailedError("JetStream is off: start nats-server with --jetstream.")
    if error.err_code in _NO_ROOM:
        return FailedError(
            "JetStream has no room for the stores: raise max_memory_store in the server's"
            f" configuration, or lower {BOOTSTRAP_PREFIX}AUDIO_BYTES_MAX."
        )
    return FailedError(f"JetStream refused (code {error.err_code}): look at the server's log.")


@click.command(
    cls=VariablesCommand,
    settings=BootstrapSettings,
    prefix=BOOTSTRAP_PREFIX,
    epilog="""\b
Examples:
  speechbus bootstrap
  SPEECHBUS_BOOTSTRAP_REPLICAS=3 speechbus bootstrap --nats-url nats://nats.example:4222
\b
Exit codes: 0 all objects are as they should be, 1 one differs or was refused, 2 wrong settings,
3 cannot connect, 4 user not accepted, 130 interrupted: run it again.
""",
)
@click.option(
    "--nats-url",
    envvar=[f"{BOOTSTRAP_PREFIX}NATS_URL", NATS_URL],
    default=None,
    metavar="URL",
    help="NATS server, or several separated by commas.  [default: nats://127.0.0.1:4222]",
)
def bootstrap(*, nats_url: str | None) -> int:
    """Create the JetStream objects that Speechbus needs.

    Run it as often as you like: what is there stays, and what differs from what it should be is
    reported and never overwritten. Only replicas are raised to what the settings say.
    """
    settings = read_bootstrap_settings()
    reports = run_until_interrupted(
        lambda: ensure_objects(nats_url or settings.nats_url, settings, login=settings.nats_login)
    )
    for report in reports:
        click.echo(f"{report.state:<9}  {report.name}")
        for line in report.drift:
            click.echo(f"           {line}")
    drifted = [report.name for report in reports if report.state == "drifted"]
    if drifted:
        raise FailedError(
            f"{', '.join(drifted)} differ from the settings: change the settings, or edit the"
            " object with `nats stream edit` and run this again."
        )
    return ExitCode.DONE
