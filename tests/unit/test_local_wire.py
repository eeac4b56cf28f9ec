from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.providers import local_wire as wire

CONTENTS = st.lists(st.text(max_size=40) | st.binary(max_size=40), max_size=8)


@given(contents=CONTENTS, cuts=st.lists(st.integers(0, 400), max_size=8))
def test_frames_survive_any_cut_of_the_byte_stream(
    contents: list[str | bytes], cuts: list[int]
) -> None:
    """A socket gives bytes as it likes; messages must come out as they went in."""
    stream = b"".join(map(wire.encode_frame, contents))
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = wire.FrameReader()

    received = [
        message for start, end in pairwise(borders) for message in reader.feed(stream[start:end])
    ]

    assert received == contents


@given(noise=st.binary(max_size=200))
def test_noise_is_refused_with_a_frame_error_and_nothing_else(noise: bytes) -> None:
    """Any process of the same user can write to the socket; the engine must not fall over it."""
    try:
        wire.FrameReader().feed(noise)
    except wire.FrameError:
        return


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00\x00\x00\x00\x00",
        b"\x01\x00\x10\x00\x01",
        b"\x02\x00\x00\x00\x07x",
        b"\x02\x00\x00\x00\x00\xff",
    ],
    ids=["empty frame", "a byte above the limit", "unknown kind", "text that is not UTF-8"],
)
def test_a_broken_frame_is_refused_at_once(stream: bytes) -> None:
    """A wrong length would otherwise make the reader wait for, and hold, up to 4 GiB."""
    with pytest.raises(wire.FrameError):
        wire.FrameReader().feed(stream)


def test_a_frame_that_the_peer_would_refuse_cannot_be_sent() -> None:
    """The sender learns of its mistake, not a stranger reading the peer's log."""
    assert len(wire.encode_frame(bytes(wire.FRAME_BYTES_MAX - 1))) == wire.FRAME_BYTES_MAX + 4
    with pytest.raises(wire.FrameError):
        wire.encode_frame(bytes(wire.FRAME_BYTES_MAX))


@given(text=st.text())
def test_text_that_is_no_message_is_a_message_error(text: str) -> None:
    """One error to catch, whatever came; its text must not quote what may be speech."""
    for decode in (wire.decode_client_message, wire.decode_engine_message):
        with pytest.raises(wire.MessageError) as caught:
            decode(text)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "message",
    [
        wire.Ready(),
        wire.TurnStarted(at_ms=1),
        wire.TurnEnded(at_ms=2),
        wire.Partial(text="ai", start_ms=1, end_ms=2),
        wire.Final(
            text="ai",
            start_ms=1,
            end_ms=2,
            words=(wire.Word(text="ai", start_ms=1, end_ms=2, confidence=0.5),),
            covered_ms=3,
        ),
        wire.Covered(covered_ms=4),
        wire.Flushed(),
        wire.Finished(),
        wire.Error(code="engine_full"),
    ],
)
def test_engine_messages_come_back_as_they_went(message: wire.EngineMessage) -> None:
    """Both sides use this module, so what one says the other hears."""
    assert wire.decode_engine_message(wire.encode_message(message)) == message
