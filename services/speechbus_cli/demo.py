"""`speechbus dev --demo`: an audio book's passage through the native door, shown as it is heard."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from speechbus_cli.audio_file import AudioFile, open_audio, read_audio
from speechbus_cli.audio_input import pace_chunks
from speechbus_cli.client import Received, StreamRequest, stream_audio
from speechbus_cli.door_messages import DoorQueued, DoorReady
from speechbus_cli.errors import FailedError
from speechbus_cli.screen import Screen
from speechbus_cli.speech import Recording, Recordings, fetch_recordings
from speechbus_cli.transcript import Transcript, printable
from speechbus_cli.word_errors import WordErrors, count_word_errors
from speechbus_contracts import SegmentFinal, SegmentPartial, TurnStarted

__all__ = ["Clip", "DemoOptions", "Hearing", "arrange_clips", "describe_hearing", "play_demo"]

FIRST_CLIP: Final = "0920"
"""The sentence that the local engine recognizes best."""
PAUSE_MS: Final = 1_200
"""Between sentences: turn detection ends a turn after 600 ms without speech."""
PAGE_UP_S: Final = 60.0
"""How long the page stays when nobody sits at a terminal to press Ctrl-C."""
LOCAL_ENGINE: Final = "local"
_HONESTY: Final = (
    "About this text: the built-in engine (PocketSphinx) gets about one word in two wrong in"
    " general, one in four of clear US read speech; it proves that the pipe works and is no"
    " product. A better engine comes with a provider's key."
)
_LINES_SHOWN: Final = frozenset({"final", "correction", "translation", "missing", "gap"})


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the demo is played."""

    cache: Path
    """Folder of the recordings."""
    is_once: bool
    """End after the first passage."""
    target_languages: tuple[str, ...] = ()
    """Translations to show."""


class Clip(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence within the passage."""

    audio: AudioFile
    said: str
    start_ms: int
    """Where it begins in the stream."""
    end_ms: int


class Hearing:
    """What came back of one passage, and how soon."""

    def __init__(self) -> None:
        self.transcript = Transcript()
        self.is_local = False
        self.start_s: float | None = None
        """When the stream's first sample was spoken, on the event loop's clock."""
        self.speech_at_ms: int | None = None
        self.first_partial_s: float | None = None
        self._finals: dict[str, SegmentFinal] = {}

    def begin(self, at_s: float) -> None:
        """Note when the first sample was spoken."""
        self.start_s = at_s

    def note(self, received: Received) -> None:
        """Keep what the summary needs of one message."""
        match received.event:
            case TurnStarted(at_ms=at_ms) if self.speech_at_ms is None:
                self.speech_at_ms = at_ms
            case SegmentPartial() | SegmentFinal() as segment:
                # Engines may give a short sentence's final without any partial.
                if self.first_partial_s is None:
                    self.first_partial_s = received.at_s
                if self.speech_at_ms is None:
                    self.speech_at_ms = segment.start_ms
                self.is_local = segment.provider == LOCAL_ENGINE
                if isinstance(segment, SegmentFinal):
                    self._keep(segment)
            case _:
                pass

    def heard_in(self, clip: Clip) -> str:
        """Return the text of the finals whose middle lies in the clip, or in the pause behind."""
        until_ms = clip.end_ms + PAUSE_MS
        texts = [
            final.text
            for final in sorted(self._finals.values(), key=lambda final: final.start_ms)
            if clip.start_ms <= (final.start_ms + final.end_ms) // 2 < until_ms
        ]
        return " ".join(texts)

    def delay_s(self) -> float | None:
        """Return how long after the first speech the first text came; None: no text."""
        if self.start_s is None or self.first_partial_s is None or self.speech_at_ms is None:
            return None
        return self.first_partial_s - self.start_s - self.speech_at_ms / 1_000

    def _keep(self, final: SegmentFinal) -> None:
        known = self._finals.get(final.transcription_id)
        if known is None or known.revision < final.revision:
            self._finals[final.transcription_id] = final


def arrange_clips(recordings: Sequence[Recording]) -> tuple[Clip, ...]:
    """Put the sentences into one passage: the best recognized first, then on in the book.

    Raises:
        FailedError: a recording cannot be read.
    """
    first = next(
        (at for at, recording in enumerate(recordings) if FIRST_CLIP in recording.path.stem), 0
    )
    clips: list[Clip] = []
    at_ms = 0
    for recording in (*recordings[first:], *recordings[:first]):
        audio = open_audio(recording.path)
        assert audio.seconds is not None  # it is a WAV file
        end_ms = at_ms + int(1_000 * audio.seconds)
        clips.append(Clip(audio=audio, said=recording.transcript, start_ms=at_ms, end_ms=end_ms))
        at_ms = end_ms + PAUSE_MS
    return tuple(clips)


async def play_demo(options: DemoOptions, *, url: str, key: str, screen: Screen) -> None:
    """Play the passage, on a terminal until cancelled.

    Args:
        options: what to play, and how often.
        url: of the server.
        key: credential for its door.
        screen: shows the transcript.

    Raises:
        FailedError: the recordings cannot be fetched, or the stream was refused.
        CannotConnectError: ingest does not answer.
    """
    recordings: Recordings = await asyncio.to_thread(fetch_recordings, options.cache)
    clips = arrange_clips(recordings.recordings)
    while True:
        screen.print_line("")
        screen.print_line(f"Playing {recordings.reader}.")
        hearing = await _play_passage(clips, options, url=url, key=key, screen=screen)
        for line in describe_hearing(clips, hearing):
            screen.print_line(line)
        if options.is_once:
            return
        if not screen.is_terminal:
            screen.print_line(f"The page stays up for {PAGE_UP_S:.0f} s.")
            await asyncio.sleep(PAGE_UP_S)
            return
        screen.print_line("Once more, for the page; end with Ctrl-C.", kind="note")


async def _play_passage(
    clips: Sequence[Clip], options: DemoOptions, *, url: str, key: str, screen: Screen
) -> Hearing:
    hearing = Hearing()
    rate = clips[0].audio.sample_rate_hz

    def receive(received: Received) -> None:
        hearing.note(received)
        match received.event:
            case None | DoorReady():
                return
            case DoorQueued():
                screen.print_line("Waiting for a transcriber that has room.", kind="note")
            case event:
                line = hearing.transcript.apply(event)
                screen.replace(hearing.transcript.open_lines)
                if line is not None and line.kind in _LINES_SHOWN:
                    screen.print_line(line.text, kind=line.kind)

    with screen:
        closed = await stream_audio(
            url,
            key=key,
            request=StreamRequest(
                sample_rate_hz=rate, language="en", target_languages=options.target_languages
            ),
            audio=pace_chunks(
                _read_passage(clips, rate), sample_rate_hz=rate, on_start=hearing.begin
            ),
            receive=receive,
        )
    if closed is not None and closed.reason != "end":
        screen.print_line(f"The stream was closed early: {closed.reason}.", kind="gap")
    return hearing


async def _read_passage(clips: Sequence[Clip], rate: int) -> AsyncIterator[bytes]:
    """Yield all sentences; a pause follows each, so that each becomes a turn of its own."""
    for clip in clips:
        async for chunk in read_audio(clip.audio, on_problem=_refuse):
            yield chunk
        for _ in range(PAUSE_MS // 100):
            yield bytes(2 * rate // 10)


def _refuse(problem: str) -> None:
    raise FailedError(f"A recording of the demo is broken: {problem}. Delete .cache/speech.")


def describe_hearing(clips: Sequence[Clip], hearing: Hearing) -> list[str]:
    """Return the lines that compare what was said with what was heard."""
    lines = ["", "Said and heard:"]
    total = WordErrors(0, 0)
    for clip in clips:
        heard = hearing.heard_in(clip)
        errors = count_word_errors(clip.said, heard)
        total += errors
        lines.append(f"  said   {clip.said}")
        lines.append(f"  heard  {printable(heard) or '(nothing)'}")
        lines.append(f"         {errors.errors} of {errors.words} words wrong ({errors.rate:.0%})")
    lines.append(
        f"Word error rate of the passage: {total.rate:.0%} ({total.errors} of {total.words})."
    )
    delay_s = hearing.delay_s()
    if delay_s is not None:
        lines.append(f"first partial {delay_s:.1f} s after the first speech")
    if hearing.is_local:
        lines.append(_HONESTY)
    return lines
