"""The local adapter against recorded conversations with the real engine."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.providers.interface import (
    Covered,
    EngineConnect,
    Finished,
    Flushed,
    Heard,
    ProviderError,
    ProviderProtocol,
    ProviderProtocolError,
    ProviderRejectedError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
    TurnEnded,
    TurnStarted,
)
from speechbus_transcriber.providers.local import (
    AUDIO_BYTES_MAX,
    FLUSH_TIMEOUT_S,
    READY_TIMEOUT_S,
    open_protocol,
)

FOLDER = Path(__file__).parents[1] / "transcripts" / "local"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
REQUEST = SessionRequest(sample_rate_hz=16_000, language="en")


def lines_of(name: str) -> list[dict[str, Any]]:
    _, *lines = map(json.loads, (FOLDER / f"{name}.jsonl").read_text().splitlines())
    return lines


def replay(lines: list[dict[str, Any]]) -> tuple[list[Result], ProviderError | None]:
    """Play a conversation; check what we send; return the results and how it ended."""
    rate = lines[0]["text"]["sample_rate_hz"] if lines else 16_000
    protocol = open_protocol(SessionRequest(sample_rate_hz=rate, language="en"))
    results: list[Result] = []
    try:
        for line in lines:
            if line["dir"] == "sent":
                _send(protocol, line)
            elif "close" in line:
                protocol.receive_close(None, now_s=0.0)
            else:
                protocol.receive_message(json.dumps(line["text"]), now_s=0.0)
            results += protocol.results_received()
    except ProviderError as error:
        return results, error
    return results, None


def _send(protocol: ProviderProtocol, line: dict[str, Any]) -> None:
    if "binary" in line:
        pcm = bytes(range(256)) * (line["binary"]["bytes"] // 256 + 1)
        pcm = pcm[: line["binary"]["bytes"]]
        assert list(protocol.audio_to_send(memoryview(pcm), now_s=0.0)) == [pcm]
        return
    match line["text"]["type"]:
        case "open":
            sent = protocol.messages_to_open()
        case "flush":
            sent = protocol.flush(now_s=0.0)
        case _:
            sent = protocol.finish(now_s=0.0)
    assert [json.loads(message) for message in sent] == [line["text"]]


def received_of(name: str) -> list[dict[str, Any]]:
    return [line["text"] for line in lines_of(name) if line["dir"] == "received" and "text" in line]


def finals_of(results: list[Result]) -> list[Heard]:
    return [result for result in results if isinstance(result, Heard) and result.is_final]


def test_every_required_case_has_a_recording() -> None:
    """A case without a recording is a case that nobody has seen."""
    assert NAMES == [
        "drop_inside_utterance",
        "engine_error",
        "engine_full",
        "flush_inside_utterance",
        "one_sentence",
        "silence",
        "two_utterances",
        "unknown_message",
        "unsupported_rate",
    ]


def test_a_session_connects_to_the_engine_of_this_worker() -> None:
    """Nothing of the address is the adapter's business."""
    assert open_protocol(REQUEST).connect_request() == EngineConnect(engine="local")


def test_a_sentence_is_heard_with_its_words_and_times() -> None:
    """The whole conversation of the quick start."""
    results, error = replay(lines_of("one_sentence"))
    partials = [heard for heard in results if isinstance(heard, Heard) and not heard.is_final]
    (final,) = finals_of(results)

    assert error is None
    assert results[0] == TurnStarted(352)
    assert results[-2:] == [TurnEnded(5_856), Finished()]
    assert [partial.text for partial in partials[:2]] == [
        "had he married a",
        "had he married a more",
    ]
    assert final.text == (
        "had he married a more amiable wall and he might have been made still more respectable"
        " that he was"
    )
    assert (final.start_ms, final.end_ms, final.covered_ms) == (222, 5_832, 6_050)
    assert final.words is not None
    assert " ".join(word.text for word in final.words) == final.text


def test_two_utterances_are_two_finals_in_order() -> None:
    """Each turn ends before the next one begins."""
    results, error = replay(lines_of("two_utterances"))
    turns = [type(result) for result in results if isinstance(result, TurnStarted | TurnEnded)]
    first, second = finals_of(results)

    assert error is None
    assert turns == [TurnStarted, TurnEnded] * 2
    assert first.covered_ms is not None
    assert first.covered_ms <= second.start_ms


def test_silence_is_covered_and_not_heard() -> None:
    """The worker frees the audio it kept; nobody sees an empty segment."""
    assert replay(lines_of("silence")) == (
        [Covered(1_024), Covered(2_048), Covered(3_000), Finished()],
        None,
    )


def test_a_flush_is_answered_after_the_final() -> None:
    """Who waits for `Flushed` has then seen everything."""
    results, error = replay(lines_of("flush_inside_utterance"))
    at = results.index(Flushed())

    assert error is None
    assert len(finals_of(results[:at])) == 1
    assert len(finals_of(results[at:])) == 1


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("drop_inside_utterance", ProviderUnavailableError, "engine_closed"),
        ("engine_error", ProviderUnavailableError, "internal"),
        ("engine_full", ProviderUnavailableError, "engine_full"),
        ("unsupported_rate", ProviderRejectedError, "bad_request"),
        ("unknown_message", ProviderProtocolError, "unknown_message"),
    ],
)
def test_each_failure_says_what_to_do(name: str, kind: type[ProviderError], code: str) -> None:
    """Retry, give up, or report a bug: the driver decides by the class alone."""
    _, error = replay(lines_of(name))

    assert error is not None
    assert type(error) is kind
    assert error.code == code


@given(name=st.sampled_from(NAMES), cut=st.integers(0, 60))
def test_a_dropped_connection_yields_a_prefix_of_the_results(name: str, cut: int) -> None:
    """What arrived before the drop is published in order, and nothing else."""
    whole, _ = replay(lines_of(name))
    part, _ = replay(lines_of(name)[:cut])

    assert part == whole[: len(part)]


@given(garbage=st.text() | st.binary(), is_ready=st.booleans())
def test_garbage_is_a_protocol_error_and_nothing_else(
    garbage: str | bytes,
    is_ready: bool,  # noqa: FBT001 - named by hypothesis
) -> None:
    """An engine that lost its mind ends one session, not the worker."""
    protocol = open_protocol(REQUEST)
    if is_ready:
        protocol.receive_message('{"type":"ready"}', now_s=0.0)

    with pytest.raises(ProviderProtocolError) as caught:
        protocol.receive_message(garbage, now_s=0.0)
    assert caught.value.__cause__ is None


@given(index=st.integers(0, 100), position=st.integers(0, 10_000), noise=st.characters())
def test_a_damaged_message_is_understood_or_refused(index: int, position: int, noise: str) -> None:
    """Whatever one wrong character does, the driver knows the error that comes of it."""
    messages = received_of("one_sentence")
    damaged = json.dumps(messages[index % len(messages)])
    position %= len(damaged)
    protocol = open_protocol(REQUEST)
    protocol.receive_message('{"type":"ready"}', now_s=0.0)

    try:
        protocol.receive_message(damaged[:position] + noise + damaged[position + 1 :], now_s=0.0)
    except ProviderProtocolError:
        assert protocol.results_received() == []


@pytest.mark.parametrize("name", ["one_sentence", "flush_inside_utterance"])
def test_unknown_fields_change_nothing(name: str) -> None:
    """A newer engine may say more."""
    lines = [
        {**line, "text": {**line["text"], "mood": "good"}}
        if line["dir"] == "received" and "text" in line
        else line
        for line in lines_of(name)
    ]

    assert replay(lines) == replay(lines_of(name))


@pytest.mark.parametrize(
    "messages",
    [
        ['{"type":"covered","covered_ms":1}'],
        ['{"type":"ready"}', '{"type":"ready"}'],
        ['{"type":"ready"}', '{"type":"flushed"}'],
        ['{"type":"ready"}', '{"type":"finished"}'],
        ['{"type":"ready"}', '{"type":"covered","covered_ms":-1}'],
        ['{"type":"ready"}', '{"type":"partial","text":"a","start_ms":2,"end_ms":1}'],
        [
            '{"type":"ready"}',
            '{"type":"final","text":"a","start_ms":1,"end_ms":9,"words":[],"covered_ms":5}',
        ],
    ],
    ids=[
        "before ready",
        "ready twice",
        "flushed unasked",
        "finished unasked",
        "negative time",
        "ends before it starts",
        "covers less than it ends",
    ],
)
def test_a_message_out_of_place_is_a_protocol_error(messages: list[str]) -> None:
    """Taken at its word, it would put wrong times or a wrong end on the bus."""
    protocol = open_protocol(REQUEST)
    *before, last = messages
    for message in before:
        protocol.receive_message(message, now_s=0.0)

    with pytest.raises(ProviderProtocolError):
        protocol.receive_message(last, now_s=0.0)


def test_nothing_follows_finished() -> None:
    """The driver closes on `Finished`; whatever came then would be lost in silence."""
    protocol = open_protocol(REQUEST)
    protocol.receive_message('{"type":"ready"}', now_s=0.0)
    protocol.finish(now_s=0.0)
    protocol.receive_message('{"type":"finished"}', now_s=0.0)
    protocol.receive_close(None, now_s=0.0)

    with pytest.raises(ProviderProtocolError):
        protocol.receive_message('{"type":"covered","covered_ms":1}', now_s=0.0)


@given(pcm=st.binary(max_size=40).map(lambda part: part * 10_000))
def test_audio_is_sent_whole_in_pieces_of_bounded_size(pcm: bytes) -> None:
    """A replayed backlog in one frame would hold results back, or exceed the frame's limit."""
    even = pcm[: len(pcm) // 2 * 2]
    pieces = open_protocol(REQUEST).audio_to_send(memoryview(even), now_s=0.0)

    assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == even
    assert all(0 < len(piece) <= AUDIO_BYTES_MAX and len(piece) % 2 == 0 for piece in pieces)


def test_an_engine_that_never_gets_ready_is_given_up() -> None:
    """Audio would pile up before it otherwise."""
    protocol = open_protocol(REQUEST)
    assert protocol.next_deadline_s() is None
    protocol.audio_to_send(memoryview(b""), now_s=5.0)
    assert protocol.next_deadline_s() == 5.0 + READY_TIMEOUT_S
    assert protocol.handle_deadline(now_s=5.0) == []

    with pytest.raises(ProviderUnavailableError):
        protocol.handle_deadline(now_s=5.0 + READY_TIMEOUT_S)


def test_only_the_oldest_unanswered_request_sets_the_deadline() -> None:
    """An answer in time moves it to the next request, or away."""
    protocol = open_protocol(REQUEST)
    protocol.receive_message('{"type":"ready"}', now_s=0.0)
    protocol.flush(now_s=1.0)
    protocol.flush(now_s=2.0)
    protocol.finish(now_s=3.0)
    deadlines = [protocol.next_deadline_s()]
    for answer in ("flushed", "flushed", "finished"):
        protocol.receive_message(f'{{"type":"{answer}"}}', now_s=4.0)
        deadlines.append(protocol.next_deadline_s())

    assert deadlines == [1.0 + FLUSH_TIMEOUT_S, 2.0 + FLUSH_TIMEOUT_S, 3.0 + FLUSH_TIMEOUT_S, None]
