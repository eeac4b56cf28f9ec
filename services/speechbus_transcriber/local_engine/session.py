"""One child process serving one session over its connection."""

import socket
from typing import Final

from speechbus_transcriber.local_engine.priming import PrimedDecoder, SpeechDecoder
from speechbus_transcriber.local_engine.recognizer import Recognizer
from speechbus_transcriber.local_engine.voice_activity import VoiceActivity
from speechbus_transcriber.providers import local_wire as wire

__all__ = ["serve_session"]

_RECEIVE_BYTES: Final = 65_536
"""2 s of audio at 16 kHz: enough to catch up in few calls, little enough to hold."""

_SAMPLE_RATES_HZ: Final = range(8_000, 48_001)
_TURN_STOPS_MS: Final = range(100, 5_001)
"""Shorter stops cut words apart; longer ones keep finals waiting beyond anyone's patience."""

_LINGER_S: Final = 1.0
"""How long a refused client's last messages are read and dropped. Closing with them unread would
reset the connection, and the client might not see why it was refused."""


class _RefusedError(Exception):
    """The session ends with an error message to the client."""

    def __init__(self, code: wire.EngineErrorCode) -> None:
        super().__init__(code)
        self.code: wire.EngineErrorCode = code


class _Session:
    """Answers the messages of one client."""

    def __init__(
        self, connection: socket.socket, decoder: SpeechDecoder, voice: VoiceActivity
    ) -> None:
        self._connection = connection
        self._decoder = decoder
        self._voice = voice
        self._recognizer: Recognizer | None = None
        self._is_finished = False

    def run(self) -> None:
        """Answer until the session is finished or the client hangs up."""
        frames = wire.FrameReader()
        while not self._is_finished:
            received = self._connection.recv(_RECEIVE_BYTES)
            if not received:
                return
            for message in frames.feed(received):
                self._answer(message)

    def emit(self, message: wire.EngineMessage) -> None:
        """Send one message; blocks while the client does not read, and so holds the engine back."""
        self._connection.sendall(wire.encode_frame(wire.encode_message(message)))

    def _answer(self, message: str | bytes) -> None:
        if self._is_finished:
            raise _RefusedError("bad_message")
        if isinstance(message, bytes):
            self._hear(message)
            return
        match wire.decode_client_message(message):
            case wire.Open() as opening:
                self._open(opening)
            case wire.Flush():
                self._opened().flush()
                self.emit(wire.Flushed())
            case wire.Finish():
                self._opened().flush()
                self.emit(wire.Finished())
                self._is_finished = True

    def _open(self, opening: wire.Open) -> None:
        if self._recognizer is not None:
            raise _RefusedError("bad_message")
        if opening.sample_rate_hz not in _SAMPLE_RATES_HZ:
            raise _RefusedError("bad_request")
        if opening.turn_stop_ms not in _TURN_STOPS_MS:
            raise _RefusedError("bad_request")
        self._recognizer = Recognizer(
            opening, decoder=PrimedDecoder(self._decoder), voice=self._voice, emit=self.emit
        )
        self.emit(wire.Ready())

    def _hear(self, pcm: bytes) -> None:
        if len(pcm) % 2:
            raise _RefusedError("bad_message")
        self._opened().hear(pcm)

    def _opened(self) -> Recognizer:
        if self._recognizer is None:
            raise _RefusedError("bad_message")
        return self._recognizer


def serve_session(connection: socket.socket, decoder: SpeechDecoder, voice: VoiceActivity) -> None:
    """Serve one client until it finishes, hangs up or breaks the protocol; close the connection.

    A bug in here is told to the client as `internal`, then raised.

    Args:
        connection: The client's connected, blocking socket.
        decoder: This process' own decoder, which has heard nothing yet.
        voice: This process' own voice activity detector.
    """
    session = _Session(connection, decoder, voice)
    with connection:
        try:
            session.run()
        except (ConnectionResetError, BrokenPipeError):
            return  # the client is gone: nobody is left to tell, and the session is its own
        except (wire.FrameError, wire.MessageError):
            _refuse(session, connection, "bad_message")
        except _RefusedError as refused:
            _refuse(session, connection, refused.code)
        except Exception:
            _refuse(session, connection, "internal")
            raise


def _refuse(session: _Session, connection: socket.socket, code: wire.EngineErrorCode) -> None:
    try:
        session.emit(wire.Error(code=code))
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LINGER_S)
        while connection.recv(_RECEIVE_BYTES):
            continue
    except OSError:
        return  # gone, or still sending after the time it was given
