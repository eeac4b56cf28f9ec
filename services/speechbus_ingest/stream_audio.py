"""A stream's audio, out: PCM in, numbered chunks on the bus."""

from collections.abc import Callable
from typing import Final

import msgspec

from speechbus_contracts import AudioSubject, ChunkKind, StreamOpened
from speechbus_ingest.chunker import Chunker
from speechbus_ingest.publisher import AudioLane, AudioPublisher, LaneStart

__all__ = ["StreamAudio"]

KEEPALIVE_S: Final = 2.0
"""A worker takes an ingest for lost after 10 s without any chunk."""


class StreamAudio:
    """Cuts a stream's PCM into chunks, puts its markers between them, and shows that it lives.

    Args:
        opened: the stream.
        publisher: puts chunks on the bus.
        chunk_ms: of a full chunk.
        now_ns: wall clock, ns since 1970.
        start: where the audio begins, of a stream that another ingest has begun.
    """

    def __init__(
        self,
        opened: StreamOpened,
        publisher: AudioPublisher,
        *,
        chunk_ms: int,
        now_ns: Callable[[], int],
        start: LaneStart | None,
    ) -> None:
        self.lane: Final[AudioLane] = publisher.open_lane(
            str(AudioSubject(opened.shard, opened.tenant, opened.stream_id)),
            sample_rate_hz=opened.sample_rate_hz,
            start=start,
        )
        self.has_ended = False
        """Whether the end marker is published, or a worker has ended the stream by itself."""
        self._publisher = publisher
        self._chunk_s = chunk_ms / 1000
        self._now_ns = now_ns
        self._chunker = Chunker(sample_rate_hz=opened.sample_rate_hz, chunk_ms=chunk_ms)
        self._waiting_since_s: float | None = None
        # Decoded while a change is being stored; the door reads nothing meanwhile.
        self._behind_change: bytearray | None = None
        # Samples before a change that is to be said again; the audio before it may have died, too.
        self._change_at: int | None = None
        self._language = opened.language

    def write(self, pcm: bytes) -> None:
        """Take PCM s16le mono, cut anywhere; nothing is taken after the end."""
        if self.has_ended:
            return
        if self._behind_change is not None:
            self._behind_change += pcm
            return
        if self._change_at is not None:
            pcm = self._pass_change(pcm, self._change_at)
        chunks = self._chunker.split(pcm)
        if chunks:
            self._waiting_since_s = None
            captured_at_ns = self._now_ns()
            for chunk in chunks:
                self.lane.publish(ChunkKind.AUDIO, chunk, captured_at_ns=captured_at_ns)
        if self._waiting_since_s is None and self._chunker.n_waiting:
            self._waiting_since_s = self._publisher.now_s()

    def flush(self) -> int:
        """Ask for finals of everything written so far; see `BusStream.flush`."""
        if self.has_ended:
            return -1
        self._publish_rest()
        return self.lane.publish(ChunkKind.FLUSH, b"", captured_at_ns=self._now_ns())

    def begin_change(self, language: str | None) -> int:
        """From here on another language is spoken, and what is written waits for `finish_change`.

        Returns:
            Samples before the change.
        """
        self._publish_rest()
        self._behind_change = bytearray()
        self._language = language
        return self.lane.position

    def finish_change(self) -> None:
        """If a change was begun: publish it, and what was written meanwhile."""
        behind, self._behind_change = self._behind_change, None
        if behind is None:
            return
        self._publish_language()
        self.write(bytes(behind))

    def repeat_change(self, language: str | None, *, at_sample: int) -> None:
        """Say a change again that a former ingest has stored: its chunk may have died with it."""
        self._language = language
        self._change_at = at_sample
        self.write(b"")

    def _pass_change(self, pcm: bytes, at_sample: int) -> bytes:
        """Say a change again if it lies in here; return the PCM behind it."""
        n_before = max(0, 2 * (at_sample - self.lane.position) - self._chunker.n_waiting)
        if len(pcm) < n_before:
            return pcm
        self._change_at = None
        self.write(pcm[:n_before])
        self._publish_rest()
        self._publish_language()
        return pcm[n_before:]

    def _publish_language(self) -> None:
        self.lane.publish(
            ChunkKind.RECONFIGURE,
            msgspec.json.encode({"language": self._language}),
            captured_at_ns=self._now_ns(),
        )

    def show_life(self) -> None:
        """Publish a chunk without audio."""
        self.lane.publish(ChunkKind.SILENCE, b"", captured_at_ns=self._now_ns())

    def pause(self) -> None:
        """Publish what was written; half a sample of it is forgotten."""
        if not self.has_ended:
            self._publish_rest()
        self._chunker.drop_rest()

    def end(self, reason: str) -> None:
        """No more audio; called again, it does nothing."""
        if self.has_ended:
            return
        self.finish_change()
        self.has_ended = True
        self._publish_rest()
        self.lane.publish(
            ChunkKind.END,
            msgspec.json.encode({"reason": reason}),
            captured_at_ns=self._now_ns(),
        )

    def tend(self, now_s: float) -> None:
        """Do what is due: publish audio that waits for the rest of its chunk, show life."""
        if self._waiting_since_s is not None and now_s - self._waiting_since_s > self._chunk_s:
            self._publish_rest()
        if now_s - self.lane.published_at_s > KEEPALIVE_S:
            self.show_life()

    def _publish_rest(self) -> None:
        self._waiting_since_s = None
        rest = self._chunker.take_rest()
        if rest:
            self.lane.publish(ChunkKind.AUDIO, rest, captured_at_ns=self._now_ns())
