"""The life of a service process: from start to an exit that always comes, with an honest code."""

import asyncio
import errno
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Final, TypeVar

import uvloop

from speechbus_runtime.bus_login import BusRefusedError
from speechbus_runtime.settings import SettingsError

__all__ = [
    "CANCEL_WITHIN_S",
    "EXIT_FAILED",
    "EXIT_SETTINGS",
    "ListenError",
    "LossError",
    "StopSignal",
    "StoppedError",
    "run_service",
    "unless_stopped",
]

logger = logging.getLogger(__name__)

EXIT_FAILED: Final = 1
"""An error ended the service, or it had to be cut short."""
EXIT_SETTINGS: Final = 2
"""The settings are wrong; a restart does not help."""
EXIT_INTERRUPTED: Final = 130
"""What a shell reports for Ctrl-C: 128 + SIGINT."""

CANCEL_WITHIN_S: Final = 2.0
"""Time for a cancelled service's farewells; each of ours is bounded by 1 s (bus, sockets)."""
BLOCKED_LOOP_MARGIN_S: Final = 1.0
"""How much later than the event loop's own timers the watchdog thread acts."""
CLOSE_WITHIN_S: Final = 2.0
"""Time for left-over tasks and executor threads after the service has returned."""

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Says once that the service shall stop, and why; never goes back."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason = ""

    @property
    def reason(self) -> str:
        """`SIGTERM`, `SIGINT` or what `set` was given; "" before."""
        return self._reason

    def is_set(self) -> bool:
        """Tell whether the service shall stop."""
        return self._event.is_set()

    def set(self, reason: str) -> None:
        """Ask the service to stop; the first reason stays. For the event loop's thread only."""
        if not self._event.is_set():
            self._reason = reason
            self._event.set()

    async def wait(self) -> None:
        """Return when the service shall stop."""
        await self._event.wait()


class ListenError(Exception):
    """A port cannot be listened on; the text says which one, why, and what to do."""

    def __init__(self, host: str, port: int, error: OSError, *, setting: str) -> None:
        """Explain what the system said.

        Args:
            host: address that was tried.
            port: port that was tried.
            error: the system's.
            setting: name of the setting that chose the port; the host's ends in HOST instead.
        """
        # Event loops put the address into the text once more; names that no DNS knows have
        # negative numbers and a text of their own.
        number = error.errno or 0
        named = (error.strerror or "unknown").partition(" (while")[0]
        reason = os.strerror(number) if number > 0 else named
        if number <= 0 or number == errno.EADDRNOTAVAIL:
            remedy = f"no address of this machine, set {setting.removesuffix('PORT')}HOST"
        else:
            remedy = f"free it, or set {setting}"
        super().__init__(f"cannot listen on {host}:{port} ({reason}): {remedy}")


class LossError(Exception):
    """The service stops as asked, and what it had accepted ends with it; the text says what."""


class StoppedError(Exception):
    """The service was asked to stop before it had started."""


async def unless_stopped(stop: StopSignal, work: Coroutine[None, None, T]) -> T:
    """Await a step of the start, which may wait for others as long as it takes.

    Raises:
        StoppedError: the stop came first; the work was cancelled.
    """
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(work)
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
    if working.cancelled():
        raise StoppedError
    return working.result()


def run_service(
    serve: Callable[[StopSignal], Awaitable[None]], *, service: str, stop_within_s: float
) -> int:
    """Run a service on uvloop until it returns; call it in the main thread, once per process.

    SIGTERM and SIGINT set the `StopSignal`; `serve` then drains and returns. After
    `stop_within_s` it is cancelled, `CANCEL_WITHIN_S` later the process ends where it stands, also
    when the event loop is blocked (stacks are then on stderr). A second SIGINT ends it at once.
    Nothing on this way waits for the network. A supervisor should wait `stop_within_s` plus 4 s
    before it kills.

    A web server inside `serve` must leave the signals alone: `uvicorn.Server.serve` takes them.

    Args:
        serve: the service; returning without a signal is a clean stop, too.
        service: names the process in its last words.
        stop_within_s: how long a drain may take.

    Returns:
        The exit code: 0 after a clean stop; `EXIT_FAILED` after an error (logged with traceback;
        of a ListenError or LossError just the text) or a drain that was cut short; `EXIT_SETTINGS`
        after a SettingsError or a BusRefusedError, whose text is then on stderr.
    """
    shutdown = _Shutdown(service, stop_within_s)
    former = {number: signal.signal(number, shutdown.handle_signal) for number in _SIGNALS}
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(shutdown.supervise(serve))
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        faulthandler.cancel_dump_traceback_later()


class _Shutdown:
    """Holds one process to its way out."""

    def __init__(self, service: str, stop_within_s: float) -> None:
        self._service = service
        self._stop_within_s = stop_within_s
        self._stop = StopSignal()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: asyncio.Task[int] | None = None
        self._signal_name = ""
        self._interrupts = 0
        self._was_cut_short = False

    def handle_signal(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal; works also while the event loop is busy, hence no loop handler."""
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os._exit(EXIT_INTERRUPTED)
        if self._signal_name:
            return
        self._signal_name = signal.Signals(number).name
        # A thread without the interpreter's lock: it acts even when native code never returns.
        faulthandler.dump_traceback_later(
            self._stop_within_s + CANCEL_WITHIN_S + BLOCKED_LOOP_MARGIN_S, exit=True
        )
        if self._loop is not None:
            with suppress(RuntimeError):  # The loop is closed: the process is on its way out.
                self._loop.call_soon_threadsafe(self._begin)

    async def supervise(self, serve: Callable[[StopSignal], Awaitable[None]]) -> int:
        """Run the service; return the exit code."""
        self._serving = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        if self._signal_name:  # Came before there was a loop to tell.
            self._begin()
        try:
            await serve(self._stop)
        except asyncio.CancelledError:
            if not self._was_cut_short:
                logger.exception("service was cancelled by itself")
            return EXIT_FAILED
        except Exception as error:
            mistake = _sole_error(error)
            if isinstance(mistake, SettingsError):
                sys.stderr.write(f"{self._service}: the settings are wrong\n{mistake}\n")
                return EXIT_SETTINGS
            if isinstance(mistake, BusRefusedError):
                variables = f"SPEECHBUS_{self._service.upper()}_NATS_"
                sys.stderr.write(f"{self._service}: {mistake}\n".replace("NATS_", variables))
                return EXIT_SETTINGS
            if isinstance(mistake, ListenError):
                sys.stderr.write(f"{mistake}\n")
                return EXIT_FAILED
            if isinstance(mistake, LossError):
                logger.error(str(mistake))  # noqa: TRY400  (nothing to trace)
                return EXIT_FAILED
            logger.exception("service failed")
            return EXIT_FAILED
        finally:
            faulthandler.dump_traceback_later(CLOSE_WITHIN_S, exit=True)
        return EXIT_FAILED if self._was_cut_short else 0

    def _begin(self) -> None:
        assert self._loop is not None
        logger.info("stop requested", extra={"reason": self._signal_name})
        self._stop.set(self._signal_name)
        self._loop.call_later(self._stop_within_s, self._cut_short)

    def _cut_short(self) -> None:
        assert self._loop is not None
        assert self._serving is not None
        self._was_cut_short = True
        logger.error("stop took too long, cancelling", extra={"stop_within_s": self._stop_within_s})
        self._serving.cancel()
        self._loop.call_later(CANCEL_WITHIN_S, _give_up)


def _give_up() -> None:
    logger.error("cancelling took too long, exiting", extra={"cancel_within_s": CANCEL_WITHIN_S})
    logging.shutdown()
    os._exit(EXIT_FAILED)


def _sole_error(error: BaseException) -> BaseException:
    """Return what is inside groups of one: a TaskGroup wraps what its task raised."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return _sole_error(inner[0]) if len(inner) == 1 else error
