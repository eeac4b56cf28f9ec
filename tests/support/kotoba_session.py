"""A session of Kotoba's adapter that a test feeds by hand, with a clock of its own."""

import json
from collections.abc import Sequence
from typing import Any, Final

from speechbus_transcriber.providers.interface import (
    Flushed,
    Heard,
    ProviderError,
    Result,
    SessionRequest,
)
from speechbus_transcriber.providers.kotoba import KotobaAccount, KotobaProtocol, KotobaWishes
from speechbus_wire import kotoba as wire

__all__ = ["ACCOUNT", "KotobaSession", "build", "completed", "delta", "texts_of"]

ACCOUNT: Final = KotobaAccount(api_key="the-key", url="wss://kotoba.example/v1/realtime")


def build(language: str | None = "ja-JP", *, wishes: KotobaWishes | None = None) -> KotobaProtocol:
    """An adapter before its session."""
    return KotobaProtocol(
        SessionRequest(sample_rate_hz=16_000, language=language, keywords=("会議",)),
        ACCOUNT,
        wishes or KotobaWishes(),
    )


def delta(
    text: str,
    item_id: str | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
    processed_ms: int | None = None,
) -> wire.Delta:
    """Text to append."""
    return wire.Delta(
        item_id=item_id,
        delta=text,
        start_ms=start_ms,
        end_ms=end_ms,
        audio_processed_ms=processed_ms,
    )


def completed(
    text: str,
    item_id: str | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
    processed_ms: int | None = None,
) -> wire.Completed:
    """The end of a turn."""
    return wire.Completed(
        item_id=item_id,
        transcript=text,
        start_ms=start_ms,
        end_ms=end_ms,
        audio_processed_ms=processed_ms,
    )


def texts_of(results: Sequence[Result]) -> list[str]:
    """The texts of the finals."""
    return [result.text for result in results if isinstance(result, Heard) and result.is_final]


class KotobaSession:
    """An open session.

    Args:
        turn_detection: what the server says that it does.
        is_open: whether it has answered the update.
        wishes: of the account; None: nothing was refused.
    """

    def __init__(
        self,
        *,
        turn_detection: bool | wire.ServerVad | None = None,
        is_open: bool = True,
        wishes: KotobaWishes | None = None,
    ) -> None:
        self.protocol = build(wishes=wishes)
        self.now_s = 0.0
        self.results: list[Result] = []
        """All of them."""
        self.given_ms = 0
        """Audio of the stream so far."""
        self.sent_ms = 0
        """Audio that the server got: of the stream, and silence."""
        self.protocol.connect_request()
        self.opening = [json.loads(message) for message in self.protocol.messages_to_open()]
        """What it began with."""
        detection = wire.ServerVad() if turn_detection is None else turn_detection
        if is_open:
            self.receive(wire.Updated(session=wire.Session(turn_detection=detection)))

    def speak(self, ms: int, *, step_ms: int = 100) -> list[dict[str, Any]]:
        """Send audio in real time, chunk by chunk; return what went out."""
        sent: list[dict[str, Any]] = []
        for _ in range(ms // step_ms):
            pcm = memoryview(bytes(step_ms * 32))
            sent += self._send(self.protocol.audio_to_send(pcm, now_s=self.now_s))
            self.given_ms += step_ms
            self._take()
            self.wait(step_ms / 1000)
        return sent

    def receive(self, *messages: wire.Told) -> list[Result]:
        """Hand messages in; return what was heard."""
        for message in messages:
            text = wire.encode_message(message)
            self._send(self.protocol.receive_message(text, now_s=self.now_s))
        return self._take()

    def fail(self, error: Any) -> ProviderError:  # noqa: ANN401 (any JSON)
        """Hand an `error` event in; return what it raises."""
        try:
            self.protocol.receive_message(wire.encode_error(error), now_s=self.now_s)
        except ProviderError as raised:
            return raised
        raise AssertionError(error)

    def flush(self) -> list[Result]:
        """Ask for finals."""
        self._send(self.protocol.flush(now_s=self.now_s))
        return self._take()

    def finish(self) -> None:
        """Ask for the end."""
        self._send(self.protocol.finish(now_s=self.now_s))
        self._take()

    def end(self) -> list[Result]:
        """Ask for the end, and get it."""
        self.finish()
        return self.receive(wire.Committed())

    def wait(self, seconds: float) -> list[Result]:
        """Let time pass; return what was heard in it."""
        n_before = len(self.results)
        until_s = self.now_s + seconds
        while (deadline_s := self.protocol.next_deadline_s()) is not None:
            if deadline_s > until_s:
                break
            self.now_s = max(self.now_s, deadline_s)
            self._send(self.protocol.handle_deadline(now_s=self.now_s))
            self._take()
        self.now_s = until_s
        return self.results[n_before:]

    @property
    def texts(self) -> list[str]:
        """All finals so far."""
        return texts_of(self.results)

    @property
    def n_flushed(self) -> int:
        """Flushes answered so far."""
        return self.results.count(Flushed())

    def _send(self, messages: Sequence[str | bytes]) -> list[dict[str, Any]]:
        sent = [json.loads(message) for message in messages]
        n_bytes = sum(len(wire.decode_audio(message.get("audio", ""))) for message in sent)
        self.sent_ms += n_bytes // 32
        return sent

    def _take(self) -> list[Result]:
        results = self.protocol.results_received()
        self.results += results
        return results
