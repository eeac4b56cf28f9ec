"""Palabra's side of a stream, with the faults of a script. Pure: messages and the clock in."""

from typing import Final, cast

import msgspec

from speechbus_simulator.actions import Action, Agenda, Close, fault_action
from speechbus_simulator.faults import SessionFaults
from speechbus_simulator.recognition import LEAD_MS, Recognition, Said
from speechbus_simulator.samples import Encoding, SampleReader
from speechbus_simulator.script import Script
from speechbus_wire import palabra as wire

__all__ = ["PalabraStream"]

AWAY: Final = 1001
GARBAGE: Final = '{"message_type":"transcription","segment":'
UNKNOWN: Final = '{"message_type":"simulated","data":{}}'
TAIL: Final = " uh"
"""What a fault puts behind a text."""


class PalabraStream:
    """One stream of one client.

    Args:
        script: what is said, and what goes wrong.
        session: its number, from 1.
        parameters: of the stream's URL; the format is a raw one.
        now_s: when it was opened.
    """

    def __init__(
        self, script: Script, *, session: int, parameters: wire.StreamParameters, now_s: float
    ) -> None:
        assert parameters.sample_rate_hz is not None
        self._script = script
        self._language = parameters.language or "en"
        self._targets = parameters.target_languages
        self._has_filler_filter = parameters.has_filler_filter
        self._samples = SampleReader(cast(Encoding, parameters.format))
        self._hearing = Recognition(script, sample_rate_hz=parameters.sample_rate_hz)
        self._faults = SessionFaults(script, session=session)
        self._session = session
        self._opened_at_s = now_s
        self._heard_at_s = now_s
        self._is_mute = False
        self._shown = _span("", 0, 0)
        self._held: list[wire.TranslatedTranscription] = []
        self._held_until_s: float | None = None
        self._agenda = Agenda()
        self._trip(now_s)

    def receive(self, message: str | bytes, *, now_s: float) -> None:
        """Take what the client sent."""
        if isinstance(message, bytes):
            self._heard_at_s = now_s
            self._hear(message, now_s)
        elif wire.decode_client_message(message) is not None:
            self._finalize(now_s)
        self._trip(now_s)

    def next_due_s(self) -> float | None:
        """When `take_due` has something; None: when the client sends something."""
        times_s = (self._idle_at_s, self._held_until_s, self._agenda.next_s())
        return min((at_s for at_s in times_s if at_s is not None), default=None)

    def take_due(self, *, now_s: float) -> list[Action]:
        """Return what is to be done now, in order."""
        if self._idle_at_s is not None and now_s >= self._idle_at_s:
            return [Close(AWAY)]
        if self._held_until_s is not None and now_s >= self._held_until_s:
            self._release(now_s)
        return self._agenda.take(now_s)

    @property
    def _idle_at_s(self) -> float | None:
        idle_ms = self._script.idle_ms
        return self._heard_at_s + idle_ms / 1000 if idle_ms and not self._is_mute else None

    # --- hearing -------------------------------------------------------------------------------

    def _hear(self, audio: bytes, now_s: float) -> None:
        samples = self._samples.read(audio)
        ahead_ms = self._hearing.ahead_ms(len(samples), since_s=now_s - self._opened_at_s)
        if self._script.is_real_time is not False and ahead_ms > LEAD_MS:
            return
        for said in self._hearing.feed(samples):
            self._tell(said, now_s, has_fin=False)

    def _finalize(self, now_s: float) -> None:
        finals = list(self._hearing.end_segment())
        for said in finals:
            self._tell(said, now_s, has_fin=True)
        if not finals:
            self._tell_fin(now_s)

    # --- what is said --------------------------------------------------------------------------

    def _tell(self, said: Said, now_s: float, *, has_fin: bool) -> None:
        if said.is_final:
            self._translate(said, now_s, is_early=True)
            if not self._faults.find("missing_final", said.end_ms):
                self._tell_final(said, now_s, has_fin=has_fin)
            elif has_fin:
                self._tell_fin(now_s)
            self._translate(said, now_s, is_early=False)
            self._shown = _span("", 0, 0)
        elif self._has_filler_filter or self._script.mode == "text":
            message = self._spell(said)
            if self._has_filler_filter and self._faults.find("tail_rewrite", said.end_ms):
                self._send(now_s, _rewrite(message, said.text + TAIL))
            self._send(now_s, message)

    def _tell_final(self, said: Said, now_s: float, *, has_fin: bool) -> None:
        message = self._spell(said)
        if self._faults.find("empty_final", said.end_ms):
            message = _rewrite(message, "")
        self._send(now_s, wire.append_fin(message) if has_fin else message)
        if self._faults.find("duplicate_final", said.end_ms):
            self._send(now_s, message)
        if self._faults.find("revised_final", said.end_ms):
            self._send(now_s, _rewrite(message, said.text + TAIL))

    def _tell_fin(self, now_s: float) -> None:
        ms = self._hearing.heard_ms
        nothing = Said(index=-1, text="", is_final=False, start_ms=ms, end_ms=ms)
        self._send(now_s, wire.append_fin(self._spell(nothing)))

    def _translate(self, said: Said, now_s: float, *, is_early: bool) -> None:
        held, self._held = ([], self._held) if is_early else (self._held, [])
        for target in self._targets:
            early = self._faults.find("early_translation", said.end_ms, target)
            if is_early is not (early is not None) or self._faults.find(
                "missing_translation", said.end_ms, target
            ):
                continue
            translation = wire.TranslatedTranscription(
                transcription_id=self._id(said),
                language=target,
                is_eos=True,
                segment=_span(f"[{target}] {said.text}", said.start_ms, said.end_ms),
            )
            swap = self._faults.find("reordered_translation", said.end_ms, target)
            if swap is not None and not held:
                self._held.append(translation)
                self._held_until_s = now_s + swap.delay_ms / 1000
                continue
            late = self._faults.find("late_translation", said.end_ms, target)
            at_s = now_s + (late.delay_ms / 1000 if late else 0.0)
            self._send(at_s, translation)
            if self._faults.find("duplicate_translation", said.end_ms, target):
                self._send(at_s, translation)
        if held:
            self._held = held
            self._release(now_s)

    def _release(self, now_s: float) -> None:
        for translation in self._held:
            self._send(now_s, translation)
        self._held, self._held_until_s = [], None

    def _spell(self, said: Said) -> wire.Transcription:
        span = _span(said.text, said.start_ms, said.end_ms)
        delta = None
        if span.text.startswith(self._shown.text) and span.text != self._shown.text:
            # Once something is shown, what is added was said behind it.
            start_time = self._shown.end_time if self._shown.text else span.start_time
            delta = wire.Span(
                text=span.text.removeprefix(self._shown.text),
                start_time=start_time,
                end_time=span.end_time,
            )
        if delta is not None and self._faults.find("empty_delta", said.end_ms):
            delta = msgspec.structs.replace(delta, text="")
        self._shown = span
        return wire.Transcription(
            transcription_id=self._id(said),
            language=self._language,
            is_eos=said.is_final,
            segment=span,
            delta=delta,
        )

    def _id(self, said: Said) -> str:
        # As at Palabra, ids of different sessions are unrelated.
        return f"sim{self._session:x}-{said.index & 0xFFFF_FFFF:x}"

    def _send(self, at_s: float, message: wire.ServerMessage) -> None:
        if not self._is_mute:
            self._agenda.add(at_s + self._script.latency_ms / 1000, wire.encode_message(message))

    # --- faults --------------------------------------------------------------------------------

    def _trip(self, now_s: float) -> None:
        """Do what a script plans for this much audio."""
        for fault in self._faults.take_due(self._hearing.heard_ms):
            self._is_mute |= fault.kind == "mute"
            action = fault_action(fault, garbage=GARBAGE, unknown=UNKNOWN)
            if fault.kind == "error":
                action = _spell_error(fault.error_code)
            if action is not None:
                self._agenda.add(now_s, action)


def _span(text: str, start_ms: int, end_ms: int) -> wire.Span:
    return wire.Span(
        text=text, start_time=wire.to_seconds(start_ms), end_time=wire.to_seconds(end_ms)
    )


def _rewrite(message: wire.Transcription, text: str) -> wire.Transcription:
    """Return the message with another text, and without a delta, which would add to the old one."""
    return msgspec.structs.replace(
        message, segment=msgspec.structs.replace(message.segment, text=text), delta=None
    )


def _spell_error(code: str) -> str:
    """Return an error as Palabra's other endpoints have it (providers.md 3.5)."""
    error = {"message_type": "error", "data": {"code": code, "desc": "The script says so."}}
    return msgspec.json.encode(error).decode()
