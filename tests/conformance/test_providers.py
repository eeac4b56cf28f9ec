"""What holds for every provider: the driver and the segmenter rely on nothing else.

Each adapter talks to a scripted peer that answers by the amount of audio it got, as its provider
would, so that the same audio must give the same results however it is cut.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.providers import local_wire
from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Flushed,
    Heard,
    ProviderProtocol,
    ProviderProtocolError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
)
from speechbus_transcriber.providers.kotoba import KotobaAccount
from speechbus_transcriber.providers.palabra import PalabraAccount
from speechbus_transcriber.providers.registry import PROVIDER_NAMES, Accounts, build_providers
from speechbus_wire import kotoba as kotoba_wire
from speechbus_wire import palabra as palabra_wire
from tests.support.frame_numbers import build_frames

RATE_HZ: Final = 16_000
REQUEST: Final = SessionRequest(sample_rate_hz=RATE_HZ, language="en")
PCM: Final = build_frames(1, 350)
"""7 s: two finals of 3 s, and a rest that only a flush brings out."""
AUDIO_MS: Final = 7_000

PROVIDERS: Final = build_providers(
    PROVIDER_NAMES,
    Accounts(
        palabra=(
            PalabraAccount(
                stt_url="wss://stt.example", api_url="https://api.example", api_key="key"
            ),
        ),
        kotoba=(KotobaAccount(api_key="key", url="wss://kotoba.example/v1/realtime"),),
    ),
)
each_provider = pytest.mark.parametrize("name", sorted(PROVIDERS))


class Peer(Protocol):
    """The provider's side of one session."""

    def answer(self, messages: Sequence[str | bytes]) -> list[str]:
        """Take what the adapter sent; return what comes back."""
        ...


class NoPeer:
    """Of adapters that answer by themselves."""

    def answer(self, messages: Sequence[str | bytes]) -> list[str]:
        """There is nobody to send to."""
        assert not messages
        return []


class Hearing:
    """Hears a word every half second and a sentence every three, by the amount of audio."""

    PARTIAL_BYTES: Final = RATE_HZ
    FINAL_BYTES: Final = 6 * RATE_HZ

    def __init__(self) -> None:
        self._n_bytes = 0
        self._start = 0

    def hear(self, n_bytes: int) -> Iterator[tuple[bool, int, int]]:
        """Take audio; yield whether it is final, and the times in ms, of what comes of it."""
        until = self._n_bytes + n_bytes
        while (border := self._next_border()) <= until:
            self._n_bytes = border
            if border - self._start == self.FINAL_BYTES:
                yield from self.end()
            else:
                yield False, self._ms(self._start), self._ms(border)
        self._n_bytes = until

    def end(self) -> Iterator[tuple[bool, int, int]]:
        """End the sentence, if one has begun."""
        if self._n_bytes > self._start:
            start, self._start = self._start, self._n_bytes
            yield True, self._ms(start), self._ms(self._n_bytes)

    def _next_border(self) -> int:
        n_partials = (self._n_bytes - self._start) // self.PARTIAL_BYTES
        return self._start + (n_partials + 1) * self.PARTIAL_BYTES

    def _ms(self, n_bytes: int) -> int:
        return n_bytes * 1000 // (2 * RATE_HZ)


class ScriptedEngine:
    """The local engine."""

    def __init__(self) -> None:
        self._hearing = Hearing()

    def answer(self, messages: Sequence[str | bytes]) -> list[str]:
        """Take frames; return the text frames that answer them."""
        answers = [answer for message in messages for answer in self._answers(message)]
        return [local_wire.encode_message(answer) for answer in answers]

    def _answers(self, message: str | bytes) -> Iterator[local_wire.EngineMessage]:
        if isinstance(message, bytes):
            for is_final, start_ms, end_ms in self._hearing.hear(len(message)):
                yield from self._tell(start_ms, end_ms, is_final=is_final)
            return
        match local_wire.decode_client_message(message):
            case local_wire.Open():
                yield local_wire.Ready()
            case local_wire.Flush():
                yield from self._end_utterance()
                yield local_wire.Flushed()
            case local_wire.Finish():
                yield from self._end_utterance()
                yield local_wire.Finished()

    def _end_utterance(self) -> Iterator[local_wire.EngineMessage]:
        for _, start_ms, end_ms in self._hearing.end():
            yield from self._tell(start_ms, end_ms, is_final=True)

    def _tell(
        self, start_ms: int, end_ms: int, *, is_final: bool
    ) -> Iterator[local_wire.EngineMessage]:
        if not is_final:
            yield local_wire.Partial(text=f"words {end_ms}", start_ms=start_ms, end_ms=end_ms)
            return
        word = local_wire.Word(text="sentence", start_ms=start_ms, end_ms=end_ms)
        yield local_wire.TurnStarted(at_ms=start_ms)
        yield local_wire.Final(
            text="sentence", start_ms=start_ms, end_ms=end_ms, words=(word,), covered_ms=end_ms
        )
        yield local_wire.TurnEnded(at_ms=end_ms)


class ScriptedPalabra:
    """Palabra: the whole segment in each message, `<fin>` behind what a finalize brings."""

    def __init__(self) -> None:
        self._hearing = Hearing()
        self._n_finals = 0

    def answer(self, messages: Sequence[str | bytes]) -> list[str]:
        """Take audio and finalizes; return the messages that answer them."""
        return [palabra_wire.encode_message(a) for m in messages for a in self._answers(m)]

    def _answers(self, message: str | bytes) -> Iterator[palabra_wire.Transcription]:
        if isinstance(message, bytes):
            for is_final, start_ms, end_ms in self._hearing.hear(len(message)):
                yield self._tell(start_ms, end_ms, is_final=is_final)
            return
        assert palabra_wire.decode_client_message(message) == palabra_wire.Finalize()
        rest = [self._tell(start, end, is_final=True) for _, start, end in self._hearing.end()]
        nothing = palabra_wire.Transcription(
            transcription_id="fin",
            language="en",
            is_eos=False,
            segment=palabra_wire.Span(text="", start_time=0.0, end_time=0.0),
        )
        yield palabra_wire.append_fin(rest[0] if rest else nothing)

    def _tell(self, start_ms: int, end_ms: int, *, is_final: bool) -> palabra_wire.Transcription:
        told = palabra_wire.Transcription(
            transcription_id=f"id{self._n_finals}",
            language="en",
            is_eos=is_final,
            segment=palabra_wire.Span(
                text=f"until {end_ms}", start_time=start_ms / 1000, end_time=end_ms / 1000
            ),
        )
        self._n_finals += is_final
        return told


KotobaTold = (
    kotoba_wire.Created
    | kotoba_wire.Updated
    | kotoba_wire.Delta
    | kotoba_wire.Completed
    | kotoba_wire.Committed
)


class ScriptedKotoba:
    """Kotoba: deltas to append, turns by silence of its own making, `committed` at the end."""

    SILENCE_BYTES: Final = RATE_HZ * 2 * 6 // 10

    def __init__(self) -> None:
        self._hearing = Hearing()
        self._n_turns = 0
        self._n_silent = 0
        self._heard_ms = 0
        self._offset_ms = 0  # silence before the turn: times count it

    def answer(self, messages: Sequence[str | bytes]) -> list[str]:
        """Take the update, audio and the commit; return the messages that answer them."""
        return [kotoba_wire.encode_message(a) for m in messages for a in self._answers(m)]

    def _answers(self, message: str | bytes) -> Iterator[KotobaTold]:
        assert isinstance(message, str)
        match kotoba_wire.decode_client_message(message):
            case kotoba_wire.SessionUpdate(session=session):
                yield kotoba_wire.Created()
                yield kotoba_wire.Updated(session=session)
            case kotoba_wire.Append(audio=audio):
                pcm = kotoba_wire.decode_audio(audio)
                self._heard_ms += len(pcm) * 1000 // (2 * RATE_HZ)
                if not any(pcm):
                    self._n_silent += len(pcm)
                    if self._n_silent >= self.SILENCE_BYTES:
                        yield from self._end()
                    return
                self._offset_ms += self._n_silent * 1000 // (2 * RATE_HZ)
                self._n_silent = 0
                for is_final, start_ms, end_ms in self._hearing.hear(len(pcm)):
                    yield from self._tell(start_ms, end_ms, is_final=is_final)
            case kotoba_wire.Commit():
                yield from self._end()
                yield kotoba_wire.Committed()

    def _end(self) -> Iterator[KotobaTold]:
        for _, start_ms, end_ms in self._hearing.end():
            yield from self._tell(start_ms, end_ms, is_final=True)

    def _tell(self, start_ms: int, end_ms: int, *, is_final: bool) -> Iterator[KotobaTold]:
        item_id = f"turn{self._n_turns}"
        start_ms, end_ms = start_ms + self._offset_ms, end_ms + self._offset_ms
        yield kotoba_wire.Delta(
            item_id=item_id,
            delta="wo",
            start_ms=start_ms,
            end_ms=end_ms,
            audio_processed_ms=self._heard_ms,
        )
        if is_final:
            self._n_turns += 1
            yield kotoba_wire.Completed(
                item_id=item_id,
                transcript="sentence",
                start_ms=start_ms,
                end_ms=end_ms,
                audio_processed_ms=self._heard_ms,
            )


PEERS: Final[dict[str, Callable[[], Peer]]] = {
    "echo": NoPeer,
    "kotoba": ScriptedKotoba,
    "local": ScriptedEngine,
    "palabra": ScriptedPalabra,
}

Edit = Callable[[str], str]


class Session:
    """An adapter and its peer, talking as the driver would let them."""

    def __init__(self, name: str, *, edit: Edit = str) -> None:
        self.protocol: ProviderProtocol = PROVIDERS[name].accounts[0].open_protocol(REQUEST)
        self.results: list[Result] = []
        self.received: list[str] = []
        self.audio = b""
        self.now_s = 0.0
        self._peer = PEERS[name]()
        self._edit = edit
        self.protocol.connect_request()
        self._exchange(self.protocol.messages_to_open())

    def send(self, pcm: bytes) -> None:
        """Send audio."""
        self._exchange(self.protocol.audio_to_send(memoryview(pcm), now_s=self.now_s))

    def flush(self) -> None:
        """Ask for finals, and let time pass until they are there."""
        n_before = len(self.results)
        self._exchange(self.protocol.flush(now_s=self.now_s))
        while Flushed() not in self.results[n_before:]:
            deadline_s = self.protocol.next_deadline_s()
            assert deadline_s is not None
            self.now_s = max(self.now_s, deadline_s)
            self._exchange(self.protocol.handle_deadline(now_s=self.now_s))

    def end_turn(self) -> bool:
        """End the turn, where silence is not needed for it."""
        messages = self.protocol.end_turn(now_s=self.now_s)
        self._exchange(messages or ())
        return messages is not None

    def finish(self) -> None:
        """Ask for the end."""
        self._exchange(self.protocol.finish(now_s=self.now_s))

    def receive(self, message: str) -> None:
        """Hand in one message of the provider."""
        self.received.append(message)
        answer = self.protocol.receive_message(self._edit(message), now_s=self.now_s)
        self.results += self.protocol.results_received()
        self._exchange(answer)

    def _exchange(self, messages: Sequence[str | bytes]) -> None:
        self.audio += b"".join(message for message in messages if isinstance(message, bytes))
        self.results += self.protocol.results_received()
        for message in self._peer.answer(messages):
            self.receive(message)


def play(name: str, *pieces: bytes, edit: Edit = str) -> Session:
    """Run a whole session."""
    session = Session(name, edit=edit)
    for piece in pieces:
        session.send(piece)
    session.finish()
    return session


def heard_in(results: Sequence[Result]) -> list[Heard]:
    return [result for result in results if isinstance(result, Heard)]


def add_field(message: str) -> str:
    """Say more, as a newer provider may."""
    content: dict[str, Any] = json.loads(message)
    return json.dumps({**content, "mood": {"good": [1, None]}})


def test_every_provider_has_a_peer_here() -> None:
    """A new adapter is held to the same promises."""
    assert PEERS.keys() == PROVIDERS.keys()


@each_provider
@given(cuts=st.lists(st.integers(0, len(PCM) // 2), max_size=12))
def test_audio_cut_elsewhere_gives_the_same(name: str, cuts: list[int]) -> None:
    """Chunks are our business: neither the bytes sent nor the results depend on them."""
    borders = sorted({0, *(2 * cut for cut in cuts), len(PCM)})
    pieces = [PCM[low:high] for low, high in pairwise(borders)]
    whole, cut = play(name, PCM), play(name, *pieces)

    assert cut.results == whole.results
    assert cut.audio == whole.audio


@each_provider
def test_all_audio_is_covered_by_finals_in_order(name: str) -> None:
    """What no final covers would be read again by the next session, for ever."""
    finals = [heard for heard in heard_in(play(name, PCM).results) if heard.is_final]
    covered = [final.end_ms if final.covered_ms is None else final.covered_ms for final in finals]

    assert covered == sorted(covered)
    assert covered[-1] == AUDIO_MS
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(finals))


@each_provider
def test_times_never_run_backwards_within_an_utterance(name: str) -> None:
    """A partial is the whole utterance so far; its final ends it."""
    start_ms, end_ms = -1, -1
    for heard in heard_in(play(name, PCM).results):
        assert heard.start_ms <= heard.end_ms
        assert heard.end_ms >= end_ms
        assert start_ms in (-1, heard.start_ms)
        start_ms, end_ms = (-1, heard.end_ms) if heard.is_final else (heard.start_ms, heard.end_ms)


@each_provider
@given(n_frames=st.integers(0, 350))
def test_finished_comes_once_and_last(name: str, n_frames: int) -> None:
    """The driver closes on it; what came behind would be lost."""
    results = play(name, build_frames(1, n_frames)).results

    assert results.count(Finished()) == 1
    assert results[-1] == Finished()


@each_provider
@given(lengths=st.lists(st.integers(0, 250), min_size=1, max_size=4))
def test_each_flush_is_answered_behind_the_finals_it_asked_for(
    name: str, lengths: list[int]
) -> None:
    """A client that waits for the answer has then read everything."""
    session = Session(name)
    n_frames = 0
    for length in lengths:
        n_before = len(session.results)
        session.send(build_frames(n_frames + 1, length))
        n_frames += length
        session.flush()
        new = session.results[n_before:]

        assert new.count(Flushed()) == 1
        assert new[-1] == Flushed()
        ends = [heard.end_ms for heard in heard_in(new) if heard.is_final]
        assert ends[-1:] == ([20 * n_frames] if length else [])


@each_provider
@given(lengths=st.lists(st.integers(0, 120), max_size=5))
def test_a_turn_that_is_ended_is_final_and_loses_nothing(name: str, lengths: list[int]) -> None:
    """A stream that is behind ends turns in pauses that it leaves out; nobody waits for it."""
    session = Session(name)
    n_frames = 0
    for length in lengths:
        session.send(build_frames(n_frames + 1, length))
        n_frames += length
        n_before = len(session.results)
        if session.end_turn() and n_frames:
            covered = [r.covered_ms for r in session.results[n_before:] if isinstance(r, Covered)]
            ends = [heard.end_ms for heard in heard_in(session.results) if heard.is_final]
            assert covered[-1:] == [20 * n_frames] or ends[-1:] == [20 * n_frames]
    session.finish()

    finals = [heard for heard in heard_in(session.results) if heard.is_final and heard.text]
    assert Flushed() not in session.results[:-2]
    assert all(one.end_ms <= other.start_ms for one, other in pairwise(finals))
    assert sum(heard.end_ms - heard.start_ms for heard in finals) == 20 * n_frames


@each_provider
def test_waiting_calls_each_deadline_once(name: str) -> None:
    """One that stays due would be called without end; a needless one ends who pauses."""
    session = Session(name)
    session.send(PCM)
    session.flush()
    deadline_s = session.protocol.next_deadline_s()
    for _ in range(100):
        if deadline_s is None:
            break
        session.protocol.handle_deadline(now_s=deadline_s)
        before_s, deadline_s = deadline_s, session.protocol.next_deadline_s()
        assert deadline_s is None or deadline_s > before_s
    session.finish()
    assert session.protocol.next_deadline_s() is None


@each_provider
def test_a_deadline_handled_early_changes_nothing(name: str) -> None:
    """Timers may fire a little before their time."""
    protocol = PROVIDERS[name].accounts[0].open_protocol(REQUEST)
    protocol.messages_to_open()
    protocol.audio_to_send(memoryview(PCM[:640]), now_s=100.0)
    deadline_s = protocol.next_deadline_s()
    early_s = 101.0 if deadline_s is None else deadline_s - 0.001

    assert list(protocol.handle_deadline(now_s=early_s)) == []
    assert protocol.next_deadline_s() == deadline_s


@each_provider
def test_unknown_fields_change_nothing(name: str) -> None:
    """A newer provider may say more."""
    assert play(name, PCM, edit=add_field).results == play(name, PCM).results


@each_provider
@given(garbage=st.text() | st.binary(), is_open=st.booleans())
def test_garbage_raises_a_protocol_error_and_nothing_else(
    name: str,
    garbage: str | bytes,
    is_open: bool,  # noqa: FBT001 - named by hypothesis
) -> None:
    """It ends one session, not the worker; and nothing of it gets into the error."""
    session = Session(name)
    if is_open:
        session.send(PCM)
    error: ProviderProtocolError | None = None
    try:
        session.protocol.receive_message(garbage, now_s=0.0)
    except ProviderProtocolError as raised:
        error = raised

    if error is not None:  # adapters that expect no messages may ignore them
        assert (error.provider, str(error)) == (name, f"{name}: {error.code}")
        assert error.__cause__ is None
    assert session.protocol.results_received() == []


@each_provider
@given(data=st.data())
def test_a_dropped_connection_yields_a_prefix(name: str, data: st.DataObject) -> None:
    """What arrived before the drop is right, and nothing else is made up."""
    whole = play(name, PCM)
    n_messages = data.draw(st.integers(0, len(whole.received)))
    protocol = PROVIDERS[name].accounts[0].open_protocol(REQUEST)
    protocol.messages_to_open()
    results: list[Result] = []
    if whole.received:
        protocol.audio_to_send(memoryview(PCM), now_s=0.0)
        protocol.finish(now_s=0.0)
    for message in whole.received[:n_messages]:
        protocol.receive_message(message, now_s=0.0)
        results += protocol.results_received()

    assert results == whole.results[: len(results)]
    is_whole = n_messages == len(whole.received)
    try:
        protocol.receive_close(None, now_s=0.0)
    except ProviderUnavailableError:
        assert not is_whole
    else:
        assert is_whole
    assert protocol.results_received() == []


@each_provider
def test_the_name_is_the_one_it_is_registered_by(name: str) -> None:
    """Routes, events and errors spell it the same."""
    assert PROVIDERS[name].accounts[0].open_protocol(REQUEST).name == name
