"""A child process of a service: started, watched, started again."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["KeptProcess", "ProcessStartError"]

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0
"""Loading takes 0.3 s warm and about 1 s cold; a loaded machine takes longer."""
STOP_TIMEOUT_S: Final = 3.0
RESTART_WAIT_S: Final = 0.5


class ProcessStartError(Exception):
    """The process did not get ready; its own message is on stderr."""


class KeptProcess:
    """`python -m MODULE ARGUMENT...`, which prints `ready` when it is, and ends at SIGTERM.

    Args:
        name: of the process, for the log.
        command: module and arguments.
    """

    def __init__(self, name: str, *command: str) -> None:
        self._name = name
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        """Set while the process is there and can be used."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Start it, and keep it running while the block runs.

        Raises:
            ProcessStartError: it did not start the first time.
        """
        await self._start()
        keeper = asyncio.get_running_loop().create_task(self.run(), name=self._name)
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])

    async def run(self) -> None:
        """Start it whenever it is not there; stop it when cancelled."""
        try:
            while True:
                if self._process is not None:
                    code = await self._process.wait()
                    self.ready.clear()
                    logger.error(
                        "child process ended", extra={"child": self._name, "exit_code": code}
                    )
                    await asyncio.sleep(RESTART_WAIT_S)
                try:
                    await self._start()
                except ProcessStartError:
                    logger.exception("child process does not start", extra={"child": self._name})
        finally:
            await self._stop()

    async def _start(self) -> None:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
        except BaseException as error:
            await self._stop()
            if isinstance(error, TimeoutError):
                raise ProcessStartError(f"{self._name} did not get ready in time") from None
            raise
        if line.strip() != b"ready":
            await self._stop()
            raise ProcessStartError(f"{self._name} ended while it was starting")
        self.ready.set()

    async def _stop(self) -> None:
        self.ready.clear()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
