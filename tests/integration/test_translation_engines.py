"""Each engine against a real peer: a server, programs in a pipe, a model."""

import asyncio
import gzip
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from speechbus_translator.engines.apertium import Apertium
from speechbus_translator.engines.ctranslate import CTranslate2, ModelFolderError
from speechbus_translator.engines.interface import (
    EngineRefusedError,
    EngineUnavailableError,
)
from speechbus_translator.engines.libretranslate import LibreTranslate
from speechbus_translator.pool import EnginePool, Later, Translated
from tests.support.libretranslate import LibreTranslateServer
from tests.support.translation_model import build_model

PROGRAM = Path(__file__).parents[1] / "programs" / "null_flush.py"
INSTALLED_MODES = Path("/usr/share/apertium/modes")
PATIENCE_S = 30.0


@asynccontextmanager
async def engine_at(server: LibreTranslateServer, key: str = "") -> AsyncGenerator[LibreTranslate]:
    """Open the engine; it has the server's list of languages."""
    engine = LibreTranslate(server.url, api_key=key, connections_max=4)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while engine.serves("xx", "es"):  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.01)
        yield engine
    finally:
        await engine.close()


def test_a_libretranslate_server_translates_what_it_says_it_can() -> None:
    """Regions are left out where the server knows the language alone."""

    async def run() -> None:
        with LibreTranslateServer(api_key="swordfish") as server:
            async with engine_at(server, "swordfish") as engine:
                assert engine.serves("en-US", "pt-BR")
                assert engine.serves(None, "es")
                assert not engine.serves("es", "pt")
                said = await engine.translate("Hi", source="en-US", target="pt-BR")
                assert said == "[pt] Hi"
                assert await engine.translate("Hi", source=None, target="es") == "[es] Hi"
                with pytest.raises(EngineRefusedError):
                    await engine.translate("Hola", source="es", target="pt")

    asyncio.run(run())


@pytest.mark.parametrize("status", [403, 429, 500, 502])
def test_a_libretranslate_server_that_fails_is_unavailable(status: int) -> None:
    """Also with a wrong key: another engine may help, and a person may correct it."""

    async def run() -> None:
        with LibreTranslateServer(fault=lambda _: status) as server:
            async with engine_at(server) as engine:
                with pytest.raises(EngineUnavailableError) as caught:
                    await engine.translate("swordfish", source="en", target="es")
                assert "swordfish" not in str(caught.value)

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b'{"translatedText":"\xff"}',
        b'{"translatedText":' + b"[" * 5_000,
        b"",
        gzip.compress(b'{"translatedText":"' + b"a" * 50_000 + b'"}'),
    ],
    ids=["no text", "deep", "nothing", "packed"],
)
def test_a_server_that_answers_with_garbage_is_unavailable(answer: bytes) -> None:
    """Another engine is asked, or the text later: it is no bug of ours. Nothing is unpacked."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        kind = b"content-encoding: gzip\r\n" if answer[:1] == b"\x1f" else b""
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n%b\r\n%b" % (kind, answer))
        await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(respond, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        engine = LibreTranslate(f"http://127.0.0.1:{port}", api_key="", connections_max=1)
        async with server:
            with pytest.raises(EngineUnavailableError) as caught:
                await engine.translate("good morning", source="en", target="es")
            await engine.close()
        assert str(caught.value) == "no_translation_in_answer"

    asyncio.run(run())


def test_a_server_that_is_gone_or_hangs_costs_one_time_out() -> None:
    """A final waits for others, not for it."""
    hangs = threading.Event()

    def hang(_number: int) -> None:
        hangs.wait(PATIENCE_S)

    async def run() -> None:
        with LibreTranslateServer(fault=hang) as server:
            async with engine_at(server) as engine:
                pool = EnginePool([engine], timeout_s=0.1, concurrency=2, now_s=lambda: 0.0)
                assert isinstance(await pool.translate("Hi", source="en", target="es"), Later)
                hangs.set()
        gone = LibreTranslate(server.url, api_key="", connections_max=1)
        with pytest.raises(EngineUnavailableError):
            await gone.translate("Hi", source="en", target="es")
        await gone.close()

    asyncio.run(run())


def write_mode(folder: Path) -> Path:
    """Put a mode of two programs into a folder."""
    program = f"{sys.executable} {PROGRAM}"
    folder.joinpath("python").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    folder.joinpath("python").chmod(0o755)
    one = f"{folder}/python $1 $2 'file with blanks'"
    folder.joinpath("eng-spa.mode").write_text(f"{one} | {one}\n")
    folder.joinpath("eng-spa-morph.mode").write_text("no pair\n")
    return folder


def test_a_pipe_answers_each_text_with_its_own_translation(tmp_path: Path) -> None:
    """Escapes, zero bytes and a pipe that hangs or dies: never the answer to another text."""

    async def run() -> None:
        engine = Apertium(write_mode(tmp_path))
        pool = EnginePool([engine], timeout_s=5.0, concurrency=4, now_s=lambda: 0.0)

        async def ask(text: str) -> str:
            outcome = await pool.translate(text, source="en-US", target="es")
            assert isinstance(outcome, Translated), text
            return outcome.text

        assert engine.serves("en", "es-MX")
        assert not engine.serves("es", "en")
        assert not engine.serves(None, "es")
        assert await ask("a [b] ^c$ {d} /e\\ @<f>\n2 *word") == "A [B] ^C$ {D} /E\\ @<F>\n2 *WORD"
        async with asyncio.TaskGroup() as group:
            asking = {text: group.create_task(ask(text)) for text in ("one", "two", "three")}
        assert {text: task.result() for text, task in asking.items()} == {
            "one": "ONE",
            "two": "TWO",
            "three": "THREE",
        }

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await engine.translate("sleep", source="en", target="es")
        assert await ask("after a time-out") == "AFTER A TIME-OUT"
        with pytest.raises(EngineUnavailableError):
            await engine.translate("die", source="en", target="es")
        assert await ask("after a death") == "AFTER A DEATH"
        await engine.close()

    asyncio.run(run())


def test_pipes_that_make_room_for_others_leave_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pairs than may run, in use at the same time: each ends with the engine at the latest."""
    monkeypatch.setattr("speechbus_translator.engines.apertium.PAIRS_MAX", 1)
    mode = write_mode(tmp_path) / "eng-spa.mode"
    (tmp_path / "eng-por.mode").write_text(mode.read_text())

    async def run() -> list[str]:
        engine = Apertium(tmp_path)
        told: list[str] = []

        async def ask(text: str, target: str) -> None:
            try:
                told.append(await engine.translate(text, source="en", target=target))
            except EngineUnavailableError:
                told.append("later")

        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(ask(f"text {number}", ("es", "pt")[number % 2]))
                await asyncio.sleep(0)
        await engine.close()
        # Here, since the end of the event loop would end them.
        children = psutil.Process().children()
        assert [each for each in children if str(PROGRAM) in each.cmdline()] == []
        return told

    told = asyncio.run(run())

    assert len(told) == 12
    assert {each.partition(" ")[0] for each in told} <= {"TEXT", "later"}
    assert "TEXT 0" in told


@pytest.mark.skipif(
    not (INSTALLED_MODES / "eng-spa.mode").exists(), reason="apertium-eng-spa is not installed"
)
def test_apertium_translates() -> None:
    """The real programs, where they are."""

    async def run() -> None:
        engine = Apertium(INSTALLED_MODES)
        said = await engine.translate("Good morning.", source="en", target="es")
        again = await engine.translate("a [b] {c} ^d$", source="en", target="es")
        await engine.close()
        assert (said, again) == ("Buenos días.", "Un [b] {c} ^d$")

    asyncio.run(run())


def test_a_model_of_ctranslate2_is_loaded_and_run(tmp_path: Path) -> None:
    """The real loader, with a model made here."""
    build_model(tmp_path / "en-es")

    async def run() -> None:
        engine = CTranslate2(tmp_path, threads=2)
        assert engine.serves("en-US", "es")
        assert not engine.serves("es", "en")
        said = await engine.translate("good morning", source="en", target="es")
        again = await engine.translate("good morning", source="en", target="es")
        await engine.close()
        assert isinstance(said, str)
        assert said == again

    asyncio.run(run())


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    """An operator is told at the start, not at the first final."""
    pytest.importorskip("ctranslate2")
    with pytest.raises(ModelFolderError, match="has no folder of a pair"):
        CTranslate2(tmp_path, threads=1)
    (tmp_path / "en-es").mkdir()
    with pytest.raises(ModelFolderError, match="en-es cannot be loaded"):
        CTranslate2(tmp_path, threads=1)
