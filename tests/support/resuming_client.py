"""A client of the native door that keeps what is not accepted yet, and comes back for the rest."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection, connect

from speechbus_contracts import AnyEvent, StreamClosed, TranslationFinal, TranslationMissing
from tests.support.frame_client import Received, collect
from tests.support.frame_numbers import FRAME_MS, build_frames

__all__ = ["ResumingClient"]

RATE_HZ: Final = 16_000
FRAME_SAMPLES: Final = RATE_HZ * FRAME_MS // 1000
SILENCE_S: Final = 3.0
"""`accepted` comes every second: who says nothing for this long is frozen."""
RETRY_S: Final = 0.1


class _Message(msgspec.Struct):
    type: str
    stream_id: str = ""
    accepted_samples: int = 0
    samples: int = 0
    sequence: int = 0
    code: str = ""


_decoder: Final = msgspec.json.Decoder(_Message)


class ResumingClient:
    """Streams frames 1 to `n_frames` in real time, over as many connections as it takes.

    Args:
        urls: of ingests, `http://host:port`; after a break the next one is tried.
        key: API key.
        n_frames: of 20 ms at 16 kHz.
        hello: fields that differ from the usual hello.
        build: PCM of the frames from one on, and how many.
    """

    def __init__(
        self,
        urls: Sequence[str],
        key: str,
        *,
        n_frames: int,
        hello: Mapping[str, Any] | None = None,
        build: Callable[[int, int], bytes] = build_frames,
    ) -> None:
        self.stream_id = ""
        self.events: list[AnyEvent] = []
        self.arrived_at_s: list[float] = []
        self.resumed_from: list[int] = []
        """Samples that each further connection was told are accepted."""
        self.accepted = 0
        """Samples that need not be kept."""
        self.errors: list[str] = []
        """Codes of the door's errors."""
        self._urls = urls
        self._n_connects = 0
        self._key = key
        self._n_frames = n_frames
        self._hello = hello or {}
        self._build = build
        self._sequences: dict[str, int] = {}
        """Of the last event, by language for translations."""
        self._connection: ClientConnection | None = None
        self._loop = asyncio.get_running_loop()
        self._began_s = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether the stream's last event has come."""
        return bool(self.events) and isinstance(self.events[-1], StreamClosed)

    def cut(self) -> None:
        """Let the connection end without a goodbye."""
        assert self._connection is not None
        self._connection.transport.abort()

    async def run(self) -> Received:
        """Return when the stream is closed.

        Raises:
            AssertionError: the door refused to go on, or an event came twice.
        """
        self._began_s = self._loop.time()
        while not self.is_closed:
            url = self._urls[self._n_connects % len(self._urls)]
            self._n_connects += 1
            try:
                await self._connect(url)
            except* (OSError, TimeoutError, websockets.WebSocketException):
                await asyncio.sleep(RETRY_S)
        return Received(
            stream_id=self.stream_id, events=self.events, arrived_at_s=self.arrived_at_s
        )

    async def _connect(self, url: str) -> None:
        async with connect(
            f"{url.replace('http', 'ws', 1)}/v1/streams",
            additional_headers={"Authorization": f"Bearer {self._key}"},
            compression=None,
            max_queue=None,
            open_timeout=5,
            close_timeout=0.1,
        ) as connection:
            self._connection = connection
            await connection.send(msgspec.json.encode(self._build_hello()).decode())
            ready = await self._hear(connection)
            if ready.code in {"overloaded", "too_many_streams"}:
                raise ConnectionRefusedError(ready.code)
            assert ready.type == "ready", ready
            if self.stream_id:
                assert ready.accepted_samples >= self.accepted, "accepted audio was given up"
                self.resumed_from.append(ready.accepted_samples)
            self.stream_id = ready.stream_id
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(self._send(connection, ready.accepted_samples))
                while not self.is_closed:
                    await self._hear(connection)
                sender.cancel()

    def _build_hello(self) -> dict[str, Any]:
        hello = {
            "type": "hello",
            "format": "pcm_s16le",
            "sample_rate_hz": RATE_HZ,
            "providers": ["echo"],
            "skip_silence": False,
            "resumable": True,
            **self._hello,
        }
        if self.stream_id:
            hello["resume"] = {
                "stream_id": self.stream_id,
                "samples": self.accepted,
                "sequence": self._sequences.get("", 0),
                "translations": {k: n for k, n in self._sequences.items() if k},
            }
        return hello

    async def _send(self, connection: ClientConnection, position: int) -> None:
        n_samples = self._n_frames * FRAME_SAMPLES
        while position < n_samples:
            frame = position // FRAME_SAMPLES
            n_now = min(5, self._n_frames - frame)
            pcm = self._build(frame + 1, n_now)
            await connection.send(pcm[2 * (position - frame * FRAME_SAMPLES) :])
            position = (frame + n_now) * FRAME_SAMPLES
            due_s = self._began_s + position / RATE_HZ
            await asyncio.sleep(max(0.0, due_s - self._loop.time()))
        await connection.send('{"type":"end"}')

    async def _hear(self, connection: ClientConnection) -> _Message:
        async with asyncio.timeout(SILENCE_S):
            data = await connection.recv()
        assert isinstance(data, str)
        message = _decoder.decode(data)
        match message.type:
            case "accepted":
                assert message.samples >= self.accepted
                self.accepted = message.samples
            case "error":
                self.errors.append(message.code)
            case _:
                event = collect(data)
                if event is not None:
                    if message.sequence:
                        order = ""
                        if isinstance(event, TranslationFinal | TranslationMissing):
                            order = event.language
                        last = self._sequences.get(order, 0)
                        assert message.sequence > last, "an event came twice"
                        self._sequences[order] = message.sequence
                    self.events.append(event)
                    self.arrived_at_s.append(self._loop.time())
        return message
