"""A client of the native door that streams frame-numbered audio and keeps what comes back."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import websockets

from speechbus_contracts import (
    AnyEvent,
    ContractError,
    Gap,
    SegmentFinal,
    StreamClaimed,
    StreamClosed,
    decode_event,
)
from tests.support.frame_numbers import FRAME_MS, Tiling, build_frames, check_tiling

__all__ = ["Received", "collect", "stream_frames"]


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """What one client got."""

    stream_id: str
    events: Sequence[AnyEvent]
    """In the order of arrival."""
    arrived_at_s: Sequence[float]
    """On the loop's clock, one for each event."""

    @property
    def finals(self) -> list[SegmentFinal]:
        """Finals in the order of arrival."""
        return [event for event in self.events if isinstance(event, SegmentFinal)]

    @property
    def gaps(self) -> list[Gap]:
        """Gaps in the order of arrival."""
        return [event for event in self.events if isinstance(event, Gap)]

    @property
    def claims(self) -> list[tuple[float, StreamClaimed]]:
        """Claims and when they arrived."""
        return [
            (at_s, event)
            for at_s, event in zip(self.arrived_at_s, self.events, strict=True)
            if isinstance(event, StreamClaimed)
        ]

    @property
    def closed(self) -> StreamClosed | None:
        """The last event, if it came."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, StreamClosed) else None

    def check_tiling(self, n_frames: int) -> Tiling:
        """Compare the finals with the frames that were sent."""
        return check_tiling(self.finals, n_frames)


async def stream_frames(
    url: str,
    key: str,
    *,
    n_frames: int,
    frames_per_message: int = 5,
    is_paced: bool = True,
    hello: Mapping[str, Any] | None = None,
    build: Callable[[int, int], bytes] = build_frames,
    changes: Mapping[int, str | None] | None = None,
) -> Received:
    """Stream frames 1 to `n_frames` and return when the server has closed.

    Args:
        url: of the ingest, `http://host:port`.
        key: API key.
        n_frames: of 20 ms at 16 kHz.
        frames_per_message: in one WebSocket message.
        is_paced: send in real time; else as fast as the server takes it.
        hello: fields that differ from the usual hello.
        build: PCM of the frames from one on, and how many.
        changes: languages, each from a frame on that begins a message.
    """
    loop = asyncio.get_running_loop()
    events: list[AnyEvent] = []
    arrived_at_s: list[float] = []
    async with websockets.connect(
        f"{url.replace('http', 'ws', 1)}/v1/streams",
        additional_headers={"Authorization": f"Bearer {key}"},
        compression=None,
        max_queue=None,
        open_timeout=30,
    ) as socket:
        await socket.send(
            msgspec.json.encode(
                {
                    "type": "hello",
                    "format": "pcm_s16le",
                    "sample_rate_hz": 16_000,
                    "providers": ["echo"],
                    "skip_silence": False,  # frames are no speech, and each one counts
                    **(hello or {}),
                }
            ).decode()
        )
        ready = msgspec.json.decode(await socket.recv())

        async def receive() -> None:
            async for message in socket:
                assert isinstance(message, str)
                event = collect(message)
                if event is not None:
                    events.append(event)
                    arrived_at_s.append(loop.time())

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(receive())
            started_s = loop.time()
            for first in range(1, n_frames + 1, frames_per_message):
                n_now = min(frames_per_message, n_frames + 1 - first)
                if changes and first in changes:
                    change = {"type": "configure", "language": changes[first]}
                    await socket.send(msgspec.json.encode(change).decode())
                await socket.send(build(first, n_now))
                if is_paced:
                    due_s = started_s + (first - 1 + n_now) * FRAME_MS / 1000
                    await asyncio.sleep(max(0.0, due_s - loop.time()))
            await socket.send('{"type":"end"}')
    return Received(stream_id=ready["stream_id"], events=events, arrived_at_s=arrived_at_s)


def collect(message: str) -> AnyEvent | None:
    """Return the bus event in a message; None: a message of the door itself."""
    try:
        return decode_event(message.encode())
    except ContractError:
        return None
