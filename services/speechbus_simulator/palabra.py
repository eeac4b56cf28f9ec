"""Palabra's side of a stream, with the faults of a script. Pure: messages and the clock in."""

from collections import deque
from typing import Final

import msgspec

from speechbus_simulator.actions import Action, Close, fault_action
from speechbus_simulator.recognition import Recognition, Said
from speechbus_simulator.script import Fault, FaultKind, Script
from speechbus_wire import palabra as wire

__all__ = ["PalabraStream"]

LEAD_MS: Final = 500
"""Audio that may be ahead of real time (providers.md 3.4)."""
AWAY: Final = 1001
GARBAGE: Final = '{"message_type":"transcription","segment":'


class PalabraStream:
    """One stream of one client.

    Args:
        script: what is said, and what goes wrong.
        session: its number, from 1.
        parameters: of the stream's URL; the format is PCM s16le.
        now_s: when it was opened.
    """

    def __init__(
        self, script: Script, *, session: int, parameters: wire.StreamParameters, now_s: float
    ) -> None:
        assert parameters.sample_rate_hz is not None
        self._script = script
        self._language = parameters.language or "en"
        self._targets = parameters.target_languages
        self._rate_hz = parameters.sample_rate_hz
        self._hearing = Recognition(script, sample_rate_hz=self._rate_hz)
        self._faults = [fault for fault in script.faults if fault.session in {0, session}]
        self._session = session
        self._opened_at_s = now_s
        self._heard_at_s = now_s
        self._is_mute = False
        self._due: deque[tuple[float, Action]] = deque()
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
        idle_ms = self._script.idle_ms
        idle_at_s = self._heard_at_s + idle_ms / 1000 if idle_ms else None
        due_at_s = min((at_s for at_s, _ in self._due), default=None)
        return min((at_s for at_s in (idle_at_s, due_at_s) if at_s is not None), default=None)

    def take_due(self, *, now_s: float) -> list[Action]:
        """Return what is to be done now, in order."""
        idle_ms = self._script.idle_ms
        if idle_ms and now_s >= self._heard_at_s + idle_ms / 1000:
            return [Close(AWAY)]
        actions = [action for at_s, action in self._due if at_s <= now_s]
        self._due = deque(item for item in self._due if item[0] > now_s)
        return actions

    # --- hearing -------------------------------------------------------------------------------

    def _hear(self, pcm: bytes, now_s: float) -> None:
        ahead_ms = (
            self._hearing.heard_ms
            + len(pcm) * 500 // self._rate_hz
            - (now_s - self._opened_at_s) * 1000
        )
        if self._script.is_real_time and ahead_ms > LEAD_MS:
            return
        for said in self._hearing.feed(pcm):
            self._tell(said, now_s, has_fin=False)

    def _finalize(self, now_s: float) -> None:
        finals = list(self._hearing.end_segment())
        for said in finals:
            self._tell(said, now_s, has_fin=True)
        if not finals:
            ms = self._hearing.heard_ms
            nothing = Said(index=-1, text="", is_final=False, start_ms=ms, end_ms=ms)
            self._send(now_s, wire.append_fin(self._spell(nothing)))

    def _tell(self, said: Said, now_s: float, *, has_fin: bool) -> None:
        message = self._spell(said)
        if self._find("tail_rewrite", said.end_ms) and not said.is_final:
            words = said.text.split(" ")
            span = msgspec.structs.replace(message.segment, text=" ".join([*words, "uh"]))
            self._send(now_s, msgspec.structs.replace(message, segment=span))
        if said.is_final:
            self._translate(said, now_s, "early_translation")
        self._send(now_s, wire.append_fin(message) if has_fin else message)
        if said.is_final:
            if self._find("duplicate_final", said.end_ms):
                self._send(now_s, message)
            self._translate(said, now_s, None)

    def _translate(self, said: Said, now_s: float, early: FaultKind | None) -> None:
        for target in self._targets:
            is_early = self._find("early_translation", said.end_ms, target) is not None
            if is_early != (early is not None) or self._find(
                "missing_translation", said.end_ms, target
            ):
                continue
            late = self._find("late_translation", said.end_ms, target)
            translation = wire.TranslatedTranscription(
                transcription_id=self._id(said),
                language=target,
                is_eos=True,
                segment=wire.Span(
                    text=f"[{target}] {said.text}",
                    start_time=wire.to_seconds(said.start_ms),
                    end_time=wire.to_seconds(said.end_ms),
                ),
            )
            self._send(now_s + (late.delay_ms / 1000 if late else 0.0), translation)

    def _spell(self, said: Said) -> wire.Transcription:
        return wire.Transcription(
            transcription_id=self._id(said),
            language=self._language,
            is_eos=said.is_final,
            segment=wire.Span(
                text=said.text,
                start_time=wire.to_seconds(said.start_ms),
                end_time=wire.to_seconds(said.end_ms),
            ),
        )

    def _id(self, said: Said) -> str:
        # As at Palabra, ids of different sessions are unrelated.
        return f"sim{self._session:x}-{said.index & 0xFFFF_FFFF:x}"

    def _send(self, at_s: float, message: wire.ServerMessage) -> None:
        if not self._is_mute:
            self._due.append((at_s + self._script.latency_ms / 1000, wire.encode_message(message)))

    # --- faults --------------------------------------------------------------------------------

    def _find(self, kind: FaultKind, at_ms: int, language: str = "") -> Fault | None:
        for fault in self._faults:
            if fault.kind == kind and at_ms >= fault.after_ms and fault.language in {"", language}:
                return fault
        return None

    def _trip(self, now_s: float) -> None:
        """Do what a script plans for this much audio, each once."""
        for fault in list(self._faults):
            if self._hearing.heard_ms >= fault.after_ms:
                action = fault_action(fault, garbage=GARBAGE)
                self._is_mute |= fault.kind == "mute"
                if action is not None:
                    self._faults.remove(fault)
                    self._due.append((now_s, action))
