"""`speechbus simulate`: a provider's server with scripted faults."""

import asyncio
import time
from pathlib import Path
from typing import Final, get_args

import click

from speechbus_cli.dev_children import parse_listen
from speechbus_cli.errors import ExitCode, FailedError, SettingsMistakeError
from speechbus_cli.running import StopSignals, run_until_stopped
from speechbus_runtime.task_groups import plain_errors
from speechbus_simulator.kotoba_provider import KotobaProvider
from speechbus_simulator.palabra_provider import PalabraProvider
from speechbus_simulator.script import (
    SCRIPT_BYTES_MAX,
    Provider,
    Script,
    ScriptError,
    parse_script,
)
from speechbus_simulator.server import SimulatorServer
from speechbus_wire.kotoba import REALTIME_PATH
from speechbus_wire.palabra import STREAM_PATH

__all__ = ["simulate"]

PROVIDERS: Final[tuple[str, ...]] = get_args(Provider)


@click.command(
    epilog="""\b
Examples:
  speechbus simulate kotoba
  speechbus simulate palabra --listen 127.0.0.1:9000 --script faults.toml
\b
Clients find it by the variables that it prints, with any key. docs/simulators.md explains scripts,
examples/simulators has some.
\b
Environment: none of its own.
\b
Exit codes: 1 somebody else listens there, 2 wrong arguments or script, 130 interrupted twice.
"""
)
@click.argument("provider", type=click.Choice(PROVIDERS))
@click.option(
    "--listen",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; port 0: any free one.",
)
@click.option(
    "--script",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="What is said and what goes wrong, in TOML; default: echo mode without a fault.",
)
def simulate(*, provider: Provider, listen: str, script: Path | None) -> int:
    """Simulate a provider's server, with scripted faults.

    It speaks PROVIDER's protocol, sessions and client secrets included, to test against without a
    key. In echo mode it answers with the frame numbers that it finds in the audio. A script names
    texts instead, latencies, limits, and faults: connections reset, half open, mute, closed or
    refused, errors in every shape, finals twice, otherwise or never, translations late, early,
    swapped or missing, and more. Ctrl-C or SIGTERM ends it.
    """
    host, port = parse_listen(listen)
    planned = _read_script(script, provider)
    run_until_stopped(lambda signals: _run(provider, planned, host, port, signals))
    return ExitCode.DONE


def _read_script(path: Path | None, provider: Provider) -> Script:
    if path is None:
        return Script()
    try:
        with path.open("rb") as file:
            return parse_script(file.read(SCRIPT_BYTES_MAX + 1), provider=provider)
    except OSError as error:
        raise SettingsMistakeError(f"{path} cannot be read ({error.strerror}).") from None
    except ScriptError as error:
        raise SettingsMistakeError(f"{path}: {error}") from None


async def _run(name: Provider, script: Script, host: str, port: int, signals: StopSignals) -> None:
    def now_s() -> float:
        return time.time_ns() / 1e9

    def announce(chosen: int) -> None:
        place = f"[{host}]:{chosen}" if ":" in host else f"{host}:{chosen}"
        if name == "palabra":
            click.echo(f"PALABRA_STT_URL=ws://{place}{STREAM_PATH}")
            click.echo(f"PALABRA_API_URL=http://{place}")
        else:
            click.echo(f"KOTOBA_ASR_URL=ws://{place}{REALTIME_PATH}")
        click.echo("ready: sessions are accepted; end with Ctrl-C")

    kind = PalabraProvider if name == "palabra" else KotobaProvider
    server = SimulatorServer(script, kind(script, now_s=now_s))
    task = asyncio.current_task()
    assert task is not None
    signals.cancel_on_second(task.cancel)
    try:
        with plain_errors(BrokenPipeError):
            await server.serve(host, port, announce=announce, until=signals.asked)
    except BrokenPipeError:
        raise  # of `announce`
    except OSError as error:
        raise FailedError(
            f"cannot listen on {host}:{port} ({error.strerror}): free it, or name another port."
        ) from None
