"""Plays golden transcripts against the simulators, in both directions.

A transcript's header has the simulator's `script`, for Palabra the stream's `query`, and
`until_ms`. Its lines are those of `tests.support.golden`, seen from the client: `sent` is fed to
the simulator, `received` is what it must say, and when. Audio is numbered frames, or zeros.

`python -m tests.support.simulator_golden` writes what the simulators say into all transcripts
again; read the difference before you keep it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast, get_args
from urllib.parse import parse_qsl

from speechbus_simulator.actions import Action, Close, SimulatedStream
from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.palabra import PalabraStream
from speechbus_simulator.script import Provider, parse_script
from speechbus_wire.kotoba import encode_audio
from speechbus_wire.palabra import parse_stream_parameters
from tests.support.frame_numbers import build_frames
from tests.support.golden import FOLDER, Line, describe_audio

__all__ = ["TRANSCRIPTS", "play", "read_transcript"]

TRANSCRIPTS: Final = sorted(FOLDER.glob("*/simulator/*.jsonl"))
FRAME_BYTES: Final = 640
"""20 ms at 16 kHz, the rate of all transcripts."""


def read_transcript(path: Path) -> tuple[Line, list[Line]]:
    """Header and lines."""
    header, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return header, lines


def play(header: Line, lines: list[Line]) -> list[Line]:
    """Send what the client sends; return the whole conversation as it went."""
    stream, audio, played = _open(header), _Audio(), list[Line]()
    for line in lines:
        if line["dir"] == "sent":
            played += _until(stream, line["at_ms"])
            played.append(line)
            stream.receive(audio.spell(line), now_s=line["at_ms"] / 1000)
    return [*played, *_until(stream, header["until_ms"])]


def _open(header: Line) -> SimulatedStream:
    provider = cast(Provider, header["provider"])
    assert provider in get_args(Provider)
    script = parse_script(header["script"].encode(), provider=provider)
    if provider == "kotoba":
        return KotobaStream(script, session=1, now_s=0.0)
    parameters = parse_stream_parameters(dict(parse_qsl(header["query"])))
    return PalabraStream(script, session=1, parameters=parameters, now_s=0.0)


class _Audio:
    def __init__(self) -> None:
        self._next_frame = 1

    def spell(self, line: Line) -> str | bytes:
        """Return the message of a line, with the audio that it describes."""
        if "binary" in line:
            return self._find(line["binary"])
        message: dict[str, Any] = dict(line["text"])
        if "audio" in message:
            message["audio"] = encode_audio(self._find(message["audio"]))
        return json.dumps(message)

    def _find(self, described: Line) -> bytes:
        n_frames = described["bytes"] // FRAME_BYTES
        numbered = build_frames(self._next_frame, n_frames)
        if describe_audio(numbered) == described:
            self._next_frame += n_frames
            return numbered
        silence = bytes(described["bytes"])
        assert describe_audio(silence) == described
        return silence


def _until(stream: SimulatedStream, until_ms: int) -> Iterator[Line]:
    """What is done until then."""
    while (due_s := stream.next_due_s()) is not None and due_s <= until_ms / 1000 + 1e-6:
        for action in stream.take_due(now_s=due_s):
            yield {"at_ms": round(due_s * 1000), "dir": "received", **_describe(action)}
            if not isinstance(action, str):
                return


def _describe(action: Action) -> Line:
    match action:
        case str():
            try:
                return {"text": json.loads(action)}
            except json.JSONDecodeError:
                return {"garbage": action}
        case Close(code=code):
            return {"close": {"code": code, "reason": ""}}
        case _:
            return {"end": type(action).__name__}


def _write_all() -> None:
    for path in TRANSCRIPTS:
        header, lines = read_transcript(path)
        spelled = [
            json.dumps(line, separators=(",", ":")) for line in [header, *play(header, lines)]
        ]
        path.write_text("\n".join([*spelled, ""]), encoding="utf-8")


if __name__ == "__main__":
    _write_all()
