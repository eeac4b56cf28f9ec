"""A client's stream between its door and the bus."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest

from speechbus_contracts import (
    AUDIO_MAX_AGE_S,
    PREVIOUS_SEQUENCE,
    AudioChunk,
    ChunkKind,
    decode_chunk,
)
from speechbus_ingest.bus_stream import IngestContext
from speechbus_ingest.formats.decoders import Decoders
from speechbus_ingest.formats.decoding import WavDecoding
from speechbus_ingest.formats.names import PLAIN, AudioFormat
from speechbus_ingest.publisher import AudioPublisher
from speechbus_ingest.quotas import Quotas
from speechbus_ingest.registry import StreamRegistry
from speechbus_ingest.stream import IngestStream, StreamRequest
from speechbus_ingest.supervisor import Supervisor
from speechbus_runtime.publisher import AckedPublisher, PublishRefusedError
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import run_virtual

RATE_HZ: Final = 8_000
"""At the lowest rate a message holds the most time."""
MESSAGE_BYTES: Final = 2 << 20
MESSAGE_PCM: Final = bytes(range(250)) * (2 * MESSAGE_BYTES // 250)
RAW: Final = StreamRequest(
    tenant="acme",
    door="native",
    sample_rate_hz=RATE_HZ,
    audio_format=AudioFormat(encoding="mulaw"),
)
PREVIOUS: Final = PREVIOUS_SEQUENCE.encode()
ENCODED: Final = StreamRequest(
    tenant="acme", door="native", sample_rate_hz=None, audio_format="flac"
)


class StoringBus(FakeBus):
    """JetStream stores what comes at once."""

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        """Record one message and acknowledge it."""
        if reply:
            ack = b'{"stream":"S","seq":1}'
            asyncio.get_running_loop().call_soon(lambda: self.deliver(reply, ack))
        return super().publish_nowait(subject, payload, reply=reply, headers=headers)


class Sink:
    """Wants no events."""

    def take_event(self, kind: str, payload: bytes) -> None:
        """See `EventSink`."""


class OnePiece(WavDecoding):
    """Decodes to a single piece, as long as a decoder may send one."""

    def __init__(self) -> None:
        super().__init__()
        self.sample_rate_hz = RATE_HZ
        self._pieces = [[MESSAGE_PCM], []]

    async def read(self) -> list[bytes]:
        """See `Decoding`."""
        return self._pieces.pop(0)


class Broken(OnePiece):
    """A decoder with a bug."""

    async def read(self) -> list[bytes]:
        """See `Decoding`."""
        pcm = await super().read()
        if not pcm:
            raise RuntimeError
        return pcm


class Desk:
    """A stream's surroundings, on a fake bus in virtual time, and a worker that reads on."""

    def __init__(self, folder: Path) -> None:
        self.bus = StoringBus()
        now_s = asyncio.get_running_loop().time
        self.context = IngestContext(
            control_bus=self.bus,
            publisher=AckedPublisher(self.bus),
            audio=AudioPublisher(self.bus, now_s=now_s),
            supervisor=Supervisor(self.bus, now_s=now_s, beat=lambda: None),
            decoders=Decoders(folder, streams_max=0),
            chunk_ms=100,
            shards=1,
            now_ns=lambda: 1,
        )
        self.ahead_s_max = 0.0
        """Longest audio that lay before the worker."""

    @property
    def chunks(self) -> list[AudioChunk]:
        """Audio on the bus."""
        chunks = [
            decode_chunk(sent.payload) for sent in self.bus.sent if b".audio." in sent.subject
        ]
        return [chunk for chunk in chunks if chunk.kind is ChunkKind.AUDIO]

    @asynccontextmanager
    async def worker(self, stream: IngestStream) -> AsyncGenerator[None, None]:
        """Have a worker that reads all that is there, every second."""
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(self._work(stream))
            yield
            work.cancel()

    async def _work(self, stream: IngestStream) -> None:
        read_samples = 0
        self._tell(stream, "opened", b"{}", sequence=1)
        for sequence in itertools.count(2):
            await asyncio.sleep(1)
            ahead_s = (stream.accepted_samples - read_samples) / RATE_HZ
            self.ahead_s_max = max(self.ahead_s_max, ahead_s)
            read_samples = stream.accepted_samples
            covered = b'{"covered_ms":%d}' % (read_samples * 1000 // RATE_HZ)
            self._tell(stream, "covered", covered, sequence=sequence)

    def _tell(self, stream: IngestStream, kind: str, payload: bytes, *, sequence: int) -> None:
        """Republish an event of the stream's only writer."""
        names = (b"Nats-Sequence: %d" % sequence, b"%b: %d" % (PREVIOUS, sequence - 1))
        self.bus.deliver(
            f"speech.v1.transcript.acme.{stream.stream_id}.{kind}".encode(),
            payload,
            headers=b"NATS/1.0\r\n%b\r\n\r\n" % b"\r\n".join(names),
        )


def test_the_largest_message_is_published_as_fast_as_it_is_read(tmp_path: Path) -> None:
    """It may hold more time than is kept: what lay too far ahead would be forgotten unread."""

    async def run() -> None:
        desk = Desk(tmp_path)
        stream = IngestStream(RAW, desk.context, Sink())
        await stream.open(RATE_HZ)
        async with desk.worker(stream):
            await stream.take(bytes(MESSAGE_BYTES))
            stream.end("end")

        assert sum(len(chunk.payload) for chunk in desk.chunks) == 2 * MESSAGE_BYTES
        assert desk.ahead_s_max < AUDIO_MAX_AGE_S

    run_virtual(run())


def test_decoded_audio_is_published_as_fast_as_it_is_read(tmp_path: Path) -> None:
    """However much a decoder gives at once."""

    async def run() -> None:
        desk = Desk(tmp_path)
        stream = IngestStream(ENCODED, desk.context, Sink(), OnePiece())
        stream.end("end")
        async with desk.worker(stream):
            await stream.decode()

        assert b"".join(chunk.payload for chunk in desk.chunks) == MESSAGE_PCM
        assert desk.ahead_s_max < AUDIO_MAX_AGE_S

    run_virtual(run())


def test_a_bug_in_decoding_ends_its_stream_with_what_came_before(tmp_path: Path) -> None:
    """The bus knows of the stream, so it has to be told of the end."""

    async def run() -> None:
        desk = Desk(tmp_path)
        stream = IngestStream(ENCODED, desk.context, Sink(), Broken())
        async with desk.worker(stream):
            await stream.decode()
        sent = decode_chunk(desk.bus.sent[-1].payload)

        assert stream.problem == "crashed"
        assert b"".join(chunk.payload for chunk in desk.chunks) == MESSAGE_PCM
        assert (sent.kind, sent.payload) == (ChunkKind.END, b'{"reason":"undecodable"}')

    run_virtual(run())


@pytest.mark.parametrize("failing", ["say_unsaid", "recover"])
def test_a_bug_in_one_stream_leaves_the_others_alone(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All share one group of tasks, which any exception would end."""
    n_failures = 0

    async def fail(_stream: IngestStream) -> None:
        nonlocal n_failures
        n_failures += 1
        raise PublishRefusedError(10054)

    async def run() -> None:
        desk = Desk(tmp_path)
        registry = StreamRegistry(
            desk.context,
            streams_max=1,
            streams_per_key_max=1,
            quotas=Quotas(streams_per_minute=60, bytes_per_s=None, now_s=lambda: 0.0),
            beat=lambda: None,
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(registry.run())
            await asyncio.sleep(0)
            async with registry.open_stream(RAW, Sink()) as stream:
                for hook in desk.bus.reconnected:
                    await hook()
                await asyncio.sleep(1)
            stream.closed.set()
            await asyncio.sleep(9)
            assert n_failures
            assert not running.done()
            assert registry.n_streams == 0
            running.cancel()

    monkeypatch.setattr(IngestStream, failing, fail)
    run_virtual(run())


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_change_of_language_is_stored_before_its_chunk_and_cuts_the_audio_there(
    tmp_path: Path, *, is_ended: bool
) -> None:
    """What comes while it is being stored lies behind it, also when the stream ends meanwhile."""

    async def run() -> list[str]:
        desk = Desk(tmp_path)
        request = msgspec.structs.replace(RAW, audio_format=PLAIN)
        stream = IngestStream(request, desk.context, Sink())
        await stream.open(RATE_HZ)
        await stream.take(bytes(2 * 900))
        async with asyncio.TaskGroup() as tasks:
            changing = tasks.create_task(stream.change_language("ja"))
            await asyncio.sleep(0)
            assert not changing.done()
            await stream.take(bytes(2 * 1_000))
            if is_ended:
                stream.end("end")
        stream.end("end")
        stream.release()
        said: list[str] = []
        for sent in desk.bus.sent:
            if b".audio." in sent.subject:
                chunk = decode_chunk(sent.payload)
                said.append(f"{chunk.kind.name} {chunk.first_sample} {chunk.n_samples}")
            elif sent.subject.endswith(b".reconfigured"):
                said.append(str(msgspec.json.decode(sent.payload)["at_sample"]))
        return said

    assert run_virtual(run()) == [
        "AUDIO 0 800",
        "AUDIO 800 100",
        "900",
        "RECONFIGURE 900 0",
        "AUDIO 900 800",
        "AUDIO 1700 200",
        "END 1900 0",
    ]
