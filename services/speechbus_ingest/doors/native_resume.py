"""The native door's way back into a stream, in its own words."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import msgspec
from starlette.websockets import WebSocket

from speechbus_contracts import StreamClosed
from speechbus_ingest.doors.native_errors import DoorError, overloaded
from speechbus_ingest.doors.sending import close, send_text
from speechbus_ingest.event_order import Position
from speechbus_ingest.registry import SeatTakenError
from speechbus_ingest.resume import (
    ClosedStreamError,
    MisfitError,
    Resumer,
    ResumeRequest,
    TooFarAheadError,
    UnknownStreamError,
)
from speechbus_ingest.stream import IngestStream, StreamRequest
from speechbus_ingest.stream_events import EventSink
from speechbus_runtime.jetstream import JetStreamUnavailableError

__all__ = ["FinishedStreamError", "NativeResuming", "Resume"]

LANGUAGES_MAX: Final = 64
"""More than a stream may be translated into; each costs a read."""
_CLOSE_NORMAL: Final = 1000

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
_Sequences = Annotated[dict[str, _Count], msgspec.Meta(max_length=LANGUAGES_MAX)]


class Resume(msgspec.Struct, frozen=True):
    """`resume` of a hello."""

    stream_id: str
    samples: _Count = 0
    sequence: _Count = 0
    translations: _Sequences | None = None


class FinishedStreamError(Exception):
    """The stream has ended as its client wanted: it only has to be told the rest."""

    def __init__(self, request: ResumeRequest, closed: StreamClosed) -> None:
        super().__init__(closed.reason)
        self.request = request
        self.closed = closed


class NativeResuming:
    """Resumes streams for clients of the native door.

    Args:
        resumer: finds the streams.
        resume_s: how long a client may be away.
    """

    def __init__(self, resumer: Resumer, *, resume_s: float) -> None:
        self._resumer = resumer
        self._resume_s = resume_s

    @asynccontextmanager
    async def enter(
        self, wish: StreamRequest, resume: Resume, sink: EventSink
    ) -> AsyncGenerator[IngestStream, None]:
        """Hold the stream during the block.

        Args:
            wish: what the hello says beside.
            resume: which stream.
            sink: gets the events.

        Raises:
            DoorError: it cannot be.
            FinishedStreamError: call `tell_the_end`.
            OverLimitError, JetStreamUnavailableError: not now.
        """
        assert not isinstance(wish.audio_format, str), "only raw audio is resumed"
        assert wish.sample_rate_hz is not None, "which says its rate in the hello"
        request = ResumeRequest(
            tenant=wish.tenant,
            stream_id=resume.stream_id,
            sample_rate_hz=wish.sample_rate_hz,
            audio_format=wish.audio_format,
            kept_from=resume.samples,
            position=Position(resume.sequence, resume.translations),
        )
        try:
            async with self._resumer.resume(request, sink) as stream:
                yield stream
        except UnknownStreamError:
            raise DoorError(
                "resume.unknown",
                "This key has no such stream that can be resumed: open a new one.",
            ) from None
        except MisfitError:
            raise DoorError(
                "resume.sample_rate", "Say the 'sample_rate_hz' that the stream was opened with."
            ) from None
        except TooFarAheadError:
            raise DoorError(
                "resume.too_far",
                "'samples' is beyond anything that was accepted: say what 'accepted' told last.",
            ) from None
        except SeatTakenError:
            raise DoorError(
                "resumed", "Another connection has resumed this stream, and has it from now on."
            ) from None
        except ClosedStreamError as ended:
            if ended.closed is not None and ended.reason == "end":
                raise FinishedStreamError(request, ended.closed) from None
            raise DoorError(
                "resume.closed",
                f"The stream has ended ({ended.reason}): open a new one, and send to it from the"
                " last accepted sample.",
            ) from None

    async def tell_the_end(self, socket: WebSocket, finished: FinishedStreamError) -> None:
        """Give a client the events of its finished stream that it does not have, and close.

        Raises:
            DoorError: not now.
        """
        request = finished.request
        n_samples = finished.closed.audio_ms * request.sample_rate_hz // 1000
        ready = {
            "type": "ready",
            "stream_id": request.stream_id,
            "accepted_samples": max(n_samples, request.kept_from),
            "resume_within_s": self._resume_s,
        }
        await send_text(socket, msgspec.json.encode(ready).decode())
        try:
            async for payload in self._resumer.read_missed(request):
                await send_text(socket, payload.decode())
        except JetStreamUnavailableError:
            raise overloaded() from None
        await close(socket, _CLOSE_NORMAL)
