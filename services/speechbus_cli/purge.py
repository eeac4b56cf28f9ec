"""`speechbus purge`: what is stored of a stream, or of a tenant, is removed."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Final

import click

from speechbus_cli.bus_access import connect_bus_once, hide_password
from speechbus_cli.errors import CannotConnectError, ExitCode, FailedError, SettingsMistakeError
from speechbus_cli.settings import NATS_URL, read_nats_login
from speechbus_contracts import (
    CAPTION_STORE,
    ROOT,
    SESSION_STORE,
    TRANSCRIPT_STORE,
    ContractError,
    parse_token,
)
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import (
    JetStreamError,
    JetStreamUnavailableError,
    list_subjects,
    request_api,
)

__all__ = ["purge"]

ANY: Final = "*"
NOTHING: Final = f"{ROOT}.nothing"
"""A subject that no message has: removing it tries a right, and removes nothing."""
NAMED_MAX: Final = 5
"""Live streams that a refusal names."""


class Extent:
    """What shall be removed.

    Args:
        stream: an id, or `*`.
        tenant: a name, or `*`; not both may be `*`.
    """

    def __init__(self, stream: str, tenant: str) -> None:
        assert (stream, tenant) != (ANY, ANY)
        self._stream = stream
        self._tenant = tenant

    def __str__(self) -> str:
        """For the person who is asked."""
        if self._stream == ANY:
            return f"all streams of tenant {self._tenant}"
        return f"stream {self._stream}"

    def write_subject(self, kind: str) -> str:
        """The subject, in `TRANSCRIPT`, of one kind of event."""
        return f"{WRITE_ROOT}.{self._tenant}.{self._stream}.{kind}"

    @property
    def audio_subject(self) -> str:
        """In the AUDIO stores."""
        return f"{ROOT}.audio.*.{self._tenant}.{self._stream}"

    def list_filters(self) -> Mapping[str, str]:
        """Return the subject to remove from each store beside AUDIO.

        Captions come last, since they are made of the transcript.
        """
        filters = {TRANSCRIPT_STORE: self.write_subject(">")}
        if self._stream == ANY:  # sessions are a tenant's; nothing ties one to a stream
            filters[SESSION_STORE] = f"{ROOT}.session.{self._tenant}.*"
        filters[CAPTION_STORE] = f"{ROOT}.caption.{self._tenant}.{self._stream}"
        return filters


@click.command(
    short_help="Remove what is stored of a stream or of a tenant.",
    epilog="""\b
Examples:
  speechbus purge 0198c0de-0000-7000-8000-000000000002
  speechbus purge --tenant acme --yes
\b
Environment:
  SPEECHBUS_NATS_URL   like --nats-url
\b
Exit codes: 0 removed (also when there was nothing), 1 refused (a stream is live, or the person said
no), 2 wrong arguments, 3 cannot connect, 4 user not accepted.
""",
)
@click.argument("stream", required=False)
@click.option("--tenant", metavar="NAME", help="All streams and sessions of this tenant.")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@click.option(
    "--force",
    "is_forced",
    is_flag=True,
    help="Live streams, too: they lose their place, and what is said from now on may be missing.",
)
@click.option(
    "--nats-url",
    envvar=NATS_URL,
    default="nats://127.0.0.1:4222",
    show_default=True,
    metavar="URL",
    help="NATS server, or several separated by commas.",
)
def purge(
    stream: str | None, *, tenant: str | None, is_sure: bool, is_forced: bool, nats_url: str
) -> int:
    """Remove audio, transcript and captions of STREAM (its id), or of a whole tenant.

    What subscribers have received is with them. Backups of the server's files keep what they have.
    """
    extent = _parse_extent(stream, tenant)
    if not is_sure:
        if not sys.stdin.isatty():
            raise SettingsMistakeError("Nobody can be asked here: add --yes.")
        if not click.confirm(f"Remove {extent} for good?"):
            raise FailedError("Nothing was removed.")
    removed = asyncio.run(_purge(extent, nats_url, is_forced=is_forced))
    for store, n_messages in removed.items():
        click.echo(f"{store:<11} {n_messages} messages removed")
    return ExitCode.DONE


def _parse_extent(stream: str | None, tenant: str | None) -> Extent:
    if stream is None and tenant is None:
        raise SettingsMistakeError("Name a STREAM, or a tenant by --tenant.")
    try:
        return Extent(
            ANY if stream is None else parse_token(stream),
            ANY if tenant is None else parse_token(tenant),
        )
    except ContractError:
        raise SettingsMistakeError(
            "A stream's id and a tenant's name are 1 to 64 letters, digits, dashes, underscores."
        ) from None


async def _purge(extent: Extent, url: str, *, is_forced: bool) -> Mapping[str, int]:
    bus = await connect_bus_once(url, name="purge", login=read_nats_login())
    removed: dict[str, int] = {}
    try:
        if not is_forced:
            await _refuse_live(bus, extent)
        filters = dict.fromkeys(await _find_audio_stores(bus), extent.audio_subject)
        filters |= extent.list_filters()
        for store in filters:  # all rights before anything is gone: half a purge misleads
            await _remove(bus, store, NOTHING)
        for store, sought in filters.items():
            removed[store] = await _remove(bus, store, sought)
    except JetStreamUnavailableError:
        raise CannotConnectError(
            f"NATS at {hide_password(url)} answers, its JetStream does not: check that this user"
            " may use $JS.API.STREAM.NAMES, .INFO.* and .PURGE.*, as 'bootstrap' may."
            f" {_tell(removed)}"
        ) from None
    except JetStreamError as error:
        raise FailedError(
            f"JetStream refused (code {error.err_code}): run `speechbus doctor`, then this again."
            f" {_tell(removed)}"
        ) from None
    finally:
        await bus.shut_down()
    return removed


async def _remove(bus: BusConnection, store: str, subject: str) -> int:
    answer = await request_api(bus, f"STREAM.PURGE.{store}", {"filter": subject})
    return int(answer["purged"])


def _tell(removed: Mapping[str, int]) -> str:
    if not removed:
        return "Nothing was removed."
    return f"Removed from {', '.join(removed)} only: run this again."


async def _refuse_live(bus: BusConnection, extent: Extent) -> None:
    opened, closed = [
        {subject.rpartition(".")[0] for subject in await list_subjects(bus, TRANSCRIPT_STORE, of)}
        for of in (extent.write_subject("opened"), extent.write_subject("closed"))
    ]
    live = sorted(subject.rpartition(".")[2] for subject in opened - closed)
    if live:
        named = ", ".join(live[:NAMED_MAX]) + (", …" if len(live) > NAMED_MAX else "")
        raise FailedError(f"Still live: {named}. End what is live first, or add --force.")


async def _find_audio_stores(bus: BusConnection) -> list[str]:
    # Stores of a shard count of the past, too.
    answer = await request_api(bus, "STREAM.NAMES", {"subject": f"{ROOT}.audio.>"})
    names: list[str] = answer.get("streams") or []
    return sorted(names)
