"""Replays golden transcripts of a provider's protocol against its adapter, in both directions.

A transcript is a header and then one line per message, each with `at_ms` on the driver's clock:

- `asked`: what the driver was asked to do: `audio` (of `ms`, frame-numbered), `flush`, `finish`,
  or `wait` until then;
- `sent`: what the adapter must send: `text` (compared as JSON), `binary` (length and hash), or
  `http` and `websocket` (what it connects to; secrets are those of the test);
- `received`: what comes from the provider: `text`, `binary`, `response` or `close`.

Nothing may be sent that the transcript does not have.
"""

import base64
import hashlib
import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from speechbus_transcriber.providers.interface import (
    HttpExchange,
    HttpResponse,
    ProviderError,
    ProviderProtocol,
    Result,
    WebSocketConnect,
)
from tests.support.frame_numbers import build_frames

__all__ = ["read_golden", "replay", "transcripts_of"]

FOLDER: Final = Path(__file__).parents[1] / "transcripts"
FRAME_MS: Final = 20

Line = dict[str, Any]


def transcripts_of(folder: str) -> list[str]:
    """Names of the transcripts of a folder, such as `palabra/client`."""
    return sorted(path.stem for path in (FOLDER / folder).glob("*.jsonl"))


def read_golden(folder: str, name: str) -> list[Line]:
    """The lines of a transcript, without its header."""
    text = (FOLDER / folder / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()[1:]]


def describe(message: str | bytes) -> Line:
    """A message as transcripts have it: audio as length and hash, never as content."""
    if isinstance(message, bytes):
        return {"binary": describe_audio(message)}
    text = json.loads(message)
    if "audio" in text:
        text["audio"] = describe_audio(base64.b64decode(text["audio"], validate=True))
    return {"text": text}


def describe_audio(pcm: bytes) -> Line:
    """Length and hash."""
    return {"bytes": len(pcm), "sha256": hashlib.sha256(pcm).hexdigest()}


def replay(protocol: ProviderProtocol, lines: list[Line]) -> tuple[list[Result], str | None]:
    """Play a conversation and check what the adapter sends.

    Returns:
        The results, and `<class>:<code>` of the error that ended it.
    """
    player = _Player(protocol)
    try:
        for line in lines:
            player.play(line)
    except ProviderError as error:
        player.results += protocol.results_received()
        player.check_silent()
        return player.results, f"{type(error).__name__}:{error.code}"
    player.check_silent()
    return player.results, None


class _Player:
    def __init__(self, protocol: ProviderProtocol) -> None:
        self.results: list[Result] = []
        self._protocol = protocol
        self._sent: deque[Line] = deque()
        self._next_frame = 1
        self._now_s = 0.0
        self._is_opening = False

    def play(self, line: Line) -> None:
        """Go on to one line."""
        at_s = line["at_ms"] / 1000
        if self._is_opening and "response" not in line:
            self._is_opening = False
            self._keep(self._protocol.messages_to_open())
        self._wait(at_s, is_inclusive=line["dir"] == "sent" and not self._sent)
        match line["dir"]:
            case "asked":
                self._ask(line)
            case "sent" if "http" in line or "websocket" in line:
                self._check_connect(line)
            case "sent":
                expected = {k: v for k, v in line.items() if k not in ("at_ms", "dir")}
                assert self._sent, f"nothing was sent in place of {expected}"
                assert self._sent.popleft() == expected
            case _:
                self._receive(line)
        self.results += self._protocol.results_received()

    def check_silent(self) -> None:
        """Nothing was sent beyond the transcript."""
        assert not self._sent

    def _wait(self, at_s: float, *, is_inclusive: bool) -> None:
        while True:
            deadline_s = self._protocol.next_deadline_s()
            # Sums of seconds miss the millisecond by a rounding error.
            margin_s = 1e-6 if is_inclusive else -1e-6
            if deadline_s is None or deadline_s > at_s + margin_s:
                break
            self._now_s = max(self._now_s, deadline_s)
            self._keep(self._protocol.handle_deadline(now_s=self._now_s))
        self._now_s = at_s

    def _keep(self, messages: Sequence[str | bytes]) -> None:
        self._sent += map(describe, messages)
        self.results += self._protocol.results_received()

    def _ask(self, line: Line) -> None:
        protocol, now_s = self._protocol, self._now_s
        match line["action"]:
            case "audio":
                n_frames = line["ms"] // FRAME_MS
                pcm = build_frames(self._next_frame, n_frames)
                self._next_frame += n_frames
                self._keep(protocol.audio_to_send(memoryview(pcm), now_s=now_s))
            case "flush":
                self._keep(protocol.flush(now_s=now_s))
            case "finish":
                self._keep(protocol.finish(now_s=now_s))
            case action:
                assert action == "wait"

    def _check_connect(self, line: Line) -> None:
        request = self._protocol.connect_request()
        match request:
            case HttpExchange():
                assert line["http"] == {
                    "method": request.method,
                    "url": request.url,
                    "headers": dict(request.headers),
                    "body": json.loads(request.body) if request.body else None,
                }
            case WebSocketConnect():
                assert line["websocket"] == {
                    "url": request.url,
                    "headers": dict(request.headers),
                }
                self._is_opening = True
            case _:
                raise AssertionError(type(request).__name__)

    def _receive(self, line: Line) -> None:
        protocol, now_s = self._protocol, self._now_s
        if "close" in line:
            protocol.receive_close(line["close"]["code"], now_s=now_s)
        elif "response" in line:
            response = line["response"]
            protocol.receive_response(
                HttpResponse(
                    status=response["status"],
                    body=json.dumps(response["body"]).encode(),
                    retry_after_s=response.get("retry_after_s"),
                ),
                now_s=now_s,
            )
        else:
            self._keep(protocol.receive_message(json.dumps(line["text"]), now_s=now_s))
