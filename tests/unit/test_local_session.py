"""What a session tells its client when things go wrong in the engine itself."""

import socket

import pytest

from speechbus_transcriber.local_engine.decoder import DecodedWord
from speechbus_transcriber.local_engine.session import serve_session
from speechbus_transcriber.providers import local_wire as wire

OPEN = wire.Open(sample_rate_hz=16_000)


class BrokenDecoderError(Exception):
    """The bug."""


class LoudVoice:
    """Hears speech in everything."""

    block_samples = 512

    def probability(self, block: bytes) -> float:
        """Be sure."""
        return float(bool(block))

    def reset(self) -> None:
        """Have nothing to forget."""


class BrokenDecoder:
    """Fails as soon as it is needed."""

    def prime(self, pcm: bytes) -> None:
        """Fail."""
        raise BrokenDecoderError

    def start(self) -> None:
        """Begin nothing."""

    def hear(self, pcm: bytes) -> None:
        """Hear nothing."""

    def end(self) -> None:
        """End nothing."""

    def words(self) -> list[DecodedWord]:
        """Know nothing."""
        return []


def frames(*messages: wire.ClientMessage | bytes) -> bytes:
    return b"".join(
        wire.encode_frame(message if isinstance(message, bytes) else wire.encode_message(message))
        for message in messages
    )


def answers(client: socket.socket) -> list[wire.EngineMessage]:
    reader, messages = wire.FrameReader(), list[wire.EngineMessage]()
    while data := client.recv(65_536):
        messages += [wire.decode_engine_message(str(frame)) for frame in reader.feed(data)]
    return messages


def test_a_bug_in_the_engine_is_told_and_raised() -> None:
    """The client retries elsewhere at once; the traceback is on stderr for whoever mends it."""
    client, engine = socket.socketpair()
    with client:
        client.sendall(frames(OPEN, bytes(64_000)))
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenDecoderError):
            serve_session(engine, BrokenDecoder(), LoudVoice())

        started = wire.TurnStarted(at_ms=0)
        assert answers(client) == [wire.Ready(), started, wire.Error(code="internal")]


def test_whatever_follows_finish_is_refused() -> None:
    """It would be lost in silence otherwise: nothing answers after `finished`."""
    client, engine = socket.socketpair()
    with client:
        client.sendall(frames(OPEN, wire.Finish(), bytes(2)))
        client.shutdown(socket.SHUT_WR)
        serve_session(engine, BrokenDecoder(), LoudVoice())

        assert answers(client) == [wire.Ready(), wire.Finished(), wire.Error(code="bad_message")]


def test_a_client_that_is_gone_ends_the_session_quietly() -> None:
    """Workers die; that is no bug of the engine."""
    client, engine = socket.socketpair()
    client.sendall(frames(OPEN))
    client.close()

    serve_session(engine, BrokenDecoder(), LoudVoice())

    assert engine.fileno() == -1
