"""`speechbus watch`: the bus as it happens."""

import asyncio
import sys
from collections import OrderedDict
from typing import Final

import click
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from speechbus_cli.bus_access import connect_reader, explain_nats_error
from speechbus_cli.errors import (
    CannotConnectError,
    ExitCode,
    SettingsMistakeError,
    UnauthorizedError,
)
from speechbus_cli.running import run_until_interrupted
from speechbus_cli.screen import Screen, write_json_line
from speechbus_cli.settings import NATS_URL, read_nats_login
from speechbus_cli.transcript import Transcript, printable
from speechbus_contracts import ROOT, ContractError, StreamEvent, decode_event, parse_token
from speechbus_runtime.bus_login import BusLogin

__all__ = ["watch"]

STREAMS_MAX: Final = 1_000
"""Streams whose state is kept; the one that was silent longest gives way, and comes back with its
next event."""
PENDING_MESSAGES_MAX: Final = 10_000
"""Messages kept for a slow terminal: some seconds of a thousand streams; more are dropped, and
said so."""
PENDING_BYTES_MAX: Final = 16 << 20
RECONNECT_WAIT_S: Final = 0.5


class _Watcher:
    """Shows what comes from NATS."""

    def __init__(self, screen: Screen, *, is_json: bool) -> None:
        self._screen = screen
        self._is_json = is_json
        self._transcripts: OrderedDict[str, Transcript] = OrderedDict()
        self._dropped = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(self, url: str, token: str, login: BusLogin) -> Client:
        """Connect and subscribe to one stream's events, or to all (`*`).

        Raises:
            CannotConnectError: no server answers.
            UnauthorizedError: the server wants another user.
        """
        self._ended = asyncio.get_running_loop().create_future()
        connection = await connect_reader(
            url, name="watch", login=login, on_error=self._note_error, on_closed=self._close
        )
        try:
            for tree in ("transcript", "live"):
                await connection.subscribe(  # pyright: ignore[reportUnknownMemberType]
                    f"{ROOT}.{tree}.*.{token}.>",
                    cb=self._take,
                    pending_msgs_limit=PENDING_MESSAGES_MAX,
                    pending_bytes_limit=PENDING_BYTES_MAX,
                )
            await connection.flush()
        except (nats.errors.Error, OSError) as error:
            await connection.close()
            raise explain_nats_error(error, url) from None
        return connection

    async def ended(self) -> None:
        """Wait until the connection is lost.

        Raises:
            OSError: whoever read our output is gone.
        """
        await self._ended

    async def _close(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def _note_error(self, error: Exception) -> None:
        if "permissions violation" in str(error).lower() and not self._ended.done():
            self._ended.set_exception(
                UnauthorizedError(
                    "NATS does not let this user watch: use one that may (`operator` in"
                    " deploy/nats/users.conf), by SPEECHBUS_NATS_USER and SPEECHBUS_NATS_PASSWORD."
                )
            )
        if isinstance(error, nats.errors.SlowConsumerError):
            self._dropped += 1
            if self._dropped == 1:
                click.echo("speechbus: output is too slow, events are being left out", err=True)

    async def _take(self, message: Msg) -> None:
        try:
            self._show(message.data)
        except OSError as error:  # nats-py would only report it
            if not self._ended.done():
                self._ended.set_exception(error)

    def _show(self, payload: bytes) -> None:
        if self._is_json:
            write_json_line(sys.stdout.buffer, payload)
            return
        try:
            event = decode_event(payload)
        except ContractError:
            return  # a newer service's event
        if not isinstance(event, StreamEvent):
            return
        transcript = self._transcript(event.stream_id)
        line = transcript.apply(event)
        if transcript.is_closed:
            del self._transcripts[event.stream_id]
        self._screen.replace(
            [
                f"{stream_id}  … {printable(partial.text)}"
                for stream_id, shown in reversed(self._transcripts.items())
                for partial in shown.partials
            ]
        )
        if line is not None:
            self._screen.print_line(f"{event.stream_id}  {line.text}", kind=line.kind)

    def _transcript(self, stream_id: str) -> Transcript:
        transcript = self._transcripts.setdefault(stream_id, Transcript())
        self._transcripts.move_to_end(stream_id)
        if len(self._transcripts) > STREAMS_MAX:
            self._transcripts.popitem(last=False)
        return transcript


@click.command(
    short_help="Show what is said on all streams, from now on.",
    epilog="""\b
Examples:
  speechbus watch
  speechbus watch --json | jq -r 'select(.type == "segment.final") | .text'
\b
Environment:
  SPEECHBUS_NATS_URL   like --nats-url
  SPEECHBUS_NATS_USER, SPEECHBUS_NATS_PASSWORD, SPEECHBUS_NATS_CA …   user and TLS
\b
Exit codes: 2 wrong arguments, 3 cannot connect (a connection
lost later is made again), 4 user not accepted, 130 interrupted (by Ctrl-C, its usual end).
""",
)
@click.argument("stream", required=False)
@click.option("--json", "is_json", is_flag=True, help="Print each event as one line of JSON.")
@click.option(
    "--nats-url",
    envvar=NATS_URL,
    default="nats://127.0.0.1:4222",
    show_default=True,
    metavar="URL",
    help="NATS server, or several separated by commas.",
)
def watch(stream: str | None, *, is_json: bool, nats_url: str) -> int:
    """Show what is said on all streams, or on STREAM (its id), from now on.

    A terminal shows what is being understood below the lines that stay; a pipe gets those lines
    only, or every event with --json.
    """
    try:
        token = "*" if stream is None else parse_token(stream)
    except ContractError:
        raise SettingsMistakeError(
            "STREAM is a stream's id: letters, digits, dash, underscore; `speechbus watch` alone"
            " shows the ids."
        ) from None
    login = read_nats_login()
    run_until_interrupted(lambda: _watch(token, nats_url, login, is_json=is_json))
    return ExitCode.DONE


async def _watch(token: str, url: str, login: BusLogin, *, is_json: bool) -> None:
    with Screen(sys.stdout) as screen:
        watcher = _Watcher(screen, is_json=is_json)
        connection = await watcher.connect(url, token, login)
        if screen.is_terminal and not is_json:
            screen.print_line("watching; end with Ctrl-C", kind="note")
        while True:
            try:
                await watcher.ended()
            finally:
                await connection.close()
            click.echo("speechbus: connection to NATS lost, trying again", err=True)
            connection = await _reconnect(watcher, url, token, login)


async def _reconnect(watcher: _Watcher, url: str, token: str, login: BusLogin) -> Client:
    while True:
        try:
            return await watcher.connect(url, token, login)
        except CannotConnectError:
            await asyncio.sleep(RECONNECT_WAIT_S)
