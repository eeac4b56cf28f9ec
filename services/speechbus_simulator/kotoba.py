"""Kotoba's side of a session, with the faults of a script. Pure: messages and the clock in."""

from collections import deque
from typing import Final

from speechbus_simulator.actions import Action, Close, fault_action
from speechbus_simulator.recognition import Recognition, Said
from speechbus_simulator.script import Fault, FaultKind, Script
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
        self._faults = [fault for fault in script.faults if fault.session in {0, session}]
        self._settings: wire.Session | None = None
        self._hearing: Recognition | None = None
        self._last_append: str | None = None
        self._said = ""
        self._has_item = False
        self._is_committed = False
        self._is_mute = False
        self._is_over = False
        self._due: deque[tuple[float, Action]] = deque()
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
        setup_at_s = self._opened_at_s + SETUP_S if self._is_setup_due else None
        due_at_s = min((at_s for at_s, _ in self._due), default=None)
        return min((at_s for at_s in (setup_at_s, due_at_s) if at_s is not None), default=None)

    def take_due(self, *, now_s: float) -> list[Action]:
        """Return what is to be done now, in order."""
        if self._is_setup_due and now_s >= self._opened_at_s + SETUP_S:
            self._fail(now_s, "timeout_error", "The update did not come within 10 s.")
        actions = [action for at_s, action in self._due if at_s <= now_s]
        self._due = deque(item for item in self._due if item[0] > now_s)
        return actions

    @property
    def _is_setup_due(self) -> bool:
        return self._settings is None and not self._is_over

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

    def _set_up(self, session: wire.Session, now_s: float) -> None:
        if self._settings is not None:
            raise wire.RequestError("invalid_event", "The session has its settings already.")
        if session.input_audio_format != "pcm16":
            raise wire.RequestError(
                "invalid_parameters",
                "The simulator hears pcm16 only.",
                param="input_audio_format",
            )
        self._settings = session
        detection = session.turn_detection
        silence_ms = None
        if isinstance(detection, wire.ServerVad):
            silence_ms = detection.silence_duration_ms
            silence_ms = SILENCE_MS if silence_ms is None else silence_ms
        self._hearing = Recognition(
            self._script,
            sample_rate_hz=session.input_audio_sample_rate,
            ends_after_silence_ms=silence_ms,
        )
        event_id = f"sess-{self._session}-tu"
        self._send(now_s, wire.Updated(event_id=event_id, session=session), delay_ms=0)

    def _hear(self, pcm: bytes, now_s: float) -> None:
        hearing = self._need_set_up()
        if self._is_committed:
            return
        if not self._has_item:
            self._has_item = True
            self._send(now_s, wire.ItemCreated(event_id=f"sess-{self._session}-cc"), delay_ms=0)
        before_ms = hearing.heard_ms
        for said in hearing.feed(pcm):
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
        self._send(now_s, wire.Committed(event_id=f"sess-{self._session}-ic"))
        self._due.append((now_s + FAREWELL_S + self._script.latency_ms / 1000, Close(NORMAL)))

    def _need_set_up(self) -> Recognition:
        if self._hearing is None:
            raise wire.RequestError("invalid_event", "The update comes before everything else.")
        return self._hearing

    # --- what is said --------------------------------------------------------------------------

    def _tell(self, said: Said, now_s: float) -> None:
        # Deltas are appended and cannot be taken back: the numbers of `echo` come at the end.
        if not said.is_final and self._script.mode == "echo":
            return
        text = said.text[len(self._said) :]
        if text:
            self._send(now_s, self._delta(said, text))
        self._said += text
        if not said.is_final:
            return
        self._said = ""
        assert self._settings is not None
        if isinstance(self._settings.turn_detection, wire.ServerVad):
            times = self._times(said)
            completed = wire.Completed(
                item_id=self._item_id(said),
                transcript=said.text,
                start_ms=times[0],
                end_ms=times[1],
                audio_processed_ms=times[2],
            )
            self._send(now_s, completed)
            if self._find("duplicate_final", said.end_ms):
                self._send(now_s, completed)

    def _delta(self, said: Said | None, text: str) -> wire.Delta:
        start_ms, end_ms, processed_ms = self._times(said)
        return wire.Delta(
            item_id=self._item_id(said),
            delta=text,
            start_ms=start_ms,
            end_ms=end_ms,
            audio_processed_ms=processed_ms,
        )

    def _item_id(self, said: Said | None) -> str | None:
        assert self._settings is not None
        if not isinstance(self._settings.turn_detection, wire.ServerVad):
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
            self._due.append((at_s + latency_ms / 1000, wire.encode_message(message)))

    def _fail(self, now_s: float, code: str, message: str, *, param: str | None = None) -> None:
        self._is_over = True
        body = wire.encode_error_body(code, message, param=param)
        self._due.append((now_s, wire.encode_error(body["error"])))
        self._due.append((now_s, Close(POLICY)))

    # --- faults --------------------------------------------------------------------------------

    def _find(self, kind: FaultKind, at_ms: int) -> Fault | None:
        for fault in self._faults:
            if fault.kind == kind and at_ms >= fault.after_ms:
                return fault
        return None

    def _trip(self, now_s: float) -> None:
        """Do what a script plans for this much audio, each once."""
        heard_ms = 0 if self._hearing is None else self._hearing.heard_ms
        for fault in list(self._faults):
            if heard_ms < fault.after_ms:
                continue
            action = fault_action(fault, garbage=GARBAGE)
            self._is_mute |= fault.kind == "mute"
            if action is not None:
                self._faults.remove(fault)
                self._due.append((now_s, action))
            elif fault.kind == "rate_limit_error":
                self._faults.remove(fault)
                self._fail(now_s, "rate_limit_error", "Too many sessions.")
            elif fault.kind == "string_error":
                self._faults.remove(fault)
                self._is_over = True
                self._due.append((now_s, wire.encode_error("No available batch slot")))
                self._due.append((now_s, Close(POLICY)))
