"""What a process with real libraries writes to its stderr."""

import subprocess
import sys
from pathlib import Path

import msgspec

UVICORN = """
import asyncio, logging, sys
import httpx, uvicorn, websockets
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from speechbus_runtime.logs import configure_logs

async def page(request):
    return Response(b"")

async def fail(request):
    raise OSError(str(request.url))

async def socket(websocket):
    await websocket.accept()
    await websocket.send_text("hush")
    await websocket.close()

async def main():
    # uvicorn's own configuration comes second and asks for everything: the worst case.
    configure_logs(service="ingest", level="DEBUG", json_lines=True)
    routes = [Route("/page", page), Route("/fail", fail), WebSocketRoute("/socket", socket)]
    config = uvicorn.Config(
        Starlette(routes=routes), host="127.0.0.1", port=0, log_level="trace", **OPTIONS
    )
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await client.get("/page?token=hush", headers={"Authorization": "Bearer hush"})
            await client.get("/fail?token=hush")
        async with websockets.connect(f"ws://127.0.0.1:{port}/socket?token=hush") as connection:
            await connection.recv()
        server.should_exit = True
    logging.getLogger("speechbus_ingest.door").debug("done")

asyncio.run(main())
"""


def stderr_of(script: str) -> str:
    """Run a script to its end; return all it wrote."""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_no_query_string_reaches_the_log() -> None:
    """Clients that cannot set headers put their token into the address of the socket."""
    written = stderr_of("OPTIONS = {'log_config': None}\n" + UVICORN)
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in written.splitlines()]

    assert "hush" not in written
    assert [line["event"] for line in lines] == ["Exception in ASGI application", "done"]


def test_uvicorns_own_log_settings_print_no_request() -> None:
    """Somebody will forget to switch them off."""
    written = stderr_of("OPTIONS = {}\n" + UVICORN)

    assert "GET /page" not in written
    assert "/socket" not in written


def test_faststream_prints_no_message_lines() -> None:
    """It brings a handler of its own and logs each message at INFO."""
    script = """
from speechbus_runtime.logs import configure_logs
configure_logs(service="correlator", json_lines=True)
import logging
from faststream.nats import NatsBroker
from faststream._internal.logger.logging import logger
logger.info("hush")
logging.getLogger("faststream.access.nats").info("hush")
"""
    assert stderr_of(script) == ""


def test_a_record_that_cannot_be_written_is_dropped() -> None:
    """Python would otherwise print its arguments instead."""
    script = """
import logging
from speechbus_runtime.logs import configure_logs
class Broken:
    def __str__(self):
        raise RuntimeError
configure_logs(service="pool", json_lines=False)
logging.getLogger("speechbus_pool").error("%s %s", Broken(), "hush")
logging.getLogger("speechbus_pool").error("went on")
"""
    assert stderr_of(script).endswith(" ERROR   pool went on\n")
    assert "hush" not in stderr_of(script)


def test_a_broken_stderr_breaks_nothing() -> None:
    """A log collector that went away must not stop the audio."""
    script = """
import logging, os, sys
from speechbus_runtime.logs import configure_logs
configure_logs(service="pool", json_lines=True)
reader, writer = os.pipe()
os.dup2(writer, 2)
os.close(writer)
os.close(reader)
logging.getLogger("speechbus_pool").error("hush")
print("went on")
sys.stdout.flush()
os._exit(0)
"""
    assert stderr_of(script) == "went on\n"
