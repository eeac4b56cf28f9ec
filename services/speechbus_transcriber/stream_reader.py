"""Gives a stream's audio to the session that listens, and obeys the markers in it.

Plain calls, no waiting: each chunk goes from the bus to the provider within the call that brought
it.
"""

import asyncio
import logging
from typing import Final

from speechbus_contracts import AudioChunk, ChunkKind, ContractError, decode_chunk
from speechbus_transcriber.audio_feed import AudioFeed
from speechbus_transcriber.audio_tail import AudioTail, Lost
from speechbus_transcriber.capture_times import CaptureTimes
from speechbus_transcriber.catch_up import CatchUp
from speechbus_transcriber.chunk_payloads import read_end_reason, read_language
from speechbus_transcriber.languages import Languages
from speechbus_transcriber.provider_session import ProviderSession
from speechbus_transcriber.stream_output import StreamOutput
from speechbus_transcriber.succession import Succession
from speechbus_transcriber.voice_judge import SoundCheck

__all__ = ["StreamReader"]

logger = logging.getLogger(__name__)

SOURCE_SILENT_S: Final = 2.5
"""Silence in which something may have been missed: the last chunks of a stream have no successor
whose number would tell. Longer than the keep-alive of a source that pauses."""
SOURCE_LOST_S: Final = 10.0
"""An ingest says something at least every 2 s for each stream it holds."""


class StreamReader:
    """The audio of one stream.

    Args:
        sessions: get it.
        output: of what they say.
        times: learns when ingest had which audio.
        catch_up: finds what did not come live.
        languages: of the stream, as far as they are known.
        stream_id: of the stream.
        behind_max: samples; when more than these wait, all but a second is left out.
        rate_hz: of the stream.
    """

    def __init__(
        self,
        sessions: Succession,
        output: StreamOutput,
        times: CaptureTimes,
        catch_up: CatchUp,
        languages: Languages,
        *,
        stream_id: str,
        behind_max: float,
        rate_hz: int,
    ) -> None:
        self.tail = AudioTail(start_sample=output.covered_sample)
        self._seen = 0
        self.is_reading = False
        self.is_stopped = False
        """Whether nothing shall be read any more."""
        self.lost: Lost | None = None
        """What lies behind the audio that was given; the listener has been asked to finish."""
        self.end_reason: str | None = None
        """Why the stream ends here, if it does; likewise."""
        self.sound: SoundCheck | None = None
        """Listens to all that is given from what is covered on; None: nobody wants to know."""
        self._sessions = sessions
        self._output = output
        self._times = times
        self._catch_up = catch_up
        self._languages = languages
        self._stream_id = stream_id
        self._behind_max = behind_max
        self._rate_hz = rate_hz
        self._is_language_due = False
        self._loop = asyncio.get_running_loop()
        self._heard_source_s = self._loop.time()

    @property
    def seen(self) -> int:
        """Samples of the stream that are known to have been there, stored still or not."""
        return max(self._seen, self.tail.end)

    def check_source(self, now_s: float) -> None:
        """Look for audio that came by unseen; end the stream when its ingest is gone."""
        silent_s = now_s - self._heard_source_s
        catch_up = self._catch_up
        if not self.is_reading or catch_up.is_due or catch_up.is_looking or self.tail.is_missing:
            return  # what is known to be stored is read to its end first
        if silent_s > SOURCE_LOST_S:
            self._end(reason="source_lost")
        elif silent_s > SOURCE_SILENT_S and catch_up.fetched_at_s < self._heard_source_s:
            catch_up.request()

    def excuse_source(self) -> None:
        """The bus was away: silence so far says nothing about the ingest."""
        self._heard_source_s = self._loop.time()
        self._catch_up.restart()

    def receive(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        """Take one message of the audio subject."""
        self._heard_source_s = self._loop.time()
        try:
            chunk = decode_chunk(payload)
        except ContractError:
            logger.warning("a chunk broke the contract", extra={"stream_id": self._stream_id})
            return
        self.tail.add(chunk)
        if self.is_reading:
            self.read()

    def read(self) -> bool:
        """Give the provider all audio that is in order; False: it takes no more now."""
        tail = self.tail
        sessions = self._sessions
        session = sessions.listener
        if session is None:
            return False
        driver = session.driver
        feed = session.feed
        while self.is_reading:
            if feed.waiting:
                feed.send_waiting()
            elif sessions.is_turn_due:
                sessions.turn(tail.position)
                return self.read()
            else:
                item = tail.take()
                if item is None:
                    break
                if isinstance(item, Lost):
                    self._lose(item, feed)
                elif item.kind is ChunkKind.AUDIO:
                    self._give(item, feed)
                else:
                    self._obey(item, session)
            if driver.is_congested or self._output.is_full:
                self.is_reading = False
        if tail.is_missing and self.is_reading:
            self._catch_up.request()
        return self.is_reading

    def _give(self, chunk: AudioChunk, feed: AudioFeed) -> None:
        tail = self.tail
        self._times.note(tail.position, chunk.captured_at_ns)
        n_behind = tail.n_behind
        pcm = memoryview(chunk.payload)
        if self.sound is not None:
            self.sound.feed(pcm)
        # Also what this tail has not seen yet: after a break it is read anew, 3 s at a time.
        feed.give(pcm, n_behind=self.seen - tail.position)
        if self._sessions.is_successor_waiting:
            self._sessions.hear(pcm)
        if n_behind > self._behind_max:
            self._lose(tail.jump(tail.position + n_behind - self._rate_hz), feed)

    def _lose(self, lost: Lost, feed: AudioFeed) -> None:
        """Have the session end before a gap; the next one begins behind it."""
        self.lost = lost
        self.is_reading = False
        feed.finish()

    def _obey(self, chunk: AudioChunk, session: ProviderSession) -> None:
        match chunk.kind:
            case ChunkKind.END:
                self._end(reason=read_end_reason(chunk))
            case ChunkKind.FLUSH:
                session.flushes.append((chunk.number, self.tail.position))
                session.feed.flush()
            case ChunkKind.RECONFIGURE:
                self._change_language(read_language(chunk), session)
            case _:
                pass  # silence: the ingest is alive, which `_receive` has noted

    def _change_language(self, language: str | None, session: ProviderSession) -> None:
        self._languages.forget(self._output.covered_sample)
        self._languages.change(self.tail.position, language)
        if language != session.context.language:
            self._is_language_due = True
            self.is_reading = False
            self.go_on()

    def _end(self, *, reason: str) -> None:
        self.end_reason = reason
        self.is_reading = False
        if self._sessions.listener is not None:
            self._sessions.listener.feed.finish()

    def go_on(self) -> None:
        """Read audio, if there is somebody to take it, or do what waits for its turn."""
        sessions = self._sessions
        sessions.listen(self.tail.position)
        listener, speaker = sessions.listener, sessions.speaker
        if (
            listener is None
            or speaker is None
            or listener.failure is not None
            or speaker.failure is not None
            or self.lost is not None
            or self.end_reason is not None
            or self.is_stopped
        ):
            self.is_reading = False
            return
        if self._is_language_due:
            # While one session follows another, a third has to wait.
            if listener is speaker:
                self._is_language_due = False
                position = self.tail.position
                sessions.change_language(self._languages.at(position), position)
        elif not listener.driver.is_congested and not self._output.is_full:
            self.is_reading = True
            self.read()
            if self.is_reading:
                self._catch_up.remind()

    def rewind(self, *, for_sound: bool = False) -> None:
        """Read again from what is covered; `for_sound`: and listen whether anybody may speak."""
        if for_sound or self.sound is not None:
            self.sound = SoundCheck(sample_rate_hz=self._rate_hz)
        self._seen = self.seen
        self.tail = AudioTail(start_sample=self._output.covered_sample, epochs=self.tail.epochs)
        self._times.rewind()
        self._catch_up.restart()
        self.lost = None
        self.end_reason = None  # an end marker will be read again
        self._is_language_due = False
