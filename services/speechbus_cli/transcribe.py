"""`speechbus transcribe`: audio files through the native door."""

import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from speechbus_cli.audio_file import AudioFile, open_audio, read_audio
from speechbus_cli.audio_input import STDIN_RATE_HZ, pace_chunks, read_stdin
from speechbus_cli.client import (
    Received,
    StreamRequest,
    build_door_urls,
    is_loopback,
    stream_audio,
)
from speechbus_cli.door_messages import DoorQueued, DoorReady
from speechbus_cli.errors import ExitCode, FailedError, InterruptedCommandError
from speechbus_cli.running import StopSignals, run_until_stopped
from speechbus_cli.screen import Screen, write_json_line
from speechbus_cli.settings import DEV_KEY, INGEST_URL, KEY
from speechbus_cli.transcript import Transcript, format_clock, printable
from speechbus_contracts import StreamWaiting

__all__ = ["split_names", "transcribe"]

STDIN: Final = "-"
_LINES_SHOWN: Final = frozenset({"final", "correction", "translation", "missing", "gap"})
_BYTES_PER_SAMPLE: Final = 2
_TRANSLATION_NOTE: Final = (
    "note: no translation came, nor the word that there is none: does a translator run?"
    " (`speechbus dev --translate`, or `speechbus translator --help`)"
)


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    key: str | None
    language: str | None
    target_languages: tuple[str, ...]
    providers: tuple[str, ...]
    is_paced: bool
    is_json: bool


class _Session:
    """What the person sees of one file."""

    def __init__(self, screen: Screen, *, is_json: bool, total_s: float | None) -> None:
        self.transcript = Transcript()
        self.sent_s = 0.0
        self._screen = screen
        self._is_json = is_json
        self._total_s = total_s
        self._state = "connecting"

    def receive(self, received: Received) -> None:
        """Show one message."""
        match received.event:
            case None:
                line = None
            case DoorReady():
                self._state, line = "streaming", None
            case DoorQueued(message=message):
                self._state, line = printable(message) or "waiting for a worker", None
            case StreamWaiting(is_over=False):
                self._state, line = "waiting for a provider that has room", None
            case event:
                self._state = "streaming"
                line = self.transcript.apply(event)
        if self._is_json:
            write_json_line(sys.stdout.buffer, received.raw)
            return
        self.refresh()  # first, or the partial would stand below its final for a moment
        if line is not None and line.kind in _LINES_SHOWN:
            self._screen.print_line(line.text, kind=line.kind)

    def refresh(self) -> None:
        """Redraw what is replaced in place."""
        if self._is_json:
            return
        lines = self.transcript.open_lines
        position = format_clock(int(1_000 * self.sent_s))
        if self._total_s:
            share = min(self.sent_s / self._total_s, 1.0)
            total = format_clock(int(1_000 * self._total_s))
            lines.append(f"{self._state}: {position} of {total} sent ({share:.0%})")
        else:
            lines.append(f"{self._state}: {position} sent")
        self._screen.replace(lines)


@click.command(
    epilog="""\b
Examples:
  speechbus transcribe talk.mp3
  speechbus transcribe --fast --json one.wav two.webm > events.jsonl
  arecord -f S16_LE -r 16000 | speechbus transcribe -
\b
Environment:
  SPEECHBUS_URL   like --url
  SPEECHBUS_KEY   like --key; unlike it, not visible in the list of processes
\b
Exit codes: 0 done, 1 failed or a part of the audio was not transcribed, 2 wrong arguments,
3 cannot connect, 4 key not accepted, 130 interrupted.
"""
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--url",
    envvar=INGEST_URL,
    default="ws://127.0.0.1:8080",
    show_default=True,
    help="Server (ingest) to send to; several with commas between: where to go on when one fails.",
)
@click.option(
    "--key",
    envvar=KEY,
    default=None,
    help="Credential.  [default: that of `speechbus dev`, if URL is this machine]",
)
@click.option("--language", default=None, metavar="TAG", help="Speech is in this language (en).")
@click.option(
    "--translate",
    default="",
    metavar="TAGS",
    help="Translate into these (es,de); Palabra does, for others a translator must run.",
)
@click.option("--providers", default="", metavar="NAMES", help="Providers in the order to try.")
@click.option("--fast", is_flag=True, help="As fast as the server takes it; default: as spoken.")
@click.option("--json", "is_json", is_flag=True, help="Print each event as one line of JSON.")
def transcribe(
    files: tuple[str, ...],
    *,
    url: str,
    key: str | None,
    language: str | None,
    translate: str,
    providers: str,
    fast: bool,
    is_json: bool,
) -> int:
    """Transcribe audio files, one after the other.

    FILE is WAV, WebM, Ogg, MP3, AAC or FLAC, or - for raw pcm_s16le mono of 16 kHz on standard
    input.
    A terminal shows what is being understood while it is spoken; a pipe gets final lines only.
    Ctrl-C ends the audio there and waits shortly for the last words.
    """
    is_local = all(map(is_loopback, build_door_urls(url)))
    options = _Options(
        url=url,
        # A line end of a file or of another system is no part of it.
        key=(key or "").strip() or (DEV_KEY if is_local else None),
        language=language,
        target_languages=split_names(translate),
        providers=split_names(providers),
        is_paced=not fast,
        is_json=is_json,
    )
    sources = _open_all(files)
    is_whole = run_until_stopped(lambda signals: _transcribe_all(sources, options, signals))
    return ExitCode.DONE if is_whole and len(sources) == len(files) else ExitCode.FAILED


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _open_all(names: Sequence[str]) -> list[AudioFile | None]:
    """Look at each file (None: standard input), say what is wrong, and leave those out."""
    sources: list[AudioFile | None] = []
    for name in names:
        try:
            sources.append(None if name == STDIN else open_audio(Path(name)))
        except FailedError as error:
            _say_failure(error)
    return sources


def _say_failure(error: FailedError) -> None:
    """Say it, where others follow that may be well."""
    click.echo(f"speechbus: {error}", err=True)


async def _transcribe_all(
    sources: list[AudioFile | None], options: _Options, signals: StopSignals
) -> bool:
    """Transcribe each source (None: standard input); tell whether all audio of all was."""
    is_whole = True
    for source in sources:
        try:
            with Screen(sys.stderr if options.is_json else sys.stdout) as screen:
                if len(sources) > 1 and not options.is_json:
                    screen.print_line(STDIN if source is None else str(source.path), kind="note")
                transcript = await _transcribe_one(source, options, screen, signals)
        except FailedError as error:
            _say_failure(error)
            if signals.asked.is_set():
                raise InterruptedCommandError("Interrupted.") from None
            is_whole = False
            continue
        is_whole = is_whole and not transcript.gaps
        if transcript.providers and not options.is_json:
            names = printable(", then ".join(transcript.providers))
            click.echo(f"transcribed by {names}", err=True)
        if signals.asked.is_set():
            raise InterruptedCommandError("Interrupted.")
        if not transcript.finals and not transcript.gaps:
            click.echo("no speech was recognized", err=True)
        elif options.target_languages and not transcript.translations + transcript.untranslated:
            click.echo(_TRANSLATION_NOTE, err=True)
    return is_whole


async def _transcribe_one(
    source: AudioFile | None, options: _Options, screen: Screen, signals: StopSignals
) -> Transcript:
    session = _Session(
        screen, is_json=options.is_json, total_s=source.seconds if source is not None else None
    )
    rate = source.sample_rate_hz if source is not None else STDIN_RATE_HZ
    problems: list[str] = []
    chunks = (
        read_audio(source, on_problem=problems.append)
        if source is not None
        else read_stdin(sys.stdin.buffer)
    )
    if options.is_paced:
        chunks = pace_chunks(chunks, sample_rate_hz=rate, on_start=None)
    closed = await stream_audio(
        options.url,
        key=options.key,
        request=StreamRequest(
            sample_rate_hz=rate,
            language=options.language,
            target_languages=options.target_languages,
            providers=options.providers,
        ),
        audio=_count(chunks, session, sample_rate_hz=rate),
        receive=session.receive,
        stop=signals.asked,
    )
    if closed is not None and closed.reason == "no_provider":
        raise FailedError(
            "No transcriber here has a provider for this stream: look at --providers, --language."
        )
    if closed is not None and closed.reason != "end":
        raise FailedError(
            f"The stream was closed early ({closed.reason}):"
            f" {format_clock(closed.audio_ms - closed.gap_ms)} of"
            f" {format_clock(int(1_000 * session.sent_s))} sent were transcribed; run it again, and"
            " if it happens again look at the log of ingest."
        )
    if source is None and not session.sent_s and not signals.asked.is_set():
        raise FailedError("Nothing came on standard input: does the program before the pipe run?")
    if problems and source is not None:
        raise FailedError(
            f"{source.path} was transcribed up to where it cannot be decoded: {problems[0]}."
        )
    return session.transcript


async def _count(
    chunks: AsyncIterator[bytes], session: _Session, *, sample_rate_hz: int
) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        session.sent_s += len(chunk) / (_BYTES_PER_SAMPLE * sample_rate_hz)
        session.refresh()
