"""`echo`: a deterministic provider that tells exactly which audio reached it.

It reads frame-numbered audio (design section 11): every sample of 20 ms frame k has the value k,
from 1 to 32,000 and around. It answers as a recognizer would: a partial every 0.5 s of audio, a
final every 3 s and at flush or finish, with the numbers heard as text: `151-300`, or
`151-200 231-300` when some are missing.
"""

from collections.abc import Sequence
from typing import Final

from speechbus_transcriber.providers.interface import (
    Capabilities,
    ConnectRequest,
    Finished,
    Flushed,
    Heard,
    HttpExchange,
    HttpResponse,
    InProcess,
    Result,
    SessionRequest,
)
from speechbus_wire.frame_numbers import FrameReader

__all__ = ["CAPABILITIES", "EchoProtocol"]

CAPABILITIES: Final = Capabilities(languages=None, has_word_times=False, translates=False)
PARTIAL_EVERY_MS: Final = 500
FINAL_EVERY_MS: Final = 3_000

_NOTHING: Final[tuple[bytes, ...]] = ()


class EchoProtocol:
    """One session; answers within the call that brought the audio."""

    name = "echo"

    def __init__(self, request: SessionRequest) -> None:
        self._rate_hz = request.sample_rate_hz
        self._partial_samples = request.sample_rate_hz * PARTIAL_EVERY_MS // 1000
        self._final_samples = request.sample_rate_hz * FINAL_EVERY_MS // 1000
        self._n_samples = 0
        self._segment_start = 0
        self._next_partial = self._partial_samples
        self._next_final = self._final_samples
        self._frames = FrameReader(sample_rate_hz=request.sample_rate_hz)
        self._results: list[Result] = []

    def connect_request(self) -> ConnectRequest:
        """No connection is needed."""
        return InProcess()

    def messages_to_open(self) -> Sequence[str | bytes]:
        """Nothing to send."""
        return _NOTHING

    def audio_to_send(self, pcm: memoryview, *, now_s: float) -> Sequence[str | bytes]:
        """Read the frame numbers and answer."""
        del now_s
        samples = pcm.cast("h")
        done = 0
        # Results fall on exact positions, however the audio was cut.
        while done < len(samples):
            until = min(self._next_partial, self._next_final)
            n_taken = min(len(samples) - done, until - self._n_samples)
            self._frames.read(samples[done : done + n_taken])
            done += n_taken
            self._n_samples += n_taken
            if self._n_samples == self._next_final:
                self._emit(is_final=True)
            elif self._n_samples == self._next_partial:
                self._emit(is_final=False)
        return _NOTHING

    def _emit(self, *, is_final: bool) -> None:
        end_ms = self._n_samples * 1000 // self._rate_hz
        frames = self._frames
        text = (frames.take_text if is_final else frames.show_text)(has_silence=False)
        self._results.append(
            Heard(
                text=text,
                is_final=is_final,
                start_ms=self._segment_start * 1000 // self._rate_hz,
                end_ms=end_ms,
                covered_ms=end_ms if is_final else None,
            )
        )
        self._next_partial = self._n_samples + self._partial_samples
        if is_final:
            self._segment_start = self._n_samples
            self._next_final = self._n_samples + self._final_samples

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        """Make a final of what was heard since the last one."""
        del now_s
        if self._n_samples > self._segment_start:
            self._emit(is_final=True)
        self._results.append(Flushed())
        return _NOTHING

    def end_turn(self, *, now_s: float) -> None:
        """Nobody pauses here."""

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Flush and end."""
        self.flush(now_s=now_s)
        self._results.append(Finished())
        return _NOTHING

    def receive_response(self, response: HttpResponse, *, now_s: float) -> None:
        """Nobody asks over HTTP."""

    def receive_message(self, message: str | bytes, *, now_s: float) -> Sequence[str | bytes]:
        """Nobody sends any."""
        del message, now_s
        return _NOTHING

    def receive_close(self, code: int | None, *, now_s: float) -> None:
        """There is no connection."""

    def next_deadline_s(self) -> float | None:
        """Never."""
        return None

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Nothing is due."""
        del now_s
        return _NOTHING

    def results_received(self) -> list[Result]:
        """Results since the last call."""
        if not self._results:
            return []
        results, self._results = self._results, []
        return results

    def farewell_requests(self) -> Sequence[HttpExchange]:
        """None."""
        return ()
