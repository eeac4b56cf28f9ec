"""Kotoba's side of a session, with the faults of a script. Pure: messages and the clock in."""

from typing import Any, Final

import msgspec

from speechbus_simulator.actions import Action, Agenda, Close, fault_action
from speechbus_simulator.faults import SessionFaults
from speechbus_simulator.kotoba_settings import ENCODINGS, settle
from speechbus_simulator.recognition import LEAD_MS, Recognition, Said
from speechbus_simulator.samples import SampleReader
from speechbus_simulator.script import Fault, Script
from speechbus_wire import kotoba as wire

__all__ = ["KotobaStream"]

SETUP_S: Final = 10.0
"""The update must come within this (providers.md 1.4)."""
FAREWELL_S: Final = 5.0
"""Between `committed` and the close (providers.md 1.6)."""
SILENCE_MS: Final = 400
"""Default of `server_vad` in the vendor's samples."""
NORMAL: Final = 1000
POLICY: Final = 1008
GARBAGE: Final = '{"type":"conversation.item.input_audio_transcription.delta","delta":'
UNKNOWN: Final = '{"type":"simulated","event_id":""}'
TAIL: Final = " uh"
"""What a fault puts behind a turn's deltas, and not into its `completed`."""


class KotobaStream:
    """One session of one client.

    Args:
        script: what is said, and what goes wrong.
        session: its number, from 1.
        now_s: when it was opened.
    """

    def __init__(self, script: Script, *, session: int, now_s: float) -> None:
        self._script = script
        self._session = session
        self._opened_at_s = now_s
        self._faults = SessionFaults(script, session=session)
        self._settings: wire.Session | None = None
        self._samples = SampleReader("pcm_s16le")
        self._hearing: Recognition | None = None
        self._last_append: str | None = None
        self._said = ""
        self._said_until_ms = 0
        self._needs_space = False
        self._has_item = False
        self._held: list[wire.Completed] = []
        self._is_committed = False
        self._is_mute = self._faults.find("mute", 0) is not None
        self._is_over = False
        self._agenda = Agenda()
        self._send(now_s, wire.Created(event_id=f"sess-{session}-tc"), delay_ms=0)
        self._trip(now_s)

    def receive(self, message: str | bytes, *, now_s: float) -> None:
        """Take what the client sent; after an error, nothing more."""
        if self._is_over:
            return
        if isinstance(message, bytes):
            self._fail(now_s, "invalid_json", "Messages are text.")
            return
        try:
            self._obey(wire.decode_client_message(message), now_s)
        except wire.RequestError as error:
            self._fail(now_s, error.code, str(error), param=error.param)
        self._trip(now_s)

    def next_due_s(self) -> float | None:
        """When `take_due` has something; None: when the client sends something."""
        times_s = (self._setup_at_s, self._agenda.next_s())
        return min((at_s for at_s in times_s if at_s is not None), default=None)

    def take_due(self, *, now_s: float) -> list[Action]:
        """Return what is to be done now, in order."""
        if self._setup_at_s is not None and now_s >= self._setup_at_s:
            self._fail(now_s, "timeout_error", "The update did not come within 10 s.")
        return self._agenda.take(now_s)

    @property
    def _setup_at_s(self) -> float | None:
        is_due = self._settings is None and not self._is_over and not self._is_mute
        return self._opened_at_s + SETUP_S if is_due else None

    # --- what the client says ------------------------------------------------------------------

    def _obey(self, message: wire.ClientMessage, now_s: float) -> None:
        match message:
            case wire.SessionUpdate(session=session):
                self._set_up(session, now_s)
            case wire.Append(audio=audio, event_id=event_id):
                self._last_append = event_id
                self._hear(wire.decode_audio(audio), now_s)
            case wire.Commit():
                self._commit(now_s)

    def _set_up(self, asked: wire.Session, now_s: float) -> None:
        if self._settings is not None:
            raise wire.RequestError("invalid_event", "The session has its settings already.")
        session = settle(asked, is_old=self._faults.find("refuse_settings", 0) is not None)
        self._settings = session
        silence_ms = None
        if isinstance(session.turn_detection, wire.ServerVad):
            silence_ms = session.turn_detection.silence_duration_ms
            silence_ms = SILENCE_MS if silence_ms is None else silence_ms
        self._samples = SampleReader(ENCODINGS[session.input_audio_format])
        self._hearing = Recognition(
            self._script,
            sample_rate_hz=session.input_audio_sample_rate,
            ends_after_silence_ms=silence_ms,
        )
        event_id = f"sess-{self._session}-tu"
        self._send(now_s, wire.Updated(event_id=event_id, session=session), delay_ms=0)

    def _hear(self, audio: bytes, now_s: float) -> None:
        hearing = self._need_set_up()
        if self._is_committed:
            return
        if not self._has_item:
            self._has_item = True
            self._send(now_s, wire.ItemCreated(event_id=f"sess-{self._session}-cc"), delay_ms=0)
        samples = self._samples.read(audio)
        ahead_ms = hearing.ahead_ms(len(samples), since_s=now_s - self._opened_at_s)
        if self._script.is_real_time and ahead_ms > LEAD_MS:
            return
        before_ms = hearing.heard_ms
        for said in hearing.feed(samples):
            self._tell(said, now_s)
        every_ms = self._script.partial_ms
        if hearing.heard_ms // every_ms > before_ms // every_ms:
            self._send(now_s, self._delta(None, ""))

    def _commit(self, now_s: float) -> None:
        hearing = self._need_set_up()
        if self._is_committed:
            return
        self._is_committed = True
        for said in hearing.end_segment():
            self._tell(said, now_s)
        self._release(now_s)
        self._send(now_s, wire.Committed(event_id=f"sess-{self._session}-ic"))
        if not self._is_mute:
            latency_s = self._script.latency_ms / 1000
            self._agenda.add(now_s + latency_s + FAREWELL_S, Close(NORMAL))

    def _need_set_up(self) -> Recognition:
        if self._hearing is None:
            raise wire.RequestError("invalid_event", "The update comes before everything else.")
        return self._hearing

    # --- what is said --------------------------------------------------------------------------

    @property
    def _has_turns(self) -> bool:
        return self._settings is not None and isinstance(
            self._settings.turn_detection, wire.ServerVad
        )

    def _tell(self, said: Said, now_s: float) -> None:
        # Deltas are appended and cannot be taken back: the numbers of `echo` come at the end.
        if not said.is_final and self._script.mode == "echo":
            return
        text = said.text.removeprefix(self._said)
        if text:
            self._send(now_s, self._delta(said, text))
        self._said = said.text
        if not said.is_final:
            return
        if self._has_turns:
            if self._faults.find("tail_rewrite", said.end_ms):
                self._send(now_s, self._delta(said, TAIL))
            self._complete(said, now_s)
        self._said = ""
        self._needs_space = not self._has_turns

    def _complete(self, said: Said, now_s: float) -> None:
        start_ms, end_ms, processed_ms = self._times(said)
        item_id = self._item_id(said)
        if self._faults.find("other_id", said.end_ms):
            item_id = f"{item_id}_other"
        completed = wire.Completed(
            item_id=item_id,
            transcript=said.text,
            start_ms=start_ms,
            end_ms=end_ms,
            audio_processed_ms=processed_ms,
        )
        if self._faults.find("missing_final", said.end_ms):
            return
        if self._faults.find("reordered_final", said.end_ms) and not self._held:
            self._held.append(completed)
            return
        self._send(now_s, completed)
        if self._faults.find("duplicate_final", said.end_ms):
            self._send(now_s, completed)
        self._release(now_s)

    def _release(self, now_s: float) -> None:
        for completed in self._held:
            self._send(now_s, completed)
        self._held = []

    def _delta(self, said: Said | None, text: str) -> wire.Delta:
        start_ms, end_ms, processed_ms = self._times(said)
        if said is not None and start_ms is not None:
            start_ms = max(start_ms, self._said_until_ms)
            self._said_until_ms = said.end_ms
        if text and self._needs_space:
            # Without turns all text is one, and its words are apart.
            text, self._needs_space = f" {text}", False
        return wire.Delta(
            item_id=self._item_id(said),
            delta=text,
            start_ms=start_ms,
            end_ms=end_ms,
            audio_processed_ms=processed_ms,
        )

    def _item_id(self, said: Said | None) -> str | None:
        if not self._has_turns:
            return self._last_append
        return None if said is None else f"item_{self._session:x}_{said.index:x}"

    def _times(self, said: Said | None) -> tuple[int | None, int | None, int | None]:
        assert self._settings is not None
        assert self._hearing is not None
        if not self._settings.input_audio_transcription.timestamps:
            return None, None, None
        # An open segment may begin where the last one ended.
        if said is None:
            return None, None, self._hearing.resume_ms
        return said.start_ms, said.end_ms, said.end_ms if said.is_final else said.start_ms

    def _send(self, at_s: float, message: wire.Told, *, delay_ms: int | None = None) -> None:
        if not self._is_mute:
            latency_ms = self._script.latency_ms if delay_ms is None else delay_ms
            self._agenda.add(at_s + latency_ms / 1000, wire.encode_message(message))

    def _fail(self, now_s: float, code: str, message: str, *, param: str | None = None) -> None:
        body = wire.encode_error_body(code, message, param=param)
        self._end(now_s, wire.encode_error(body["error"]))

    def _end(self, now_s: float, error: str) -> None:
        self._is_over = True
        if not self._is_mute:
            self._agenda.add(now_s, error)
            self._agenda.add(now_s, Close(POLICY))

    # --- faults --------------------------------------------------------------------------------

    def _trip(self, now_s: float) -> None:
        """Do what a script plans for this much audio."""
        heard_ms = 0 if self._hearing is None else self._hearing.heard_ms
        for fault in self._faults.take_due(heard_ms):
            self._is_mute |= fault.kind == "mute"
            action = fault_action(fault, garbage=GARBAGE, unknown=UNKNOWN)
            error = _spell_error(fault)
            if action is not None:
                self._agenda.add(now_s, action)
            elif error is not None:
                self._end(now_s, error)


def _spell_error(fault: Fault) -> str | None:
    """Return an error event in the shape that the fault has; None: it is no error."""
    text = "The script says so."
    match fault.kind:
        case "error":
            body = wire.encode_error_body(fault.error_code, text)
            return wire.encode_error(body["error"])
        case "rate_limit_error":
            body = wire.encode_error_body("rate_limit_error", "Too many sessions.")
            return wire.encode_error(body["error"])
        case "string_error":
            return wire.encode_error("No available batch slot")
        case "top_level_error":
            event: dict[str, Any] = {"type": "error", "code": fault.error_code, "message": text}
        case "fal_error":
            event = {"type": "x-fal-error", "code": fault.error_code, "message": text}
        case _:
            return None
    return msgspec.json.encode(event).decode()
