"""Engine processes of this worker: started, watched, started again."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

__all__ = ["run_local_engine"]

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0
"""Loading the model takes 0.3 s warm and about 1 s cold; a loaded machine takes longer."""
STOP_TIMEOUT_S: Final = 3.0
RESTART_WAIT_S: Final = 0.5


class EngineStartError(Exception):
    """The engine process did not get ready; its own message is on stderr."""


@asynccontextmanager
async def run_local_engine(
    socket_path: Path, *, vad: str, sessions_max: int
) -> AsyncGenerator[None, None]:
    """Keep the local engine running while the block runs.

    A session whose engine dies fails with `ProviderUnavailableError` and is opened again by its
    stream; the engine is back after `RESTART_WAIT_S` and its loading time.

    Raises:
        EngineStartError: it did not start the first time.
    """
    arguments = (
        "--socket",
        str(socket_path),
        "--vad",
        vad,
        "--sessions-max",
        str(sessions_max),
    )
    process = await _start(arguments)
    keeper = _Keeper(process, arguments)
    watch = asyncio.get_running_loop().create_task(keeper.run(), name="local-engine")
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.wait([watch])
        await _stop(keeper.process)


class _Keeper:
    def __init__(self, process: asyncio.subprocess.Process, arguments: tuple[str, ...]) -> None:
        self.process = process
        self._arguments = arguments

    async def run(self) -> None:
        """Restart the process whenever it ends."""
        while True:
            code = await self.process.wait()
            logger.error("local engine ended", extra={"exit_code": code})
            while True:
                await asyncio.sleep(RESTART_WAIT_S)
                try:
                    self.process = await _start(self._arguments)
                except EngineStartError:
                    logger.exception("local engine does not start")
                else:
                    break


async def _start(arguments: tuple[str, ...]) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "speechbus_transcriber.local_engine",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
    except BaseException as error:
        await _stop(process)
        if isinstance(error, TimeoutError):
            raise EngineStartError("the local engine did not get ready in time") from None
        raise
    if line.strip() != b"ready":
        await _stop(process)
        raise EngineStartError("the local engine ended while it was starting")
    return process


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
