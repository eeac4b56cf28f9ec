"""`speechbus dev`: everything on one machine."""

import asyncio
import fcntl
import shutil
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import click
import msgspec

from speechbus_cli.bootstrap import BootstrapSettings, ensure_objects, read_bootstrap_settings
from speechbus_cli.bus_access import connect_reader, hide_password
from speechbus_cli.demo import DemoOptions, play_demo
from speechbus_cli.dev_children import (
    DevPlace,
    build_service_specs,
    check_services,
    choose_place,
)
from speechbus_cli.embedded_nats import PREFERRED_PORT, EmbeddedNats
from speechbus_cli.errors import CommandError, ExitCode, FailedError, SettingsMistakeError
from speechbus_cli.heartbeats import hear_workers
from speechbus_cli.http_probe import is_well
from speechbus_cli.running import StopSignals, run_until_stopped
from speechbus_cli.screen import Screen
from speechbus_cli.settings import (
    API_KEYS,
    NATS_URL,
    default_providers,
    read_environment,
    read_first_key,
    read_nats_login,
)
from speechbus_cli.speech import DEFAULT_CACHE
from speechbus_cli.supervisor import ChildSpec, Supervisor
from speechbus_cli.transcribe import split_names
from speechbus_runtime.task_groups import plain_errors

__all__ = ["dev"]

READY_TIMEOUT_S: Final = 60.0
"""A cold start takes some seconds, most of them for loading the local engine's model."""
POLL_INTERVAL_S: Final = 0.1
STOP_ORDER_NATS: Final = 3
WORKERS_MAX: Final = 64
DEMO_LANGUAGES: Final = "es"
"""What the smallest set of Apertium packages has for English."""


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    place: DevPlace
    folder: Path
    """For stores and logs."""
    nats_url: str | None
    """None: an own server."""
    workers: int
    providers: tuple[str, ...]
    environment: Mapping[str, str]
    demo: DemoOptions | None
    translates: bool


@click.command(
    short_help="Run everything on this machine; --demo plays speech.",
    epilog=f"""\b
Examples:
  speechbus dev
  speechbus dev --demo
  speechbus dev --demo --translate es
  speechbus dev --listen 127.0.0.1:0 --workers 1 --data .cache/dev
\b
It prints its addresses, one per line (page, nats, key), then a line that starts with `ready`.
\b
Environment:
  {API_KEYS}  tenant:key,...; default dev:dev
  SPEECHBUS_NATS_URL         like --nats-url
  SPEECHBUS_BOOTSTRAP_*, SPEECHBUS_INGEST_*, SPEECHBUS_TRANSCRIBER_*, SPEECHBUS_CORRELATOR_*,
  SPEECHBUS_TRANSLATOR_*     go to the services, beside what this command sets
\b
Exit codes: 0 ended by Ctrl-C or SIGTERM, or the demo is over; 1 a service could not be kept
running; 2 wrong arguments; 3 cannot connect to --nats-url; 4 user not accepted there;
130 interrupted twice (everything was killed at once).
""",
)
@click.option(
    "--listen",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    help="Page and doors; port 0: any free one.",
)
@click.option(
    "--nats-url", envvar=NATS_URL, default=None, metavar="URL", help="NATS; default: an own one."
)
@click.option(
    "--workers",
    type=click.IntRange(0, WORKERS_MAX),
    default=2,
    show_default=True,
    help="Transcribers to start.",
)
@click.option(
    "--providers",
    default=None,
    metavar="NAMES",
    help="Providers of the transcribers, in the order to try; default: those with an account in the"
    " environment (PALABRA_API_KEY, …), then local,echo.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    metavar="DIR",
    help="Keep stores and logs there; default: a temporary folder, removed at a clean end.",
)
@click.option(
    "--translate",
    is_flag=False,
    flag_value=DEMO_LANGUAGES,
    default=None,
    metavar="[TAGS]",
    help="Run a translator for streams that ask for translations; with --demo ask for these."
    f"  [default of TAGS: {DEMO_LANGUAGES}]",
)
@click.option("--demo", is_flag=True, help="Play recorded speech and show what is understood.")
@click.option("--once", is_flag=True, help="With --demo: end after the passage.")
@click.option(
    "--speech",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_CACHE,
    show_default=True,
    metavar="DIR",
    help="With --demo: folder of the recordings; fetched when missing.",
)
def dev(
    *,
    listen: str,
    nats_url: str | None,
    workers: int,
    providers: str | None,
    data: Path | None,
    translate: str | None,
    demo: bool,
    once: bool,
    speech: Path,
) -> int:
    """Run everything on this machine, for trying it out and for development.

    Starts a NATS server, the correlator, transcribers and ingest, each as a process of its own,
    and restarts what dies. Ctrl-C or SIGTERM ends all of them in order.

    --demo streams a passage of a public domain audio book through it and shows the transcript: on
    a terminal again and again until Ctrl-C, otherwise once, with the page up for 60 s more.
    """
    if once and not demo:
        raise click.UsageError("--once belongs to --demo.")
    environment = read_environment()
    # The demo says what the built-in engine is worth, and costs nobody money.
    chosen = default_providers({} if demo else environment)
    settings = read_bootstrap_settings()
    place = choose_place(listen, read_first_key(environment))
    screen = Screen(sys.stdout)
    with _data_folder(data) as folder:
        options = _Options(
            place=place,
            folder=folder,
            nats_url=nats_url,
            workers=workers,
            providers=chosen if providers is None else split_names(providers),
            environment=environment,
            demo=DemoOptions(
                cache=speech, is_once=once, target_languages=split_names(translate or "")
            )
            if demo
            else None,
            translates=translate is not None,
        )
        check_services(_build_specs(options, settings, nats_url or settings.nats_url))
        run_until_stopped(lambda signals: _run(options, settings, screen, signals))
    return ExitCode.DONE


@contextmanager
def _data_folder(wanted: Path | None) -> Generator[Path]:
    """Give a folder to one `speechbus dev` at a time; keep a temporary one if something failed."""
    if wanted is None:
        folder = Path(tempfile.mkdtemp(prefix="speechbus-dev-"))
        try:
            yield folder
        except BaseException:
            with suppress(OSError):  # it holds something: logs that say what failed
                folder.rmdir()
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        lock = (wanted / "lock").open("w")
    except OSError as error:
        raise SettingsMistakeError(
            f"{wanted} cannot hold data ({error.strerror}): give another --data."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedError(
                f"Another `speechbus dev` uses {wanted}: end it, or give another --data."
            ) from None
        yield wanted.absolute()


async def _run(
    options: _Options, settings: BootstrapSettings, screen: Screen, signals: StopSignals
) -> None:
    with plain_errors(CommandError):
        async with asyncio.TaskGroup() as group:
            supervisor = Supervisor(group, say=screen.print_line)
            body = group.create_task(_serve(options, settings, screen, supervisor), name="dev")
            stopper = group.create_task(_cancel_when(signals.asked, body), name="stop")
            try:
                await asyncio.wait([body])
            finally:
                stopper.cancel()
                body.cancel()
                await supervisor.stop()


async def _cancel_when(asked: asyncio.Event, body: "asyncio.Task[None]") -> None:
    await asked.wait()
    body.cancel()


async def _serve(
    options: _Options, settings: BootstrapSettings, screen: Screen, supervisor: Supervisor
) -> None:
    place = options.place
    nats_url = options.nats_url or await _start_nats(options, screen, supervisor)
    await ensure_objects(nats_url, settings, login=settings.nats_login)
    for spec in _build_specs(options, settings, nats_url):
        supervisor.start(spec)
    screen.print_line(f"page {place.page_url}")
    screen.print_line(f"nats {hide_password(nats_url)}")
    screen.print_line(f"key {place.key_hint}")
    screen.print_line(f"logs {options.folder}")
    await _wait_until_ready(options, nats_url)
    screen.print_line("ready: streams are accepted; end with Ctrl-C")
    if options.demo is None:
        await asyncio.Event().wait()  # until the task is cancelled
    else:
        await play_demo(options.demo, url=place.page_url, key=place.key, screen=screen)


def _build_specs(options: _Options, settings: BootstrapSettings, nats_url: str) -> list[ChildSpec]:
    return build_service_specs(
        options.place,
        settings,
        folder=options.folder,
        nats_url=nats_url,
        workers=options.workers,
        providers=options.providers,
        environment=options.environment,
        translates=options.translates,
    )


async def _start_nats(options: _Options, screen: Screen, supervisor: Supervisor) -> str:
    nats = EmbeddedNats(options.folder)
    if nats.port != PREFERRED_PORT:
        screen.print_line(f"port {PREFERRED_PORT} is taken; NATS listens on {nats.port}")
    supervisor.start(nats.build_spec(options.environment, stop_order=STOP_ORDER_NATS))
    await nats.wait_until_ready()
    return nats.url


async def _wait_until_ready(options: _Options, nats_url: str) -> None:
    """Return once ingest says that it is ready and a transcriber's heart beats."""
    url = f"{options.place.page_url}/readyz"
    waiting_for = "ingest"
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not await is_well(url):  # noqa: ASYNC110  (another process has no event of ours)
                await asyncio.sleep(POLL_INTERVAL_S)
            if options.workers:
                waiting_for = "a transcriber"
                connection = await connect_reader(nats_url, name="dev", login=read_nats_login())
                try:
                    await hear_workers(connection, listen_s=READY_TIMEOUT_S, at_least=1)
                finally:
                    await connection.close()
    except TimeoutError:
        raise FailedError(
            f"Not ready within {READY_TIMEOUT_S:.0f} s, still waiting for {waiting_for}: read its"
            f" log in {options.folder}."
        ) from None
