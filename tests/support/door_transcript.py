"""Plays golden transcripts of Kotoba's door: what clients send and the bus brings, and the answers.

A transcript is a header, which names the dialect, and then one line per message:

- `sent`: what the client sends: `text` as JSON, audio as its length;
- `bus`: an event of the stream, by the names of `tests.support.segments`;
- `received`: what the client must be told next, as JSON.

Nothing may be told that the transcript does not have.
"""

import json
from collections import deque
from pathlib import Path
from typing import Any, Final

from speechbus_contracts import AnyEvent
from speechbus_ingest.doors.kotoba_answers import KotobaAnswers, name_events
from speechbus_ingest.doors.kotoba_exchange import build_answers
from speechbus_ingest.doors.openai_answers import OpenAIAnswers
from speechbus_wire.kotoba import (
    Append,
    Commit,
    RequestError,
    decode_audio,
    encode_audio,
    encode_error,
    encode_error_body,
)
from speechbus_wire.kotoba_door import Clear, Update, build_default_session, decode_door_message
from speechbus_wire.kotoba_openai import Cleared, encode_event, encode_session_event
from speechbus_wire.kotoba_sessions import Asked, Dialect
from tests.support import segments

__all__ = ["FOLDER", "Player", "read_transcript"]

FOLDER: Final = Path(__file__).parents[1] / "transcripts" / "kotoba" / "door"
SESSION: Final = "sess_1"

Line = dict[str, Any]


def read_transcript(name: str) -> tuple[Dialect, list[Line]]:
    """The dialect and the lines of a transcript."""
    header, *lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(header)["dialect"], [json.loads(line) for line in lines]


class Player:
    """The pure parts of the door, put together as its connection does."""

    def __init__(self, dialect: Dialect) -> None:
        self.told: deque[Line] = deque()
        """What the client is told and the transcript has not named yet."""
        self._dialect: Dialect = dialect
        self._name_event = name_events(SESSION)
        self._answers: KotobaAnswers | OpenAIAnswers | None = None
        self._n_flushes = 0
        self._tell_session("created", build_default_session(dialect))

    def send(self, message: Line) -> None:
        """Take what the client sends."""
        if "audio" in message:
            message = message | {"audio": encode_audio(bytes(message["audio"]["bytes"]))}
        try:
            self._obey(json.dumps(message))
        except RequestError as error:
            body = encode_error_body(error.code, str(error), param=error.param)
            self._tell(encode_error(body["error"], event_id=self._name_event("er")))

    def take(self, line: Line) -> None:
        """Take an event of the bus."""
        arguments = {k: v for k, v in line.items() if k not in ("dir", "event")}
        event: AnyEvent = getattr(segments, line["event"])(**arguments)
        assert self._answers is not None
        for told in self._answers.take_event(event):
            self._tell(encode_event(told))

    def _obey(self, text: str) -> None:
        message = decode_door_message(text, self._dialect)
        match message:
            case Update():
                self._dialect = message.asked.dialect
                self._answers = build_answers(message.asked, self._name_event)
                self._tell_session("updated", message.asked)
            case Append():
                decode_audio(message.audio)
                assert self._answers is not None
                for told in self._answers.note_append(message.event_id):
                    self._tell(encode_event(told))
            case Commit() if isinstance(self._answers, OpenAIAnswers):
                self._n_flushes += 1
                for told in self._answers.note_commit(self._n_flushes):
                    self._tell(encode_event(told))
            case Commit():
                pass  # the stream ends, which the bus tells
            case Clear():
                self._tell(encode_event(Cleared(event_id=self._name_event("event"))))

    def _tell_session(self, kind: str, asked: Asked) -> None:
        is_created = kind == "created"
        self._tell(
            encode_session_event(
                "created" if is_created else "updated",
                asked,
                event_id=self._name_event("tc" if is_created else "tu"),
                session_id=SESSION,
            )
        )

    def _tell(self, text: str) -> None:
        self.told.append(json.loads(text))
