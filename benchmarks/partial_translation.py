"""What translating partials sends to the engine, with and without frozen prefixes.

    python -m benchmarks.partial_translation [FILE...]

Plays recordings (by default those of the demo, one after the other as one stream) to the built-in
engine, takes the partials that it gives, in real time, and counts the words and characters that an
engine gets of them: each partial whole, or its settled pieces once and only the rest again. Counts,
not times: a busy machine gives fewer partials, and both columns then count the same ones.
"""

import argparse
import asyncio
import json
import tempfile
import wave
from itertools import groupby
from pathlib import Path
from typing import Final

from speechbus_contracts import SegmentPartial
from speechbus_translator.prefix import Prefix
from tests.support.frame_client import Received, stream_frames
from tests.support.system import System

__all__ = ["main"]

RECORDINGS: Final = Path(".cache/speech/librivox-austen")
FRAME_BYTES: Final = 640
PAUSE_FRAMES: Final = 60


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(RECORDINGS.glob("*.wav")))
    files: list[Path] = parser.parse_args().files
    if not files:
        parser.error(f"no recordings in {RECORDINGS}: run `make speech`, or name WAV files")
    with tempfile.TemporaryDirectory() as folder:
        partials = asyncio.run(_collect(Path(folder), files))
    segments = [list(each) for _, each in groupby(partials, key=lambda p: p.transcription_id)]
    for name, at_least in (("all segments", 0), ("of more than 12 words", 13)):
        chosen = [each for each in segments if len(each[-1].text.split()) >= at_least]
        print(json.dumps({"segments": name, **_count(chosen)}))


def _count(segments: list[list[SegmentPartial]]) -> dict[str, float]:
    whole: list[str] = []
    sent: list[str] = []
    for partials in segments:
        prefix = Prefix()
        for partial in partials:
            whole.append(partial.text)
            grown = prefix.grow(partial.text)
            known = sum(a == b for a, b in zip(prefix.pieces, grown.pieces, strict=False))
            sent += [*grown.pieces[known:], *([grown.tail] if grown.tail else [])]
            prefix = grown
    n_whole, n_sent = (sum(len(text.split()) for text in texts) for texts in (whole, sent))
    return {
        "n": len(segments),
        "partials": len(whole),
        "words_whole": n_whole,
        "words_frozen": n_sent,
        "characters_whole": sum(map(len, whole)),
        "characters_frozen": sum(map(len, sent)),
        "words_saved_percent": round(100 * (1 - n_sent / max(1, n_whole)), 1),
    }


async def _collect(folder: Path, files: list[Path]) -> list[SegmentPartial]:
    pcm = b"".join(_read(path) + bytes(FRAME_BYTES * PAUSE_FRAMES) for path in files)
    received: Received
    with System(folder, transcriber_settings={"PROVIDERS": "local"}) as system:
        received = await stream_frames(
            system.ingest.url,
            system.key,
            n_frames=len(pcm) // FRAME_BYTES,
            hello={"language": "en", "providers": ["local"]},
            build=lambda first, n: pcm[(first - 1) * FRAME_BYTES : (first - 1 + n) * FRAME_BYTES],
        )
    return [event for event in received.events if isinstance(event, SegmentPartial)]


def _read(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        pcm: bytes = file.readframes(file.getnframes())
        return pcm


if __name__ == "__main__":
    main()
